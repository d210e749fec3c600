"""The comparison of a loss of pytorch-metric-learning with its generalised form, on random batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.pml_pairs import PairsFromPML, mined_masks

TOLERANCE = 1e-6
# A batch for each way that labels can fall: pairs, a class alone, unequal classes, all alone, all alike.
LAYOUTS = ((0, 0, 1, 1, 2, 2), (0, 0, 0, 1, 1, 2, 3), (0, 1, 0, 0, 0, 0, 2, 1), (0, 1, 2, 3, 4), (0, 0, 0, 0))
_PARTS = ("value", "gradient", "gradient of the proxies")


def compare(ours: PairLoss, theirs: nn.Module, miner: nn.Module | None = None) -> None:
    """Compare value and gradients of both losses in float64, on copies; neither is touched.

    Args:
        ours: The generalised form.
        theirs: The loss it was read from.
        miner: Of both, or None.

    Raises:
        InputError: They differ by more than 1e-6 of max(1, |x|), or the miner draws at random.
    """
    # Copies, because that package casts and moves the proxies it meets.
    ours, theirs = copy.deepcopy(ours).cpu().double(), copy.deepcopy(theirs).cpu().double()
    if isinstance(ours, PairsFromPML):
        miner = ours.miner
    proxies = getattr(ours, "proxies", None)
    classes, dim = (8, 6) if proxies is None else proxies.shape
    generator = torch.Generator().manual_seed(0)

    def mined(rows: Tensor, labels: Tensor) -> Tensor:
        value: Tensor = theirs(rows, labels, None if miner is None else miner(rows.detach(), labels))
        return value

    for layout in LAYOUTS:
        labels = torch.tensor(layout) % classes
        rows = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
        if miner is not None:
            _check_settled(miner, rows, labels)
        expected = _with_gradient(mined, theirs, rows, labels)
        if not bool(expected[0].isfinite()):
            continue  # a mean of no terms, which that package leaves undefined
        for part, x, y in zip(_PARTS, expected, _with_gradient(ours, ours, rows, labels), strict=False):
            gap = float(((x - y).abs() / x.abs().clamp(min=1)).max())
            if not gap <= TOLERANCE:
                raise InputError(
                    f"loss {type(theirs).__name__} with {_told(theirs)}: its {part} on labels {labels.tolist()} is off "
                    f"by {gap:.2g} from the generalised form of its class, more than {TOLERANCE:g}; it computes "
                    "something else (a method replaced, another version?)."
                )


def _with_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], owner: nn.Module, rows: Tensor, labels: Tensor
) -> list[Tensor]:
    """Return the value, its gradient by the rows and, where there are any, by the owner's parameters."""
    rows = rows.clone().requires_grad_()
    inputs = [rows, *owner.parameters()]
    with torch.enable_grad():
        value = loss(rows, labels)
        found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [value.detach(), *(torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True))]


def _check_settled(miner: nn.Module, rows: Tensor, labels: Tensor) -> None:
    first, second = mined_masks(miner, rows, labels), mined_masks(miner, rows, labels)
    if not all(torch.equal(x, y) for x, y in zip(first, second, strict=True)):
        raise InputError(
            f"miner {type(miner).__name__} has no generalised form: it draws at random; take MultiSimilarityMiner or "
            "none."
        )


def _told(loss: Any) -> str:
    parts = getattr(loss.reducer, "reducers", {}).values()
    names = ", ".join(sorted({type(r).__name__ for r in parts})) or type(loss.reducer).__name__
    return f"distance {type(loss.distance).__name__}, reducer {names}"
