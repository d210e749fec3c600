"""Losses of pytorch-metric-learning asked once more with a smaller margin, on mixed rows.

Which margin is made smaller and by what rule is written down loss by loss; of a loss that is not in the table nobody
knows what its numbers demand, and it is refused.
"""

from __future__ import annotations

import copy
import types
from typing import Any, Literal

from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.pml import PML
from metrixkit.losses.unit import full_precision, no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan

_Rule = Literal["gap", "bound"]
_MARGINS: dict[str, tuple[str, _Rule]] = {
    # A gap between numbers, or an angle, that the own class must win by.
    "TripletMarginLoss": ("margin", "gap"),
    "ProxyAnchorLoss": ("margin", "gap"),
    "ArcFaceLoss": ("margin", "gap"),
    "SubCenterArcFaceLoss": ("margin", "gap"),
    "CosFaceLoss": ("margin", "gap"),
    # A bound on the numbers of negatives: above it for distances, below it for similarities.
    "ContrastiveLoss": ("neg_margin", "bound"),
    "GeneralizedLiftedStructureLoss": ("neg_margin", "bound"),
    "LiftedStructureLoss": ("neg_margin", "bound"),
}
_WITHOUT = frozenset(
    {"NTXentLoss", "SupConLoss", "NCALoss", "NPairsLoss", "NormalizedSoftmaxLoss", "ProxyNCALoss", "FastAPLoss"}
)


def has_margin(pml: PML) -> bool:
    """Tell whether a wrapped loss has a margin that can be made smaller; False for losses known to have none.

    Raises:
        InputError: It is not known what its numbers demand, or they demand less as they grow.
    """
    name = type(pml.loss).__name__
    if name in _WITHOUT:
        return False
    if name == "MultiSimilarityLoss":
        raise InputError(
            "dynamic mixed margin on MultiSimilarityLoss: its base bounds negatives and positives at once, so that no "
            "other base demands less of both; take from_pml of it, where the two are apart."
        )
    if name not in _MARGINS or not type(pml.loss).__module__.startswith("pytorch_metric_learning."):
        raise InputError(
            f"dynamic mixed margin on {name}: it is not known here which of its numbers is a margin and how it shrinks "
            f"with lambda. Known with a margin: {', '.join(sorted(_MARGINS))}; without: {', '.join(sorted(_WITHOUT))}."
        )
    attribute, rule = _MARGINS[name]
    value = float(getattr(pml.loss, attribute))
    inverted = bool(pml.loss.distance.is_inverted)  # type: ignore[union-attr]
    if value < 0 and not (rule == "bound" and inverted):
        raise InputError(f"dynamic mixed margin on {name}: {attribute}={value:g} shrinks with lambda only from >= 0.")
    if value > 1 and rule == "bound" and inverted:
        raise InputError(f"dynamic mixed margin on {name}: {attribute}={value:g} is above every similarity.")
    return True


def _copied(loss: Any) -> Any:
    """Return a copy that shares weights and proxies and whose numbers can be set without touching the original."""
    other = copy.copy(loss)
    for name, value in vars(loss).items():
        # Some classes keep a method of their own in an attribute; in the copy it would go on reading the original.
        if isinstance(value, types.MethodType) and value.__self__ is loss:
            setattr(other, name, types.MethodType(value.__func__, other))
    return other


def asked_again(pml: PML, mixed: Tensor, share: float | Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the wrapped loss of mixed anchors against clean rows, at a share of its margin: a scalar.

    Gaps shrink to share * m. Bounds shrink to share * m for distances and rise to 1 - share (1 - m) for similarities.
    Losses with class weights or proxies compare mixed rows with these. The loss itself is left as it is.

    Args:
        pml: Wrapped loss, with :func:`has_margin`.
        mixed: (B, d) mixed rows; row i keeps the label of row i.
        share: In [0, 1].
        embeddings: (B, d) clean rows.
        labels: (B,) integers.

    Raises:
        InputError: There is a share for each row, which these losses cannot take.
    """
    name = type(pml.loss).__name__
    if isinstance(share, Tensor):
        raise InputError(f"{name} has one margin for all rows; take ratio_per='step', or loss.loss=from_pml.")
    loss = _copied(pml.loss)
    attribute, rule = _MARGINS[name]
    margin = getattr(loss, attribute)
    similarity = rule == "bound" and loss.distance.is_inverted
    setattr(loss, attribute, 1 - share * (1 - margin) if similarity else share * margin)
    weight = next(loss.parameters(), None)
    with no_autocast(embeddings):
        rows, clean = (
            full_precision(part) if weight is None else part.to(weight.dtype) for part in (mixed, embeddings)
        )
        # The same label object on both sides tells that package that row i is no positive of mixture i.
        others = {} if weight is not None else {"ref_emb": clean, "ref_labels": labels}
        mined = None if pml.miner is None else pml.miner(rows, labels, **others)
        value: Tensor = loss(rows, labels, mined, **others)
        return value + zero_or_nan(rows, clean, *loss.parameters())
