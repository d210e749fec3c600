"""A cache of what the embedded data sets draw: one folder a setting, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metrixkit.errors import InputError

logger = logging.getLogger(__name__)


def drawn_once(name: str, key: Mapping[str, Any], draw: Callable[[Path], None]) -> Path:
    """Return the folder with what `draw` wrote, below ``$METRIXKIT_CACHE`` or ``~/.cache/metrixkit``.

    Args:
        name: What the folder's name begins with.
        key: All that the content depends on; another key is another folder. Stands in it as ``settings.json``.
        draw: Fills the folder that it is given; called only if the folder is not there.

    Raises:
        InputError: The cache cannot be written.
    """
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    root = Path(os.environ.get("METRIXKIT_CACHE") or Path.home() / ".cache" / "metrixkit")
    folder = root / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    logger.info("drawing the %s into %s", name, folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{name}-{digest}-", dir=root))
    except OSError as error:
        raise InputError(
            f"{name}: cannot write the cache {root} ({error.strerror}). Set METRIXKIT_CACHE to a folder that can be "
            "written."
        ) from error
    try:
        draw(half)
        (half / "settings.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
        half.chmod(0o755)
        # A folder appears whole or not at all, and of two processes that draw at once the first one wins.
        half.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            raise InputError(f"{name}: cannot write the cache {folder} ({error.strerror}).") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder
