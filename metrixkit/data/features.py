"""Features on disk, of videos, sounds or texts: one array an id, read when asked for.

References are strings, so that a manifest can hold them: ``ID.npy``, ``ID.npz`` (its only array), ``array.npy#17``,
``file.npz#key``, ``file.h5#group/key``.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.frame_times import sample_indices
from metrixkit.data.tables import read_names
from metrixkit.errors import InputError, near_name

_WITHIN: Final = re.compile(r"(?P<file>.+\.(?:npy|npz|h5|hdf5))#(?P<key>.+)", re.IGNORECASE | re.DOTALL)
_H5: Final = (".h5", ".hdf5")


class Features:
    """Id to features, a sequence (T, D) of float32 for each; a single vector (D,) is a sequence of one.

    Nothing is loaded before it is asked for: ``.npy`` is memory-mapped, members of ``.npz`` and ``.h5`` are read one by
    one.

    Args:
        references: Id to what :func:`read_features` takes, in the order of the ids.
        path: Where they come from, for messages.
    """

    def __init__(self, references: dict[str, str], path: Path) -> None:
        if not references:
            raise InputError(f"features {path}: there are none.")
        self.references, self.path = references, path
        self._dim: int | None = None

    @classmethod
    def open(cls, path: str | Path, ids: str | Path | None = None) -> Features:
        """Open features of any form.

        Args:
            path: A folder of ``ID.npy`` (or ``ID.npz`` with one array), searched with all folders below: the id is the
                path below the folder without its suffix. Or a ``.npz`` or ``.h5`` keyed by id. Or ``E.npy``, (N, D) or
                (N, T, D), row i of which belongs to the i-th id.
            ids: For ``E.npy``: a text file with an id a line, or a table with a column ``id`` (else its first column).
                None takes ``E.txt``, ``E.csv``, ``ids.txt``, ``ids.csv`` or ``table.csv`` beside it.

        Raises:
            InputError: Nothing is there, of another form, or its ids do not fit its rows.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.np[yz]") if not file.name.startswith("."))
            return cls(
                _unique(((file.relative_to(path).with_suffix("").as_posix(), str(file)) for file in found), path), path
            )
        if not path.is_file():
            raise InputError(f"features {path}: no such file or folder (looked at {path.absolute()}).")
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return cls(_unique(((key, f"{path}#{row}") for row, key in enumerate(_row_ids(path, ids))), path), path)
        if suffix == ".npz":
            return cls({key: f"{path}#{key}" for key in _npz(str(path), *_state(str(path))).files}, path)
        if suffix in _H5:
            return cls({key: f"{path}#{key}" for key in _h5_keys(_h5(str(path), *_state(str(path))))}, path)
        raise InputError(
            f"features {path}: expected a folder of ID.npy, a .npz or .h5 keyed by id, or a .npy and its ids."
        )

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.references)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids."""
        return iter(self.references)

    def __contains__(self, key: object) -> bool:
        """Return whether there are features of this id."""
        return key in self.references

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        """Return the features of an id, (T, D) float32.

        Raises:
            InputError: No such id; NaN or infinite values; not one or two dimensions; a D that differs
                from that of the ids read before.
        """
        if key not in self.references:
            raise InputError(f"features {self.path}: none of id {key!r}.{_near(key, self.references)}")
        found = read_features(self.references[key])
        if self._dim is None:
            self._dim = found.shape[1]
        if found.shape[1] != self._dim:
            raise InputError(f"features {self.path}: id {key!r} has dimension {found.shape[1]}, others {self._dim}.")
        return found

    @property
    def dim(self) -> int:
        """The dimension D of every feature vector."""
        if self._dim is None:
            _ = self[next(iter(self.references))]
        assert self._dim is not None
        return self._dim

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that have no features, in their order."""
        return [key for key in ids if key not in self.references]

    def lengths(self) -> dict[str, int]:
        """Return the number of vectors T of each id."""
        return {key: len(self[key]) for key in self.references}

    def problems(self) -> list[str]:
        """Read everything; return a line for each id whose features cannot be used."""
        found = []
        for key in self.references:
            try:
                _ = self[key]
            except InputError as error:
                found.append(str(error))
        return found


def read_features(reference: str) -> NDArray[np.float32]:
    """Return one id's features.

    Args:
        reference: ``ID.npy``, ``ID.npz`` (its only array), ``array.npy#17``, ``file.npz#key`` or ``file.h5#key``.

    Returns:
        (T, D) float32, the caller's own memory; a vector comes as (1, D).

    Raises:
        InputError: Missing or unreadable, another number of dimensions, no vector, NaN or infinite values.
    """
    within = _WITHIN.fullmatch(reference)
    path, key = (within["file"], within["key"]) if within else (reference, None)
    if not os.path.isfile(path):
        raise InputError(f"features {reference}: no such file.")
    try:
        raw = _raw(path, key)
        found = np.array(raw, dtype=np.float32)
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError) as error:
        raise InputError(f"features {reference}: cannot be read as numbers ({error}).") from error
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2 or 0 in found.shape:
        raise InputError(f"features {reference}: expected (T, D) or (D,), none of them 0, got {np.shape(raw)}.")
    if not np.isfinite(found).all():
        bad = int(np.argmax(~np.isfinite(found).all(axis=1)))
        raise InputError(f"features {reference}: row {bad} of {len(found)} holds NaN or infinite values.")
    return found


