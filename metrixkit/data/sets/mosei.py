"""CMU-MOSEI and CMU-MOSI as aligned pickles: 50 steps of text, audio and vision, and a sentiment in [-3, 3]."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.roots import Source, find_folder
from metrixkit.data.sets.drawn import drawn_once
from metrixkit.data.sets.pickles import load_pickle
from metrixkit.errors import InputError

_FORMAT = 1
_MODALITIES = ("text", "audio", "vision")
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_NO_TEXTS = pd.DataFrame({name: pd.Series(dtype="str") for name in ("id", "caption", "item", "split")})


class Mosei:
    """The pickles that MulT distributed and GMC uses: ``{train,valid,test}{text,audio,vision,labels,id}``.

    They are read without running what is in them, and written once as arrays below ``$METRIXKIT_CACHE`` or
    ``~/.cache/metrixkit``. The column ``target`` holds the sentiment. Infinite numbers (minus infinity stands in the
    audio) become 0, as everywhere where these files are used.

    Args:
        path: The pickle, ``mosei_data.pkl`` or ``mosi_data.pkl``; None searches the data roots for the first.
        name: Of the data set, for result files.
    """

    source: ClassVar[Source] = Source(
        title="CMU-MOSEI, aligned",
        folders=("mosei", "CMU_MOSEI"),
        markers=("mosei_data.pkl",),
        origin="the aligned data of the repository yaohungt/Multimodal-Transformer (see the licence of CMU-MOSEI)",
        card="datasets/mosei.md",
    )

    def __init__(self, path: str | None = None, name: str = "mosei") -> None:
        self.path, self.name = path, name

    def read(self) -> PairManifest:
        """Return the manifest.

        Raises:
            InputError: No such file; a pickle that asks for more than plain arrays; parts missing or of unlike length;
                NaN.
        """
        path = (find_folder(self.source) / "mosei_data.pkl") if self.path is None else Path(self.path).expanduser()
        if not path.is_file():
            raise InputError(f"{self.name}: {path.absolute()} does not exist. Get it from {self.source.origin}.")
        state = path.stat()
        key = {"format": _FORMAT, "file": str(path.absolute()), "size": state.st_size, "changed": state.st_mtime_ns}
        folder = drawn_once(f"aligned-{self.name}", key, lambda place: convert(path, place))
        items = pd.read_csv(folder / "items.csv", dtype=str, keep_default_na=False, encoding="utf-8")
        for name in _MODALITIES:
            items[name] = [f"{folder / f'{name}.npy'}#{row}" for row in range(len(items))]
        return PairManifest(
            self.name,
            "standard",
            items.astype("str"),
            _NO_TEXTS.copy(),
            dict.fromkeys(_MODALITIES, "features"),
            path.parent,
        )


def convert(path: Path, folder: Path) -> None:
    """Write the arrays of a pickle as ``text.npy``, ``audio.npy``, ``vision.npy`` and ``items.csv``.

    Raises:
        InputError: See :meth:`Mosei.read`.
    """
    content = load_pickle(path, arrays=True, encoding="latin1")
    rows: list[tuple[str, str, str]] = []
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in _MODALITIES}
    for key, split in _SPLITS.items():
        part = _part(content, key, path)
        labels = np.asarray(part["labels"], dtype=np.float64).reshape(-1)
        count = len(labels)
        if not np.isfinite(labels).all():
            raise InputError(f"{path}: {key}/labels holds numbers that are not finite.")
        for name in _MODALITIES:
            parts[name].append(_sequences(part[name], count, f"{path}: {key}/{name}"))
        ids = _names(part.get("id"), count, key)
        rows += [(name, split, repr(float(value))) for name, value in zip(ids, labels, strict=True)]
    for name, found in parts.items():
        shapes = {array.shape[1:] for array in found}
        if len(shapes) > 1:
            raise InputError(f"{path}: the splits of {name} have unlike shapes {sorted(shapes)}.")
        np.save(folder / f"{name}.npy", np.concatenate(found))
    pd.DataFrame(rows, columns=["id", "split", "target"]).to_csv(folder / "items.csv", index=False, encoding="utf-8")


def _part(content: Any, key: str, path: Path) -> dict[str, Any]:
    part = content.get(key) if isinstance(content, dict) else None
    lacking = [n for n in (*_MODALITIES, "labels") if not isinstance(part, dict) or n not in part]
    if lacking or not isinstance(part, dict):
        raise InputError(
            f"{path}: {key!r} has no {lacking}; expected a dictionary of train, valid and test, each with text, audio, "
            "vision and labels."
        )
    return part


def _sequences(values: Any, count: int, where: str) -> NDArray[np.float32]:
    array = np.array(values, dtype=np.float32)
    if array.ndim != 3 or len(array) != count or 0 in array.shape:
        raise InputError(f"{where} has shape {array.shape}, expected ({count}, steps, dimensions).")
    if np.isnan(array).any():
        raise InputError(f"{where} holds NaN (item {int(np.isnan(array).any(axis=(1, 2)).argmax())}).")
    array[~np.isfinite(array)] = 0.0
    return array


def _names(ids: Any, count: int, split: str) -> list[str]:
    """Return unique names: split, running number, and what the file says first of an item."""
    if ids is None or len(ids) != count:
        return [f"{split}/{row}" for row in range(count)]
    told = [np.asarray(entry).reshape(-1)[0] for entry in ids]
    words = [entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry) for entry in told]
    return [f"{split}/{row}/{word}" for row, word in enumerate(words)]
