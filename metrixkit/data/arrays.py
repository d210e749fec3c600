"""Arrays that people keep embeddings and scores in: NumPy's, PyTorch's and safetensors' files, one reader for all."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError, listed, near_name

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")

_WITHIN = re.compile(r"(?P<file>.+\.(?:npz|pt|pth|safetensors))#(?P<key>.+)", re.IGNORECASE | re.DOTALL)


def read_matrix(path: str | Path, setting: str) -> np.ndarray:
    """Return a file's array of two dimensions of numbers.

    ``.npy`` is memory-mapped, and so is ``.pt``. Of a file with several arrays one is named behind its path:
    ``E.npz#train``. Nothing in a file is executed: object arrays and pickled classes are refused.

    Args:
        path: ``.npy``, ``.npz``, ``.pt`` or ``.pth`` (a tensor, or a mapping that holds one), ``.safetensors``.
        setting: The option that names it ("--embeddings"), for messages.

    Raises:
        InputError: It is absent or cannot be read, holds several arrays or none of that name, or has other than two
            dimensions of real numbers.
    """
    text = str(path)
    within = None if Path(text).is_file() else _WITHIN.fullmatch(text)
    file, key = (Path(within["file"]), within["key"]) if within else (Path(text), None)
    where = f"{setting} {text}"
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no such file"
        raise InputError(f"{where}: {what} (looked at {file.absolute()}); expected one of {', '.join(SUFFIXES)}.")
    try:
        found = _opened(file, key, where, setting)
    except InputError:
        raise
    except Exception as error:  # what the three libraries raise on damaged files is no closed list
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{where}: not readable as an array ({reason}). Forms: {', '.join(SUFFIXES)}.") from error
    array = _numbers(found)
    if array is None or array.ndim != 2 or array.dtype.kind not in "fiu":
        shape = f"{array.dtype} of shape {array.shape}" if array is not None else type(found).__name__
        raise InputError(f"{where}: expected an array of two dimensions of numbers (rows x dimensions), got {shape}.")
    return array


def _opened(file: Path, key: str | None, where: str, setting: str) -> Any:
    suffix = file.suffix.lower()
    if suffix in (".pt", ".pth"):
        # Files of old versions of PyTorch are no archives and cannot be mapped.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forms of pickle that are refused anyway
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        return _one_of(found, key, where, setting, file) if isinstance(found, Mapping) else found
    if suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _one_of(load_file(file), key, where, setting, file)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    if suffix == ".npz" and not zipfile.is_zipfile(file):  # asked first, since numpy leaves a broken file open
        raise ValueError("not an .npz file, or cut short")
    found = np.load(file, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.lib.npyio.NpzFile):
        with found:
            return found[_key(found.files, key, where, setting, file)]
    return found


def _one_of(found: Mapping[str, Any], key: str | None, where: str, setting: str, file: Path) -> Any:
    held = {str(name): value for name, value in found.items() if isinstance(value, Tensor | np.ndarray)}
    return held[_key(list(held), key, where, setting, file)]


def _key(names: list[str], key: str | None, where: str, setting: str, file: Path) -> str:
    if not names:
        raise InputError(f"{where}: holds no array.")
    if key is None and len(names) > 1:
        raise InputError(f"{where}: holds {len(names)} arrays, {listed(names)}; name one: {setting} {file}#{names[0]}.")
    if key is not None and key not in names:
        raise InputError(f"{where}: no array is called {key!r}; there are {listed(names)}.{near_name(key, names)}")
    return names[0] if key is None else key


def _numbers(found: Any) -> np.ndarray | None:
    """Return what was read as an array, or None if it is none."""
    if isinstance(found, Tensor):
        if found.layout != torch.strided:
            return None
        found = found.detach()
        return np.asarray((found.float() if found.dtype == torch.bfloat16 else found).numpy())
    return found if isinstance(found, np.ndarray) else None
