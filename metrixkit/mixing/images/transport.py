"""Patches of an image moved to where a mask shows them (the masked transport of PuzzleMix, section 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def move_patches(images: Tensor, mask: Tensor, saliency: Tensor, cost: float) -> Tensor:
    """Return images whose salient patches have moved, at a price for the way, to places where the mask is above 0.

    Args:
        images: (B, C, H, W) floating.
        mask: (B, n, m) share of the image that is shown in each place; H and W are multiples of n and m.
        saliency: (B, n, m) share of the image's saliency in each place.
        cost: Price of moving a patch by the length of a side, squared lengths counting.

    Returns:
        (B, C, H, W). Where nothing is shown, a place may hold any patch.
    """
    rows, columns = mask.shape[1:]
    source = patch_sources(mask, saliency, cost)
    height, width = images.shape[2] // rows, images.shape[3] // columns
    patches = F.unfold(images, (height, width), stride=(height, width))
    moved = patches.gather(2, source.to(images.device)[:, None].expand(-1, patches.shape[1], -1))
    return F.fold(moved, images.shape[2:], (height, width), stride=(height, width))


def patch_sources(mask: Tensor, saliency: Tensor, cost: float) -> Tensor:
    """Return (B, n m) int64: for each place the place its patch comes from.

    Every patch claims the place that suits it best, a place takes the best of its claimants, and a patch that is
    refused claims again at a cost raised by one, which is as much as all saliency is worth; as many rounds as there
    are rows, as in the released code. A place that nobody claims keeps its own patch (there it turns black, hardly ever
    where it is shown).
    """
    count, rows, columns = mask.shape
    places = rows * columns
    worth, shown = saliency.float().reshape(count, places, 1), (mask > 0).float().reshape(count, 1, places)
    price = torch.addcmul(cost * _squared_way(rows, columns, worth), worth, shown, value=-1).view(-1, places)
    own = torch.arange(places, device=worth.device).expand(count, places)
    claim, paid = torch.zeros_like(own).reshape(-1), worth.new_zeros(count * places)
    pending = torch.arange(count * places, device=worth.device)  # only who was refused has to claim again
    for _ in range(max(rows, columns)):
        paid[pending], claim[pending] = price[pending].min(1)
        place, paid_there = claim.view(count, places), paid.view(count, places)
        best = torch.full_like(paid_there, torch.inf).scatter_reduce(1, place, paid_there, "amin")
        leads = paid_there == best.gather(1, place)
        # Of equal claimants the first.
        winner = torch.full_like(own, places).scatter_reduce(1, place, torch.where(leads, own, places), "amin")
        pending = (winner.gather(1, place) != own).flatten().nonzero()[:, 0]
        if not len(pending):
            break
        price[pending, claim[pending]] += 1
    return torch.where(winner < places, winner, own)


def _squared_way(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return (n m, n m): squared distance of places, 1 for the length of the longer side."""
    own = torch.arange(rows * columns, device=like.device)
    row, column = (own // columns).to(like.dtype), (own % columns).to(like.dtype)
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    return squared / max(rows - 1, columns - 1, 1) ** 2