def pad_features(sequences: Sequence[Tensor | NDArray], max_length: int | None = None) -> tuple[Tensor, Tensor]:
    """Put sequences of unequal length into one batch, zeros behind the shorter ones.

    Args:
        sequences: B of shape (T_i, ...), all alike behind the first dimension: features (T, D), frames (T, 3, H, W).
        max_length: Longer sequences are thinned to it, evenly and with both ends; None keeps all.

    Returns:
        (B, T, ...) of the sequences' type, T being the longest, and the mask (B, T) bool, true where a vector stands.

    Raises:
        InputError: No sequences, an empty one, or unlike shapes.
    """
    if not len(sequences):
        raise InputError("no sequences to put into a batch.")
    tensors = [torch.as_tensor(sequence) for sequence in sequences]
    if max_length is not None:
        tensors = [
            t if len(t) <= max_length else t[torch.from_numpy(sample_indices(len(t), max_length))] for t in tensors
        ]
    rest = tensors[0].shape[1:]
    for number, tensor in enumerate(tensors):
        if tensor.ndim < 1 or len(tensor) == 0 or tensor.shape[1:] != rest:
            raise InputError(
                f"sequence {number} has shape {tuple(tensor.shape)}, expected (1 or more, *{tuple(rest)})."
            )
    longest = max(len(tensor) for tensor in tensors)
    batch = tensors[0].new_zeros((len(tensors), longest, *rest))
    mask = torch.zeros(len(tensors), longest, dtype=torch.bool)
    for row, tensor in enumerate(tensors):
        batch[row, : len(tensor)] = tensor
        mask[row, : len(tensor)] = True
    return batch, mask


def _raw(path: str, key: str | None) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        array = _npy(path, *_state(path)) if key is not None else np.load(path, mmap_mode="r", allow_pickle=False)
        return array if key is None else array[int(key)]
    if suffix == ".npz":
        file = _npz(path, *_state(path))
        if key is None and len(file.files) != 1:
            raise ValueError(f"it holds {len(file.files)} arrays, one was expected")
        return file[file.files[0] if key is None else key]
    if suffix in _H5 and key is not None:
        return _h5(path, *_state(path))[key][()]
    raise ValueError("not .npy, .npz#key or .h5#key")


def _state(path: str) -> tuple[int, int]:
    # Open files are not shared between processes, whose reads would move one another's place, nor kept once changed.
    return os.getpid(), os.stat(path).st_mtime_ns


@lru_cache(maxsize=16)
def _npy(path: str, pid: int, changed: int) -> NDArray:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


@lru_cache(maxsize=16)
def _npz(path: str, pid: int, changed: int) -> Any:
    # Asked first, since numpy leaves a broken file open.
    if not zipfile.is_zipfile(path):
        raise InputError(f"features {path}: not an .npz file, or cut short.")
    return np.load(path, allow_pickle=False)


@lru_cache(maxsize=16)
def _h5(path: str, pid: int, changed: int) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"features {path}: reading HDF5 needs h5py (pip install h5py).") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"features {path}: not an HDF5 file ({error}).") from error


def _h5_keys(file: Any) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if hasattr(node, "shape") else None)
    return found


def _row_ids(path: Path, ids: str | Path | None) -> list[str]:
    beside = [
        path.with_suffix(".txt"),
        path.with_suffix(".csv"),
        *(path.parent / n for n in ("ids.txt", "ids.csv", "table.csv")),
    ]
    listed = [Path(ids).expanduser()] if ids is not None else [file for file in beside if file.is_file()]
    if not listed:
        raise InputError(
            f"features {path}: the ids of its rows are missing; expected one of {', '.join(f.name for f in beside)}."
        )
    file = listed[0]
    found = read_names(file, f"features {path}: the ids")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"features {path}: not an array ({error}).") from error
    if array.ndim not in (2, 3) or len(array) != len(found):
        raise InputError(
            f"features {path}: shape {array.shape}, but {file} has {len(found)} ids; expected a row an id."
        )
    return found


def _unique(pairs: Iterator[tuple[str, str]], path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, reference in pairs:
        if key in found:
            raise InputError(f"features {path}: id {key!r} is there twice ({found[key]} and {reference}).")
        found[key] = reference
    return found


def _near(key: str, ids: dict[str, str]) -> str:
    return near_name(key, ids) or f" There are {len(ids):,} ids."
