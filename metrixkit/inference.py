"""From items to embeddings: evaluation mode, no gradient, sharded over processes, in the order of the items."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.loader import eval_loader
from metrixkit.distributed import gather, rank, world_size


def default_device() -> torch.device:
    """Return the first accelerator, or the processor where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode; afterwards it is in the mode it was in."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


@torch.no_grad()
def embed_items(
    encoder: nn.Module,
    items: pd.DataFrame,
    transform: Callable[[Tensor], Tensor],
    *,
    batch_size: int = 128,
    workers: int = 0,
    decode: Callable[[Any], Tensor] = decode_file,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    title: str = "embedding",
) -> Tensor:
    """Embed items.

    Args:
        encoder: Takes (B, 3, H, W) uint8 images on its own device, returns (B, d).
        items: Rows of a manifest (columns id, path, label).
        transform: Evaluation transform of one (3, H, W) uint8 image.
        batch_size: Images a forward call.
        workers: Processes that decode.
        decode: Reads an image from its path.
        autocast: Context of the forward calls.
        title: Of the progress bar, shown on a terminal only.

    Returns:
        (N, d) float32 on the processor, the same on every process, row i of item i.
    """
    device = next(encoder.parameters()).device
    # Equal shards, padded with the last row: a gather needs equal shapes.
    share = -(-len(items) // world_size())
    rows = [min(i, len(items) - 1) for i in range(rank() * share, (rank() + 1) * share)]
    loader = eval_loader(
        items.iloc[rows].reset_index(drop=True), transform, batch_size=batch_size, workers=workers, decode=decode
    )
    quiet = rank() != 0 or not sys.stderr.isatty()
    parts = []
    with evaluating(encoder):
        for batch in tqdm(loader, desc=title, disable=quiet, leave=False, dynamic_ncols=True):
            with autocast():
                parts.append(encoder(batch.views[0].to(device, non_blocking=True)).float())
    return gather(torch.cat(parts))[: len(items)].cpu()
