"""faiss, looked for once: the search for packages that overwrite one another takes a tenth of a second."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from metrixkit._faiss import load_faiss


@cache
def faiss_library() -> ModuleType:
    """Return the module ``faiss``.

    Raises:
        InputError: As :func:`metrixkit._faiss.load_faiss`.
    """
    return load_faiss()
