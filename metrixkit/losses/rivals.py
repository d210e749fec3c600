"""i-Mix and MoCHi on metric losses: the rivals that the authors of Metrix compare it with, on the contrastive loss.

Both come from self-supervised learning, where every image is its own class; with class labels their definitions say
what is written at each class. B rows, d dimensions, K columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.levels import check_features, own_part
from metrixkit.losses.pairs import Contrastive, PairLoss
from metrixkit.losses.pml_pairs import PairsFromPML, TripletFromPML
from metrixkit.losses.proxies import ProxyLoss
from metrixkit.losses.relations import Relations, mean_weights
from metrixkit.losses.unit import full_precision, no_autocast, products, unit_rows
from metrixkit.mixing import draw_ratio


def _pair_loss(loss: nn.Module | None, rival: str) -> PairLoss:
    if loss is None:
        return Contrastive()
    if not isinstance(loss, PairLoss) or isinstance(loss, ProxyLoss):
        raise InputError(
            f"{rival} compares the rows of a batch with one another, which {type(loss).__name__} does not; take "
            "Contrastive, or another loss between pairs that has from_similarity."
        )
    if isinstance(loss, TripletFromPML) or (isinstance(loss, PairsFromPML) and loss.averaging != "anchors"):
        raise InputError(
            f"{rival} averages over anchors, and this loss of pytorch-metric-learning does not (its reducer averages "
            "over pairs or triplets); take Contrastive or another loss of this package."
        )
    return loss


def _number(name: str, value: float, least: float) -> float:
    if not value >= least:
        raise InputError(f"{name} is {value}, expected at least {least:g}.")
    return float(value)


def _mean(loss: PairLoss, s: Tensor, w_pos: Tensor, w_neg: Tensor) -> Tensor:
    """Return the mean of the generalised form over the rows for which it is defined: a scalar."""
    valid = (w_pos > 0).any(1) & (w_neg > 0).any(1) if loss.needs_both else torch.ones_like(w_pos[:, 0]).bool()
    with no_autocast(s):
        return torch.dot(loss.from_similarity(s, w_pos, w_neg), mean_weights(valid, s.dtype))


class IMix(nn.Module):
    """i-Mix (Lee et al., ICLR 2021) on a loss between pairs, at input level: clean_weight * clean + weight * mixed.

    Image i is mixed with image j = partner(i) of a random permutation, and the mixture is compared with the clean
    embeddings of the whole batch, its parents among them. There it is an example of both parents' classes: a row x is
    its positive with weight lambda [y_x = y_i] + (1 - lambda) [y_x = y_j], and its negative with the rest of 1. With
    identity functions outside the sums (the contrastive loss) this is lambda times the loss of class y_i plus
    (1 - lambda) times that of y_j, as published; where each image is its own class, it is i-Mix' virtual label.

    Lambda is drawn for each image. In several processes each mixes its own images and compares them with its own rows;
    the mean over processes is minimised. In training mode batch norm sees the mixtures as a batch of their own.

    Args:
        loss: A loss of this package between pairs; None takes Contrastive().
        weight: Factor on the mixed loss, >= 0.
        clean_weight: Factor on the clean loss, >= 0. i-Mix itself has none (0); 1 adds to the loss as Metrix does.
        alpha: lambda ~ Beta(alpha, alpha), > 0; 1 is the published one.
        dominant: Whether lambda is replaced by max(lambda, 1 - lambda), as published, so that image i dominates.
        seed: Of the generator, whose state is in `state_dict`.

    Raises:
        InputError: A number out of range, or a loss that is not between pairs.
    """

    level: ClassVar[str] = "input"

    def __init__(
        self,
        loss: nn.Module | None = None,
        weight: float = 0.4,
        clean_weight: float = 1.0,
        alpha: float = 1.0,
        dominant: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = _pair_loss(loss, "i-Mix")
        self.weight, self.clean_weight = _number("weight", weight, 0), _number("clean_weight", clean_weight, 0)
        self.alpha, self.dominant = float(alpha), dominant
        self.generator = torch.Generator().manual_seed(seed)
        draw_ratio(self.alpha, torch.Generator())  # refuses an alpha out of range
        self.last: tuple[Tensor, Tensor, float] | None = None

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            embeddings: (B, d) raw embeddings of the images.
            labels: (B,) integers.
            features: (B, ...) images, floating, or uint8, which become [0, 1]; in several processes this one's own.
            head: The encoder, called once with as many mixtures as there are images.

        Raises:
            InputError: Images or encoder are not given, or shapes do not fit.
        """
        if features is None or head is None:
            raise InputError(
                "i-Mix mixes images: call criterion(embeddings, labels, features=images, head=encoder); the method "
                "'metric' does."
            )
        images, head = check_features(features, head, self.level)
        own = own_part(len(images), len(embeddings))
        clean = self.loss.clean_loss(self.loss.relations(embeddings, labels))
        partner = torch.randperm(len(images), generator=self.generator).to(labels.device)
        lam = draw_ratio(self.alpha, self.generator, (len(images),))
        if self.dominant:
            lam = torch.maximum(lam, 1 - lam)
        share = lam.to(images).view(-1, *[1] * (images.ndim - 1))
        encoded = head(share * images + (1 - share) * images[partner])
        mixed = self.mixed_loss(encoded, embeddings[own], labels[own], partner, lam)
        self.last = (clean.detach(), mixed.detach(), float(lam.mean()))
        return self.clean_weight * clean + self.weight * mixed

    def mixed_loss(self, mixtures: Tensor, embeddings: Tensor, labels: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
        """Return the mixed term alone, unweighted, of mixtures that are already encoded.

        Args:
            mixtures: (B, d) raw embeddings of the mixed images.
            embeddings: (B, d) raw embeddings of the clean ones.
            labels: (B,) integers.
            partner: (B,) the other parent of mixture i.
            lam: (B,) share of image i in mixture i, in [0, 1].
        """
        with no_autocast(embeddings):
            s = products(unit_rows(full_precision(mixtures)), unit_rows(full_precision(embeddings)))
        same = (labels[:, None] == labels).to(s.dtype)
        share = lam.to(s)[:, None]
        w_pos = share * same + (1 - share) * same[partner]
        return _mean(self.loss, s, w_pos, 1 - w_pos)

    def logs(self) -> dict[str, float]:
        """Return clean loss, mixed loss and mean lambda of the last step; {} before it."""
        if self.last is None:
            return {}
        clean, mixed, lam = self.last
        return {"clean": float(clean), "mixed": float(mixed), "lambda": lam}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue to draw where `state` was taken."""
        self.generator.set_state(state["generator"].cpu())


class MoCHi(nn.Module):
    """MoCHi (Kalantidis et al., NeurIPS 2020) on a loss between pairs, at embedding level: harder negatives, no labels.

    Of each anchor a the `pool` nearest negatives are taken, and out of them are made, at length 1,

        negative_negative points  b n + (1 - b) n'   with b ~ U(0, 1), n and n' different
        anchor_negative points    b a + (1 - b) n    with b ~ U(0, 0.5)

    n and n' drawn evenly. They join the anchor's negatives at full weight, inside the same sum, so that there is no
    second loss and no weight. As published they are constants: the gradient passes through the anchor that is compared
    with them, not through what they are made of. Anchors with one negative get no negative-negative points.

    No point is ever formed: their similarities follow from the cosines of the batch.

    Args:
        loss: A loss of this package between pairs; None takes Contrastive().
        pool: Nearest negatives to draw from (the N of the paper), >= 1.
        negative_negative: Points of the first kind for each anchor (s), >= 0.
        anchor_negative: Points of the second kind (s'), >= 0.
        seed: Of the generator, whose state is in `state_dict`.

    Raises:
        InputError: A number out of range, or a loss that is not between pairs.
    """

    level: ClassVar[str] = "embed"

    def __init__(
        self,
        loss: nn.Module | None = None,
        pool: int = 16,
        negative_negative: int = 16,
        anchor_negative: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = _pair_loss(loss, "MoCHi")
        for name, value, least in (
            ("pool", pool, 1),
            ("negative_negative", negative_negative, 0),
            ("anchor_negative", anchor_negative, 0),
        ):
            _number(name, value, least)
        self.pool, self.negative_negative, self.anchor_negative = pool, negative_negative, anchor_negative
        self.generator = torch.Generator().manual_seed(seed)
        self.last: Relations | None = None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of (B, d) raw embeddings with (B,) integer labels, harder negatives included: a scalar.

        Raises:
            InputError: Shapes, types or devices do not fit.
        """
        relations = self.loss.relations(embeddings, labels)
        with no_autocast(embeddings):
            rows = unit_rows(full_precision(embeddings))
            to_constants = products(rows, rows.detach())
            made, there = self.harder(relations, to_constants)
            s = torch.cat([relations.similarity, made], 1)
        w_pos = torch.cat([relations.positive, torch.zeros_like(there)], 1)
        self.last = replace(relations, similarity=relations.similarity.detach())
        return _mean(self.loss, s, w_pos, torch.cat([relations.negative, there], 1))

    def harder(self, relations: Relations, to_constants: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and return the similarities of anchors to their harder negatives.

        Args:
            relations: Of the batch.
            to_constants: (B, B) cosines of anchors to the rows as constants, with gradient by the anchors only.

        Returns:
            (B, s + s') similarities, with that gradient, and (B, s + s') bool, whether the point exists.
        """
        cosines, negative = relations.similarity.detach(), relations.negative
        # Among equals the first row is taken, on any device.
        order = cosines.masked_fill(~negative, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        available = negative.sum(1, keepdim=True).clamp(max=self.pool)
        s, both = self.negative_negative, self.negative_negative + self.anchor_negative
        u, v, b = self._draw((len(order), both), order.device)
        # Draws are below 1, so that each index is below its bound and the two negatives differ where there are two.
        first = (u * available).long()
        second = (first + 1 + (v * (available - 1)).long()) % available.clamp(min=1)
        first, second = order.gather(1, first), order.gather(1, second[:, :s])
        to_first = to_constants.gather(1, first)
        # An anchor times itself as a constant is 1, and does not change to first order as the anchor turns.
        to_other = torch.cat([to_constants.gather(1, second), torch.ones_like(to_first[:, s:])], 1)
        between = torch.cat([cosines[first[:, :s], second], cosines.gather(1, first[:, s:])], 1)
        b = b.to(cosines)
        b = torch.cat([b[:, :s], 1 - b[:, s:] / 2], 1)  # the share of `first`; the anchor's is at most a half
        squares = (b * b + (1 - b) ** 2 + 2 * b * (1 - b) * between).clamp(min=torch.finfo(b.dtype).eps)
        made = (b * to_first + (1 - b) * to_other) * squares.rsqrt()
        needed = torch.tensor([2] * s + [1] * self.anchor_negative, device=order.device)
        return made, available >= needed

    def _draw(self, shape: tuple[int, int], device: torch.device) -> Tensor:
        # One number leaves the generator whatever the shape, so that processes stay together.
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        child = torch.Generator().manual_seed(seed)
        return torch.rand(3, *shape, generator=child, dtype=torch.float64).to(device)

    def logs(self) -> dict[str, float]:
        """Return the loss of the last step without harder negatives; {} before it."""
        return {} if self.last is None else {"clean": float(self.loss.clean_loss(self.last))}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue to draw where `state` was taken."""
        self.generator.set_state(state["generator"].cpu())
