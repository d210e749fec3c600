"""How a trained network of several modalities embeds whatever is there of an item.

B items, M modalities, w the width of the network, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.models.multimodal import Multimodal
from metrixkit.retrieval import fuse


def encoder_of(
    model: Multimodal, how: str, means: Tensor | None = None
) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """Return ``encode(batch, present)`` of a model in evaluation mode, by a way of filling (never "auto").

    Raises:
        InputError: Modalities alone are asked of a model without branches.
    """
    if how in ("mean", "renormalized") and not model.branches:
        raise InputError(
            f"fill={how!r} averages embeddings of single modalities, and this model has no branches for them; take "
            "zeros or mean_embedding."
        )

    def encode(batch: Mapping[str, Tensor], present: Tensor) -> Tensor:
        device = next(model.parameters()).device
        moved = {name: x.to(device) for name, x in batch.items()}
        x, there = model.prepare(moved), present.to(device)
        if how in ("zeros", "mean_embedding"):
            return model.joint(x, moved, there, means)
        complete = there.all(dim=1)
        found = x[next(iter(x))].new_zeros(len(there), model.embedding_dim)
        if bool(complete.any()):
            found[complete] = _joint(model, x, moved, there, complete)
        if not bool(complete.all()):
            parts = found.new_zeros(len(there), len(model.names), model.embedding_dim)
            for column, name in enumerate(model.names):
                rows = (there[:, column] & ~complete).nonzero()[:, 0]
                if len(rows):
                    mask = moved.get(f"{name}_mask")
                    parts[rows, column] = model.part(name, x[name][rows], None if mask is None else mask[rows])
            found[~complete] = fuse(parts, there, "renormalized" if how == "renormalized" else "mean")[~complete]
        return found

    return encode


def _joint(
    model: Multimodal, x: Mapping[str, Tensor], masks: Mapping[str, Tensor], present: Tensor, rows: Tensor
) -> Tensor:
    chosen = {name: values[rows] for name, values in x.items()}
    kept = {name: values[rows] for name, values in masks.items() if name.endswith("_mask")}
    return model.joint(chosen, kept, present[rows])
