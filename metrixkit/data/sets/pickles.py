"""Published pickles, read without running what is in them."""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from metrixkit.errors import InputError

_PLAIN: Final = {
    **{(module, name): name for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "complex")},
    **{(module, name): name for module in ("builtins", "__builtin__") for name in ("bytearray", "bytes")},
    ("collections", "OrderedDict"): "OrderedDict",
    ("_codecs", "encode"): "encode",
}
_ARRAYS: Final = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
}


class _Restricted(pickle.Unpickler):
    """Builds containers, texts and numbers, and arrays where asked; looks up nothing else.

    What a pickle asks for is answered by stand-ins: numpy's own take any state, and some lead them out of their memory.
    """

    allowed: Mapping[tuple[str, str], str] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return _STAND_INS[self.allowed[module, name]]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data does not need")


class _Type:
    """A dtype of numbers or texts in the making."""

    def __init__(self, code: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not re.fullmatch(r"[<>=|]?[biufcSU]\d{1,9}|[?]", text):
            raise pickle.UnpicklingError(f"arrays of {code!r} are no plain numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; the rest tells of types that are not plain."""
        _, order, *structure = state
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(part is not None for part in structure[:3]):
            raise pickle.UnpicklingError("its arrays have fields, and are no plain numbers")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype  # type: ignore[arg-type]


class _Array(np.ndarray):
    """An array in the making, which takes a state that fits and no other."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        super().__setstate__((1, *_checked(shape, kind), bool(fortran), _content(content, shape, kind)))  # type: ignore[arg-type]


def _checked(shape: Any, kind: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if not isinstance(kind, _Type) or not isinstance(shape, tuple) or len(shape) > 32:
        raise pickle.UnpicklingError("an array of it has no shape or no type")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise pickle.UnpicklingError(f"an array of it has the shape {shape!r}")
    return shape, kind.dtype


def _content(content: Any, shape: Any, kind: Any) -> bytes:
    sides, dtype = _checked(shape, kind)
    found = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(found, bytes | bytearray) or len(found) != math.prod(sides) * dtype.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {sides} and type {dtype} does not hold what it should")
    return bytes(found)


def _reconstruct(*_: Any) -> Any:
    return np.empty(0, np.int8).view(_Array)


def _frombuffer(content: Any, kind: Any, shape: Any, order: Any = "C") -> Any:
    found = np.frombuffer(_content(content, shape, kind), kind.dtype)
    return found.reshape(shape, order="F" if order == "F" else "C").copy(order="K").view(_Array)


def _scalar(kind: Any, content: Any) -> Any:
    return np.frombuffer(_content(content, (), kind), kind.dtype)[0]


def _bytearray(content: Any = b"", *encoding: Any) -> bytearray:
    # A number would be a length.
    return bytearray(_encode(content, *encoding) if isinstance(content, str) else bytes(memoryview(content)))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return str(text).encode(encoding)


_STAND_INS: Final[dict[str, Any]] = {
    "set": set,
    "frozenset": frozenset,
    "complex": complex,
    "OrderedDict": OrderedDict,
    "bytearray": _bytearray,
    "bytes": lambda *content: bytes(_bytearray(*content)),
    "encode": _encode,
    "ndarray": "ndarray",  # an argument of _reconstruct, nothing to be called
    "dtype": lambda code, *_: _Type(code),
    "_reconstruct": _reconstruct,
    "_frombuffer": _frombuffer,
    "scalar": _scalar,
}


def _check_places(path: Path) -> None:
    """Raise where a pickle keeps something at a place far beyond what it holds: the reader would make room for all."""
    with path.open("rb") as file:
        for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > number + 256:
                raise pickle.UnpicklingError(f"it keeps its {number}th part at place {argument}")


def _settled(value: Any, seen: set[int]) -> Any:
    """Return a loaded value with plain arrays in it."""
    if isinstance(value, _Array):
        return value.view(np.ndarray)
    if isinstance(value, _Type):
        return value.dtype
    if isinstance(value, tuple):
        return tuple(_settled(inner, seen) for inner in value)
    if isinstance(value, dict | list) and id(value) not in seen:
        seen.add(id(value))
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _settled(inner, seen)  # type: ignore[index]
    return value


def load_pickle(path: str | Path, arrays: bool = False, encoding: Literal["bytes", "latin1"] = "bytes") -> Any:
    """Return what a pickle of plain data holds: containers, texts, bytes, numbers.

    Args:
        path: The file.
        arrays: Whether numpy arrays and numbers may be in it; of numbers and texts, never of objects.
        encoding: What the texts of Python 2 become: bytes, since their encoding is not told, or text with a character
            a byte.

    Raises:
        InputError: Missing, broken, or it asks for anything else: such a file can run code when loaded, so it is not.
    """
    path = Path(path)
    try:
        _check_places(path)
        with path.open("rb") as file:
            unpickler = _Restricted(file, encoding=encoding)
            unpickler.allowed = _PLAIN | _ARRAYS if arrays else _PLAIN
            return _settled(unpickler.load(), set())
    except FileNotFoundError:
        raise InputError(f"{path} is missing.") from None
    except Exception as error:  # whatever the broken bytes of a pickle lead to
        raise InputError(
            f"{path} is not a pickle of plain data ({error}). Pickles can run code, so nothing else is loaded; save it "
            "as JSON if you trust it."
        ) from error
