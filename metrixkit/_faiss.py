"""The one import of faiss: late, after torch, and only if a single faiss is installed.

Two packages that bring a module called faiss overwrite one another's files and crash later and elsewhere; faiss loaded
before torch may bring another OpenMP runtime along.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from types import ModuleType

import torch  # noqa: F401  (first, see above)

from metrixkit.errors import InputError

_INSTALL = "pip install 'metrixkit[cpu]' (or [gpu], [cuvs]; one of them)"


def load_faiss() -> ModuleType:
    """Return the module ``faiss``.

    Raises:
        InputError: It is absent, broken, or there are two distributions of it; the message holds the pip lines.
    """
    installed = distributions()
    if len(installed) > 1:
        keep, *rest = installed
        raise InputError(
            f"{len(installed)} packages bring faiss and overwrite one another: {', '.join(installed)}. Remove all and "
            f"install one: pip uninstall -y {' '.join(installed)}; pip install {keep} (or {', '.join(rest)})."
        )
    try:
        with warnings.catch_warnings():
            # Its SWIG types lack a __module__; nothing its user could mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("faiss")
    except ImportError as error:
        reason = "faiss is not installed" if not installed else f"{installed[0]} cannot be imported ({error})"
        raise InputError(f"{reason}; the index and CLIM need it: {_INSTALL}.") from error


def distributions() -> list[str]:
    """Return the names of the installed distributions that bring the module faiss, sorted."""
    names = {str(found.metadata["Name"]).lower().replace("_", "-") for found in importlib.metadata.distributions()}
    # "faiss" is conda's; others (faiss-cpu, faiss-gpu, faiss-gpu-cu12, faiss-gpu-cuvs, ...) say for which device.
    return sorted(n for n in names if n == "faiss" or n.startswith(("faiss-cpu", "faiss-gpu")))
