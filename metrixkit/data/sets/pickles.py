"""Published pickles, read without running what is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final, Literal

from metrixkit.errors import InputError

_PLAIN: Final = {
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "bytearray", "complex")
    ),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}
_ARRAYS: Final = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}


class _Restricted(pickle.Unpickler):
    """Builds containers, texts and numbers, and arrays where asked; looks up nothing else."""

    allowed: frozenset[tuple[str, str]] = frozenset()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which plain data does not need")


def load_pickle(path: str | Path, arrays: bool = False, encoding: Literal["bytes", "latin1"] = "bytes") -> Any:
    """Return what a pickle of plain data holds: containers, texts, bytes, numbers.

    Args:
        path: The file.
        arrays: Whether numpy arrays and numbers may be in it.
        encoding: What the texts of Python 2 become: bytes, since their encoding is not told, or text with a character
            a byte.

    Raises:
        InputError: Missing, broken, or it asks for anything else: such a file can run code when loaded, so it is not.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            unpickler = _Restricted(file, encoding=encoding)
            unpickler.allowed = frozenset(_PLAIN | _ARRAYS if arrays else _PLAIN)
            return unpickler.load()
    except FileNotFoundError:
        raise InputError(f"{path} is missing.") from None
    except Exception as error:  # whatever the broken bytes of a pickle lead to
        raise InputError(
            f"{path} is not a pickle of plain data ({error}). Pickles can run code, so nothing else is loaded; save it "
            "as JSON if you trust it."
        ) from error
