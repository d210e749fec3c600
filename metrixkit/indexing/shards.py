"""Embeddings of many images, a shard at a time: memory stays that of a shard, and a killed build goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.loader import default_workers, eval_loader
from metrixkit.distributed import rank, world_size
from metrixkit.embedding.images import EmbeddingModel
from metrixkit.errors import InputError
from metrixkit.files import replacing, write_json
from metrixkit.inference import evaluating

SHARD = 16_384  # images; one shard is held in memory
KEY = "source.json"


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; leave them again at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    # The first one done waits for the last, and embedding may take days.
    dist.init_process_group("gloo", timeout=timedelta(days=7))
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process is here.

    Raises:
        InputError: One of them has gone; its own message says why.
    """
    if world_size() == 1:
        return
    try:
        dist.barrier()
    except RuntimeError as error:
        raise InputError("another process of this build has failed; its message says why.") from error


def own_device() -> torch.device:
    """Return the accelerator that is this process's on its machine, or the processor."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def embed_shards(
    embedder: EmbeddingModel,
    items: pd.DataFrame,
    folder: Path,
    batch_size: int = 128,
    decode: Callable[[Any], Tensor] = decode_file,
) -> None:
    """Embed items into ``shard-00000.npy``, ...: what is there already from a build of the same is not made again.

    Process r of w embeds the shards r, r + w, ..., so a build may continue with another number of processes.

    Args:
        embedder: The model; it has to be the same in all processes.
        items: Rows with id, path and label, the same in all processes.
        folder: Seen by all processes; made if needed. Shards of other items or another model are deleted.
        batch_size: Images a forward call.
        decode: Reads an image from its path.

    Raises:
        InputError: A broken image, or a folder that cannot be written.
    """
    if batch_size < 1:
        raise InputError(f"batch_size {batch_size}: expected at least 1.")
    if rank() == 0:
        _settle(folder, _key(embedder, items))
    wait_for_all()
    mine = [start // SHARD for start, _ in my_shards(len(items))]
    todo = [n for n in mine if not _shard(folder, n).exists()]
    count = sum(min(SHARD, len(items) - n * SHARD) for n in todo)
    quiet = rank() != 0 or not sys.stderr.isatty()
    with tqdm(total=count, desc="embedding", disable=quiet, leave=False, dynamic_ncols=True) as bar:
        for number in todo:
            part = items.iloc[number * SHARD : (number + 1) * SHARD].reset_index(drop=True)
            rows = _embed(embedder, part, batch_size, bar, decode)
            with replacing(_shard(folder, number)) as file:
                np.save(file, rows)
    wait_for_all()


def my_shards(count: int) -> list[tuple[int, int]]:
    """Return first and last + 1 item of the shards that are this process's, of `count` items."""
    return [(a, min(a + SHARD, count)) for a in range(rank() * SHARD, count, world_size() * SHARD)]


def joined(folder: Path, count: int) -> np.ndarray:
    """Return all shards as one (count, d) float32 memory map, ``embeddings.npy`` in the folder."""
    whole = folder / "embeddings.npy"
    if not whole.exists():
        _join(folder, count, whole)
    return np.load(whole, mmap_mode="r")  # type: ignore[no-any-return]


def _join(folder: Path, count: int, target: Path) -> None:
    dim = np.load(_shard(folder, 0), mmap_mode="r").shape[1]
    told = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
    # Written and not mapped: where the disk is full a mapped file kills the process (SIGBUS).
    with replacing(target) as file:
        np.lib.format.write_array_header_2_0(file, told)
        for number, _ in enumerate(range(0, count, SHARD)):
            file.write(np.load(_shard(folder, number)).astype("<f4", copy=False).data)


@torch.no_grad()
def _embed(
    embedder: EmbeddingModel, items: pd.DataFrame, batch_size: int, bar: tqdm, decode: Callable[[Any], Tensor]
) -> np.ndarray:
    workers = min(default_workers(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), len(items) // 256)
    rows = np.empty((len(items), embedder.embedding_dim), dtype=np.float32)
    start = 0
    with evaluating(embedder.encoder):
        for batch in eval_loader(items, embedder.transform, batch_size=batch_size, workers=workers, decode=decode):
            vectors = embedder.encoder(batch.views[0].to(embedder.device, non_blocking=True)).float().cpu().numpy()
            rows[start : start + len(vectors)] = vectors
            start += len(vectors)
            bar.update(len(vectors))
    return rows


def _key(embedder: EmbeddingModel, items: pd.DataFrame) -> dict[str, object]:
    listed = hashlib.sha256()
    for name, path in zip(items["id"], items["path"], strict=True):
        listed.update(f"{len(name)} {name} {path}\n".encode(errors="surrogatepass"))
    return {"fingerprint": embedder.fingerprint, "items": listed.hexdigest(), "count": len(items), "shard": SHARD}


def _settle(folder: Path, key: dict[str, object]) -> None:
    """Leave the folder with the key, and with no shard that was made under another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / KEY
        if not known.exists() or json.loads(known.read_text(encoding="utf-8")) != key:
            for old in [*folder.glob("shard-*.npy"), *folder.glob("embeddings.npy")]:
                old.unlink()
            write_json(known, key)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}.") from error


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.npy"
