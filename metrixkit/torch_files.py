"""Files that torch.save wrote, read without running anything that stands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metrixkit.errors import InputError

_REFUSED = re.compile(r"Unsupported (?:global|class|operand).*?(?:GLOBAL )?([\w.]+) was not an allowed global")


class _NumberType:
    """What a pickled ``numpy.dtype`` may be here: a number. No object, text or record is ever made from a file."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = str(state[1])


def _number(kind: _NumberType, raw: bytes) -> int | float | bool:
    """Return the number that a pickled numpy scalar is."""
    order = {"|": "", "=": ""}.get(kind.order, kind.order)
    if not isinstance(raw, bytes) or not re.fullmatch(r"[biuf][1248]", kind.code) or order not in ("", "<", ">"):
        raise InputError(f"a numpy value of type {kind.code!r} is no number")
    (value,) = np.frombuffer(raw, order + kind.code)
    return value.item()  # type: ignore[no-any-return]


# Training scripts keep best_acc as np.float64 beside the weights. Under the names of numpy stand our own two, which can
# make a number and nothing else.
_NUMBERS = [
    (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),
    (_NumberType, "numpy.dtype"),
]


def load_torch_file(path: str | Path, mmap: bool = False) -> Any:
    """Return what torch.save wrote into a file: tensors, numbers, texts and plain containers of these, on the CPU.

    Args:
        path: The file.
        mmap: Map the tensors instead of reading them; for zip files only, which all are since torch 1.6.

    Raises:
        InputError: It is broken, or holds something else (a whole model, an object); says what.
    """
    try:
        with torch.serialization.safe_globals(_NUMBERS):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}.") from None
    except Exception as error:  # zip, pickle and runtime errors, by what is broken
        raise InputError(f"{path} cannot be read as tensors ({_reason(error)}).") from error


def _reason(error: Exception) -> str:
    """Return the cause without torch's advice to run the file's code, which is many lines with escape codes."""
    refused = _REFUSED.search(str(error))
    if refused:
        return f"it holds a {refused[1]}, which is no tensor, number or text"
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return text.splitlines()[0] if text else type(error).__name__
