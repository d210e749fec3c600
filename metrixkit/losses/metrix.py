"""Metrix: a metric loss on the clean batch plus the same loss on mixtures with mixed labels.

B rows, d dimensions; A anchors, I first elements, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError, did_you_mean
from metrixkit.losses.mixture import Mixtures, mixture_loss
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import Relations
from metrixkit.losses.unit import no_autocast
from metrixkit.mixing import PairPlan, check_kind, draw_one, draw_ratio, plan_pairs


@dataclass(frozen=True)
class Terms:
    """What the last step consisted of; tensors are detached scalars.

    Attributes:
        clean: Clean loss.
        mixed: Mixed loss before its weight.
        ratio: lambda, or the mean of the lambdas drawn for the pairs.
        pairs: Kind of pair.
    """

    clean: Tensor
    mixed: Tensor
    ratio: float
    pairs: str


@dataclass(frozen=True)
class _Setting:
    """A plan, the (A, I) similarities of anchors to first elements, and the (I, K) cosines of these to candidates."""

    plan: PairPlan
    to_first: Tensor
    columns_of_first: Tensor | None
    cosines: Callable[[], Tensor]


def _given(lam: float | Tensor, setting: _Setting) -> float | Tensor:
    if not isinstance(lam, Tensor) or lam.ndim == 0:
        lam = float(lam)
        if not 0 <= lam <= 1:
            raise InputError(f"lam is {lam}, expected a number in [0, 1].")
        return lam
    if setting.plan.flipped and setting.columns_of_first is None:
        lam = lam.T  # given as (positive, anchor); rows of the plan are anchors
    shape = (setting.to_first.shape[1], setting.plan.allowed.shape[1])
    if tuple(lam.shape) != shape or bool(((lam < 0) | (lam > 1)).any()):
        raise InputError(f"lam has shape {tuple(lam.shape)}, expected one number or shape {shape}, all in [0, 1].")
    return lam.detach().to(setting.to_first)


class Metrix(nn.Module):
    """Clean loss + weight x mixed loss ("It Takes Two to Tango", ICLR 2022, Eq. 8 and 9).

    A step draws one kind of pair and its lambda ~ Beta(alpha, alpha) from a generator of its own, which `state_dict`
    carries; equal seeds draw alike on every process.

    Args:
        loss: A loss of this package in the generalised form. Its parameters (proxies) stay its own.
        level: Where examples are mixed. "embed" mixes unit embeddings; "feature" and "input" are not available yet.
        pairs: Kind of pair (:data:`metrixkit.mixing.PAIR_KINDS`), or several, of which each step takes one at random.
        weight: Factor on the mixed loss, >= 0.
        alpha: Of the Beta distribution, > 0.
        renormalize: Whether mixtures are brought to length 1 before they are compared, as in the release.
        reduction: Over the mixtures V(a) of an anchor. "sum" is the paper's; "mean" divides all weights by |V(a)|, and
            belongs to losses that sum pairs without a logarithm, whose mixed term otherwise swamps the clean one.
        ratio_per: One lambda a "step", or one for each "pair" that is mixed (shared by all anchors that use it).
        hardest: Mix only this many negatives of each anchor, its nearest ones; None takes all.
        seed: Of the generator.

    Raises:
        InputError: A setting is out of range, or this kind of pair makes no sense with this loss (the reason is said).

    Example:
        >>> import torch
        >>> from metrixkit.losses import Metrix, MultiSimilarity
        >>> criterion = Metrix(MultiSimilarity(), weight=0.4)
        >>> embeddings, labels = torch.eye(6), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels).shape
        torch.Size([])
        >>> round(criterion.mixed_loss(embeddings, labels, lam=1.0).item(), 4)
        0.8471
    """

    def __init__(
        self,
        loss: nn.Module,
        level: Literal["embed"] = "embed",
        pairs: str | list[str] = "positive-negative",
        weight: float = 0.4,
        alpha: float = 2.0,
        renormalize: bool = True,
        reduction: Literal["sum", "mean"] = "sum",
        ratio_per: Literal["step", "pair"] = "step",
        hardest: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise InputError(
                f"{type(loss).__name__} is not in the generalised form (sums over positives and negatives), which "
                "mixing with labels needs; take a loss that has from_similarity, such as MultiSimilarity."
            )
        if level != "embed":
            raise InputError(
                f"level={level!r}: only 'embed' is available; levels 'feature' and 'input' are not available yet."
            )
        if not weight >= 0:
            raise InputError(f"weight is {weight}, expected a number >= 0; the paper takes 0.4.")
        if not alpha > 0:
            raise InputError(f"alpha is {alpha}, expected a number > 0; the paper takes 2.0.")
        if hardest is not None and hardest < 1:
            raise InputError(f"hardest is {hardest}, expected at least 1, or None for all negatives.")
        for name, value, options in (
            ("reduction", reduction, ("sum", "mean")),
            ("ratio_per", ratio_per, ("step", "pair")),
        ):
            if value not in options:
                raise InputError(f"{name}={value!r}.{did_you_mean(str(value), options)} Known: {', '.join(options)}.")
        self.loss, self.weight, self.alpha = loss, float(weight), float(alpha)
        self.renormalize, self.reduction, self.ratio_per, self.hardest = renormalize, reduction, ratio_per, hardest
        self.kinds = [pairs] if isinstance(pairs, str) else list(pairs)
        if not self.kinds:
            raise InputError("pairs is empty, expected at least one kind of pair.")
        for kind in self.kinds:
            self._check(kind, one_ratio=ratio_per == "step")
        self.generator = torch.Generator().manual_seed(seed)
        self.last: Terms | None = None

    def _check(self, kind: str, one_ratio: bool) -> None:
        check_kind(kind)
        refused = self.loss.refused | (self.loss.refused_with_one_ratio if one_ratio else {})
        if kind in refused:
            raise InputError(f"pairs={kind!r} with {type(self.loss).__name__}: {refused[kind]}.")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        features: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return clean + weight * mixed, a scalar.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            features: Reserved for levels "feature" and "input".
            head: Reserved for these levels too.

        Raises:
            InputError: Shapes, types or devices do not fit, or `features` is given at level "embed".
        """
        if features is not None or head is not None:
            raise InputError(
                "features and head belong to the levels 'feature' and 'input', which are not available yet."
            )
        relations = self.loss.relations(embeddings, labels)
        clean = self.loss.clean_loss(relations)
        kind = draw_one(self.kinds, self.generator)
        setting = self._set_up(relations, kind)
        ratio = self._draw(setting, self.generator)
        mixed = self._mixed(relations, setting, ratio)
        self.last = Terms(
            clean.detach(), mixed.detach(), ratio if isinstance(ratio, float) else float(ratio.mean()), kind
        )
        return clean + self.weight * mixed

    def mixed_loss(
        self, embeddings: Tensor, labels: Tensor, lam: float | Tensor | None = None, pairs: str | None = None
    ) -> Tensor:
        """Return the mixed term alone, unweighted: the mean over anchors that have mixtures.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            lam: lambda in [0, 1], the weight of the first element; or (B, B) with one for each pair (first, second),
                for losses between the rows of the batch; None draws as a step does.
            pairs: Kind of pair; None draws as a step does.

        Returns:
            A scalar; exactly 0 with zero gradient where no anchor has a mixture.

        Raises:
            InputError: As the constructor and `forward`, and for lambda outside [0, 1].
        """
        kind = draw_one(self.kinds, self.generator) if pairs is None else pairs
        self._check(kind, one_ratio=self.ratio_per == "step" if lam is None else not isinstance(lam, Tensor))
        relations = self.loss.relations(embeddings, labels)
        setting = self._set_up(relations, kind)
        ratio = self._draw(setting, self.generator) if lam is None else _given(lam, setting)
        return self._mixed(relations, setting, ratio)

    def gradient_ratio(self, embeddings: Tensor, labels: Tensor) -> float:
        """Return weight * |gradient of the mixed term| / |gradient of the clean loss|, with respect to the embeddings.

        Call it on the batch of a step whose log is written, after the step's forward call: it mixes the last step's
        kind of pair at its lambda (new ones where each pair has its own), on a detached copy, and leaves generator and
        gradients alone. It costs the loss once more, not the model. Far above 1, the mixed term swamps the clean one;
        see `reduction`.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.

        Returns:
            A number >= 0; infinite where only the clean gradient is 0, and 0 where both are.
        """
        kind, ratio = (self.last.pairs, self.last.ratio) if self.last is not None else (self.kinds[0], 0.5)
        with torch.enable_grad():
            rows = embeddings.detach().clone().requires_grad_()
            relations = self.loss.relations(rows, labels)
            setting = self._set_up(relations, kind)
            lam: float | Tensor = ratio
            if self.ratio_per == "pair":
                copy = torch.Generator()
                copy.set_state(self.generator.get_state())
                lam = self._draw(setting, copy)
            mixed = self._mixed(relations, setting, lam)
            clean = self.loss.clean_loss(relations)
            (of_mixed,) = torch.autograd.grad(mixed, rows, retain_graph=True)
            (of_clean,) = torch.autograd.grad(clean, rows)
        top, bottom = self.weight * float(of_mixed.norm()), float(of_clean.norm())
        return top / bottom if bottom else (float("inf") if top else 0.0)

    def logs(self) -> dict[str, float]:
        """Return clean loss, mixed loss and lambda of the last step as numbers (waits for the device); {} before it."""
        if self.last is None:
            return {}
        return {"clean": float(self.last.clean), "mixed": float(self.last.mixed), "lambda": self.last.ratio}

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs to draw on: the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue to draw where `state` was taken."""
        self.generator.set_state(state["generator"].cpu())

    def _set_up(self, relations: Relations, kind: str) -> _Setting:
        """Choose the pairs, and the matrices in which their similarities stand."""
        similarity = relations.similarity
        plan = plan_pairs(kind, relations.positive, relations.negative, similarity.detach(), self.hardest)
        if relations.itself:
            return _Setting(plan, similarity, None, lambda: similarity)
        if plan.first_is_anchor:
            return _Setting(plan, relations.anchor_cosines(), None, lambda: similarity)
        if len(plan.anchor) >= similarity.shape[1]:
            return _Setting(plan, similarity, None, lambda: relations.candidate_cosines(None))
        # Few of many candidates come first (the batch's proxies of all): only their rows of cosines are needed.
        used, first = plan.first.unique(return_inverse=True)
        return _Setting(
            replace(plan, first=first), similarity[:, used], used, lambda: relations.candidate_cosines(used)
        )

    def _draw(self, setting: _Setting, generator: torch.Generator) -> float | Tensor:
        if self.ratio_per == "step":
            return float(draw_ratio(self.alpha, generator))
        columns = setting.plan.allowed.shape[1]
        drawn = draw_ratio(self.alpha, generator, (setting.to_first.shape[1], columns))
        return drawn.to(setting.to_first)

    def _mixed(self, relations: Relations, setting: _Setting, ratio: float | Tensor) -> Tensor:
        plan, similarity = setting.plan, relations.similarity
        with no_autocast(similarity):
            counts = plan.counts()
            weight_pos, weight_neg = self.loss.batch_weights(relations, counts > 0)
            mean = self.reduction == "mean" or self.loss.always_mean
            share = 1 / counts.clamp(min=1).to(similarity.dtype) if mean else torch.ones_like(weight_pos)
            mixtures = Mixtures(plan, ratio, share, weight_pos, weight_neg, setting.columns_of_first)
            cosines = setting.cosines() if self.renormalize else None
            return mixture_loss(self.loss.form, setting.to_first, similarity, cosines, mixtures)
