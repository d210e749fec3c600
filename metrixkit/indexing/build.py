"""Indexes in folders: built, added to, taken from, and given the threshold of a match."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from metrixkit.data.image_files import refuse_bytes
from metrixkit.embedding.images import load_image_model
from metrixkit.errors import InputError
from metrixkit.indexing import items as kept
from metrixkit.indexing.inputs import Given, refuse_other_model
from metrixkit.indexing.kind import Kind
from metrixkit.indexing.merge import build_from_shards
from metrixkit.indexing.shards import embed_shards, own_device, processes
from metrixkit.retrieval.index import RetrievalIndex, store
from metrixkit.source import read


def build_from_images(
    model: str,
    source: Sequence[str],
    out: str | Path,
    kind: Kind,
    batch_size: int = 128,
    splits: str | None = None,
) -> tuple[RetrievalIndex | None, tuple[str, ...]]:
    """Embed images and build an index of them; under torchrun each process embeds its share.

    Embeddings go to shards in ``.OUT.building`` beside OUT, so a killed build goes on where it was when the same
    command is given again; that folder is deleted at the end.

    Args:
        model: A run folder, a model folder, or a hub name.
        source: As ``metrixkit embed`` takes it; nothing for the run's own data.
        out: The index's folder: new, empty, or an index, which gets a new version.
        kind: What to build.
        batch_size: Images a forward call.
        splits: Which splits, as ``metrixkit embed`` takes them.

    Returns:
        The index, saved (None in every process but the first), and lines on what was read.

    Raises:
        InputError: No model, no images, a broken image, a kind that does not fit, or a folder that cannot be written.
    """
    out = Path(out)
    refuse_foreign(out)
    with processes():
        found = read(source, model, splits)
        items = found.items
        embedder = load_image_model(model, own_device())
        work = out.absolute().with_name(f".{out.absolute().name}.building")
        embed_shards(embedder, items, work, batch_size, found.decode(embedder.encoder.image_size))
        index = build_from_shards(items, work, embedder.embedding_dim, kind, embedder.fingerprint, _place(model))
        if index is None:
            return None, ()
        _publish(index, out, items)
        shutil.rmtree(work, ignore_errors=True)
        return RetrievalIndex.load(out, verify=False), found.said


def build_from_embeddings(given: Given, out: str | Path, kind: Kind) -> RetrievalIndex:
    """Build an index of embeddings at hand; arguments and errors as :func:`build_from_images`."""
    out = Path(out)
    refuse_foreign(out)
    index = RetrievalIndex.build(
        given.vectors,
        given.ids,
        kind.factory,
        kind.metric,
        labels=given.labels,
        model_fingerprint=given.fingerprint,
        notes={"model": _place(given.model)},
        seed=kind.seed,
        memory_budget=kind.memory_budget,
        latency_budget_ms=kind.latency_budget_ms,
    )
    _publish(index, out, given.items)
    return RetrievalIndex.load(out, verify=False)


def add(folder: str | Path, given: Given, replace: bool = False) -> tuple[RetrievalIndex, list[str]]:
    """Add items to an index and save it as a new version.

    Args:
        folder: The index.
        given: What to add.
        replace: Whether ids that are there already get new vectors; otherwise they are refused.

    Returns:
        The index, and what there is to say.

    Raises:
        InputError: No index, another model, ids that are there already, bad rows. The index stays as it was.
    """
    folder = Path(folder)
    index = RetrievalIndex.load(folder)
    note = refuse_other_model(index.model_fingerprint, given.fingerprint, str(folder))
    known = given.items["id"].isin(set(index.ids.tolist())).to_numpy()
    said = [*given.said, *([note] if note else [])]
    if replace and known.any():
        labels = None if index.labels is None or given.labels is None else given.items["label"][known].tolist()
        index.update(given.vectors[known], given.items["id"][known].tolist(), labels)
        said.append(f"{int(known.sum())} items replaced")
    new = ~known if replace else slice(None)
    fresh = given.items[new]
    if len(fresh):
        # The index decides whether labels are kept; of items without any the label is "".
        index.add(given.vectors[new], fresh["id"].tolist(), None if index.labels is None else fresh["label"].tolist())
    said.append(f"{len(fresh)} items added")
    _save(index, folder, given.items)
    return index, said


def remove(folder: str | Path, ids: Sequence[str], compact: bool = False) -> tuple[RetrievalIndex, list[str]]:
    """Remove items from an index and save it as a new version.

    Args:
        folder: The index.
        ids: What to remove; all of them must be there.
        compact: Whether to rebuild the index without what is only marked as removed.

    Returns:
        The index, and what there is to say.

    Raises:
        InputError: No index, or an unknown id. The index stays as it was.
    """
    folder = Path(folder)
    index = RetrievalIndex.load(folder)
    had = index.ids.tolist()
    if ids:
        index.remove(list(ids))
    said = [f"{len(ids)} items removed"]
    if compact:
        said.append(f"{index.compact()} removed vectors cleared out")
    _save(index, folder, None)
    # The version before still has the old items, and its readers want their images.
    kept.prune_items(folder, had)
    return index, said


def set_threshold(
    folder: str | Path, given: Given, rate: float, strangers: bool, force: bool = False
) -> RetrievalIndex:
    """Set the score below which the answer is "no match", and save it as a new version.

    Args:
        folder: The index.
        given: Validation embeddings; with labels unless they are strangers.
        rate: Share in (0, 1) of queries without a counterpart that may be matched all the same.
        strangers: Whether nothing of `given` is in the index; it is then searched there.
        force: Also store one that rejects more than half of the right answers.

    Raises:
        InputError: No index, another model, too few rows to tell such a rate, or most right answers rejected.
    """
    folder = Path(folder)
    index = RetrievalIndex.load(folder)
    refuse_other_model(index.model_fingerprint, given.fingerprint, str(folder))
    if strangers:
        index.set_threshold(rate, strangers=given.vectors, force=force)
    else:
        index.set_threshold(rate, embeddings=given.vectors, labels=given.labels, force=force)
    _save(index, folder, None)
    return index


def set_parameters(folder: str | Path, text: str) -> str:
    """Give an index search parameters ("nprobe=16"), save it as a new version, and return all that are in force."""
    index = RetrievalIndex.load(folder)
    index.set_parameters(text)
    _save(index, Path(folder), None)
    return ",".join(f"{name}={value}" for name, value in index.parameters.items())


def refuse_foreign(out: Path) -> None:
    """Raise InputError where `out` holds something other than an index: before the work, not after it."""
    refuse_bytes([str(out)], "--out")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; expected a folder for the index.")
    if out.is_dir() and not (out / "CURRENT").exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: holds other things and no index. Give a new folder, or that of an index.")


def _publish(index: RetrievalIndex, out: Path, items: pd.DataFrame) -> None:
    """Save a new index; a new folder appears with everything in it or not at all."""
    if (out / "CURRENT").exists():
        _save(index, out, items)
        return
    half = out.absolute().with_name(f".{out.absolute().name}.saving-{os.getpid()}-{time.time_ns()}")
    for old in half.parent.glob(f".{glob.escape(out.absolute().name)}.saving-*"):  # what killed builds left
        if time.time() - old.stat().st_mtime > store.ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    try:
        index.save(half)
        kept.keep_items(half, items)
        os.replace(half, out)  # also onto an empty folder
    except OSError as error:
        if (out / "CURRENT").exists():  # another build was faster; this one is the next version
            _save(index, out, items)
            return
        raise _unwritten(out, error) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _save(index: RetrievalIndex, folder: Path, items: pd.DataFrame | None) -> None:
    try:
        if items is not None:
            kept.keep_items(folder, items)
        index.save(folder)
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write {folder}: {error.strerror or error}. Whatever was there before is as it was; make room, or give "
        "another folder by --out."
    )


def _place(model: str | None) -> str | None:
    return None if model is None else str(Path(model).absolute()) if Path(model).exists() else model
