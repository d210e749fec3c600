"""How a loss is asked once more about mixed rows, with a share of its margin.

N rows or pairs, d dimensions. Nothing here changes the loss: margins are handed over, or similarities shifted by what
the smaller margin allows.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.m2_mix import M2Mix
from metrixkit.losses.matched import Takes
from metrixkit.losses.max_margin import max_margin
from metrixkit.losses.metrix import Metrix
from metrixkit.losses.official import OfficialContrastive
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.pml import PML
from metrixkit.losses.pml_forms import DistanceForm
from metrixkit.losses.pml_margin import asked_again, has_margin
from metrixkit.losses.proxies import ProxyAnchor, ProxyLoss
from metrixkit.losses.rivals import IMix, MoCHi
from metrixkit.losses.triplet import Triplet
from metrixkit.losses.unit import full_precision, no_autocast, products, unit_rows

Share = float | Tensor
"""m(lambda): which part of the margin is still demanded; a number in [0, 1], or (N,) of such."""


class Host(Protocol):
    """What the dynamic mixed margin needs of a loss.

    Attributes:
        takes: How the loss is called.
        on_cosines: Whether only directions matter, so that rows are brought to length 1 before they are mixed.
    """

    takes: Takes
    on_cosines: bool

    def clean(self, *parts: Tensor) -> Tensor:
        """Return the loss of clean rows."""
        ...

    def again(self, mixed: Tensor, side: int, share: Share, *parts: Tensor) -> Tensor:
        """Return the loss with `mixed` in the place of side 0 or 1 of `parts`, at a share of the margin."""
        ...


class MatchedHost:
    """A loss on matched pairs, or on users with liked and other items.

    One with an attribute `margin` is called with ``margin=``; one without gets the hinge of
    :func:`~metrixkit.losses.max_margin` on the cosines of the first two sides.

    Args:
        loss: ``loss(a, b)`` or ``loss(user, positive, negatives)``; its class says which by `takes`.
        alpha: Margin of the added hinge.

    Raises:
        InputError: It has a margin that it does not take from outside.
    """

    def __init__(self, loss: nn.Module, alpha: float) -> None:
        self.loss, self.alpha = loss, alpha
        self.takes: Takes = loss.takes  # type: ignore[assignment]
        self.on_cosines: bool = getattr(loss, "on_cosines", True)  # type: ignore[assignment]
        self.margin: float | None = getattr(loss, "margin", None)  # type: ignore[assignment]
        if self.margin is not None and "margin" not in inspect.signature(loss.forward).parameters:
            raise InputError(
                f"{type(loss).__name__} has a margin, but its forward() takes no margin=..., with which it could be "
                "asked again at a smaller one."
            )

    def clean(self, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        return self.loss(*parts)  # type: ignore[no-any-return]

    def again(self, mixed: Tensor, side: int, share: Share, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        sides = [mixed if i == side else part for i, part in enumerate(parts)]
        if self.margin is None:
            return max_margin(sides[0], sides[1], share * self.alpha)
        return self.loss(*sides, margin=share * self.margin)  # type: ignore[no-any-return]


class LabelledHost:
    """A loss on labelled rows: mixed row i, with the label of row i, is compared with the clean rows except row i.

    Losses with proxies compare it with these instead.

    Args:
        loss: The clean loss, ``loss(embeddings, labels)``.
        asked: The loss that is asked again; it has `slack`.
    """

    takes: Takes = "labels"
    on_cosines = True

    def __init__(self, loss: nn.Module, asked: PairLoss) -> None:
        assert asked.slack is not None
        if min(asked.slack) < 0:
            raise InputError(
                f"dynamic mixed margin on {type(asked).__name__}: its margin is out of the range in which a smaller "
                "share of it demands less (a gap >= 0, a bound on cosines <= 1)."
            )
        self.loss, self.asked = loss, asked

    def clean(self, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        return self.loss(*parts)  # type: ignore[no-any-return]

    def again(self, mixed: Tensor, side: int, share: Share, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        embeddings, labels = parts
        asked = copy.copy(self.asked)  # its form may be replaced below; parameters stay shared
        if isinstance(asked, ProxyLoss):
            relations = asked.relations(mixed, labels)
            s = relations.similarity
        else:
            with torch.no_grad():
                relations = asked.relations(embeddings, labels)  # for who is positive and who negative
            with no_autocast(mixed):
                s = products(unit_rows(full_precision(mixed)), asked.anchor_rows(embeddings))
        with no_autocast(s):
            if isinstance(asked.form, DistanceForm):
                s, asked.form = asked.form.similarity(s), asked.form.inner
            allowed = 1 - share
            if isinstance(allowed, Tensor):  # mixed rows are anchors, but the candidates of a proxy anchor
                allowed = allowed.to(s)[None, :] if isinstance(asked, ProxyAnchor) else allowed.to(s)[:, None]
            up, down = asked.slack  # type: ignore[misc]
            shift = up * relations.positive.to(s.dtype) - down * relations.negative.to(s.dtype)
            return asked.clean_loss(replace(relations, similarity=s + shift * allowed))


class PMLHost:
    """A loss of pytorch-metric-learning that has a margin, by name.

    Args:
        loss: The wrapped loss.
    """

    takes: Takes = "labels"
    on_cosines = True

    def __init__(self, loss: PML) -> None:
        self.loss = loss

    def clean(self, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        return self.loss(*parts)  # type: ignore[no-any-return]

    def again(self, mixed: Tensor, side: int, share: Share, *parts: Tensor) -> Tensor:
        """See :class:`Host`."""
        return asked_again(self.loss, mixed, share, *parts)


def host_of(loss: nn.Module, alpha: float) -> Host:
    """Return how `loss` is asked again.

    Args:
        loss: Any loss of this package on labels, pairs or triples, or one of the same form.
        alpha: Margin of the hinge that is added where the loss has none.

    Raises:
        InputError: It has a margin that cannot be made smaller, or mixes examples itself.
    """
    name = type(loss).__name__
    if isinstance(loss, Metrix | IMix | MoCHi | M2Mix):
        raise InputError(f"{name} mixes examples itself; give the dynamic mixed margin the loss inside it.")
    if getattr(loss, "takes", "labels") != "labels":
        return MatchedHost(loss, alpha)
    if isinstance(loss, OfficialContrastive):
        raise InputError(f"{name} is kept as the Metrix release has it; take Contrastive.")
    if isinstance(loss, PairLoss):
        return LabelledHost(loss, loss if loss.slack is not None else Triplet(alpha))
    if isinstance(loss, PML):
        return PMLHost(loss) if has_margin(loss) else LabelledHost(loss, Triplet(alpha))
    if getattr(loss, "margin", None) is not None:
        raise InputError(
            f"{name} has a margin, and nothing tells how to ask it at a smaller one. Write it as a PairLoss with "
            "`slack`, or as a loss on matched pairs whose forward() takes margin=..."
        )
    return LabelledHost(loss, Triplet(alpha))
