"""Metrix: a metric loss on the clean batch plus the same loss on mixtures with mixed labels.

B rows, d dimensions; A anchors, K candidates.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.balance import Terms, embedded_again, kept, relative_gradient
from metrixkit.losses.checks import check_count, check_known, check_mixing, given_ratio, listed
from metrixkit.losses.embedded import EmbeddedMixtures, embedded_mixtures
from metrixkit.losses.input_mixers import find_mixer, mix_pairs
from metrixkit.losses.levels import FEATURE_CHUNK, EncodedMixtures, check_features, own_part
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.proxies import ProxyAnchor
from metrixkit.losses.relations import Relations
from metrixkit.losses.similarities import Head, steady
from metrixkit.mixing import PairPlan, check_kind, draw_one, draw_ratio, plan_pairs
from metrixkit.mixing.images.mixed import branch

LEVELS = ("embed", "feature", "input")
_Setting = EmbeddedMixtures | EncodedMixtures


class Metrix(nn.Module):
    """Clean loss + weight x mixed loss ("It Takes Two to Tango", ICLR 2022, Eq. 8 and 9).

    A step draws its level, one kind of pair and its lambda ~ Beta(alpha, alpha) from a generator of its own, which
    `state_dict` carries; equal seeds draw alike on every process.

    Levels: "embed" mixes unit embeddings, which costs next to nothing. "feature" mixes the maps that an inner layer
    made in the clean pass and runs the rest of the model (`head`) on the mixtures. "input" mixes images and runs all of
    it in one extra pass. Anchors are clean embeddings (or proxies) everywhere, and each mixture is encoded once however
    many anchors it has. Where `head` holds batch norms in training mode, mixtures go through them in that mode as a
    batch of their own (of a chunk, where there are several) and enter the running statistics once; with frozen batch
    norm the result depends on neither.

    In several processes "embed" mixes the rows of all; "feature" and "input" pair within a process, whose own rows are
    anchors and candidates, and the mean over processes is what is minimised. Synchronised batch norms in `head` then
    need equally many chunks everywhere: leave `chunk` None at level "input".

    Args:
        loss: A loss of this package in the generalised form. Its parameters (proxies) stay its own.
        level: Where examples are mixed: "embed", "feature" or "input", or several, of which each step takes one at
            random.
        pairs: Kind of pair (:data:`metrixkit.mixing.PAIR_KINDS`), or several, of which each step takes one at random.
        weight: Factor on the mixed loss, >= 0.
        alpha: Of the Beta distribution, > 0.
        renormalize: Whether mixed embeddings are brought to length 1 before they are compared, as in the release.
            Those of mixed features and inputs always are, by the definition of the loss.
        reduction: Over the mixtures V(a) of an anchor. "sum" is the paper's; "mean" divides all weights by |V(a)|, and
            belongs to losses that sum pairs without a logarithm, whose mixed term otherwise swamps the clean one.
        ratio_per: One lambda a "step", or one for each "pair" that is mixed (shared by all anchors that use it).
        hardest: Mix only this many negatives of each anchor, its nearest ones by clean embeddings; None takes all, but
            1 at level "input".
        positives: Mix only this many positives of each anchor, those that follow it in the batch; None takes all.
            ``positives=1, hardest=1`` is one mixture for each image.
        image_mixer: How images are mixed at level "input": mixup as published, or another image mixer (cutmix, fmix,
            resizemix, saliencymix), whose masks differ from pair to pair; labels are weighed by the share they leave.
        chunk: At level "feature" and "input" at most this many mixtures are held at once; with more, they are computed
            again in the backward pass. None takes 256 features, and all inputs in one pass.
        seed: Of the generator.

    Raises:
        InputError: A setting is out of range, or this kind of pair or level makes no sense with this loss (the reason
            is said).

    Example:
        >>> import torch
        >>> from metrixkit.losses import Metrix, MultiSimilarity
        >>> criterion = Metrix(MultiSimilarity(), weight=0.4)
        >>> embeddings, labels = torch.eye(6), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> criterion(embeddings, labels).shape
        torch.Size([])
        >>> round(criterion.mixed_loss(embeddings, labels, lam=1.0).item(), 4)
        0.8471
        >>> maps, head = torch.rand(6, 3, 2, 2), lambda x: x.mean((2, 3))
        >>> Metrix(MultiSimilarity(), level="feature")(head(maps), labels, features=maps, head=head).shape
        torch.Size([])
    """

    def __init__(
        self,
        loss: nn.Module,
        level: str | list[str] = "embed",
        pairs: str | list[str] = "positive-negative",
        weight: float = 0.4,
        alpha: float = 2.0,
        renormalize: bool = True,
        reduction: Literal["sum", "mean"] = "sum",
        ratio_per: Literal["step", "pair"] = "step",
        hardest: int | None = None,
        positives: int | None = None,
        image_mixer: str = "mixup",
        chunk: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise InputError(
                f"{type(loss).__name__} is not in the generalised form (sums over positives and negatives), which "
                "mixing with labels needs; take a loss that has from_similarity, such as MultiSimilarity."
            )
        check_mixing(weight, alpha)
        check_count("hardest", hardest, "all negatives")
        check_count("positives", positives, "all")
        check_count("chunk", chunk, "its default")
        check_known("reduction", reduction, ("sum", "mean"))
        check_known("ratio_per", ratio_per, ("step", "pair"))
        self.loss, self.weight, self.alpha = loss, float(weight), float(alpha)
        self.renormalize, self.reduction, self.ratio_per = renormalize, reduction, ratio_per
        self.hardest, self.positives, self.chunk = hardest, positives, chunk
        self.levels, self.kinds = listed("level", level), listed("pairs", pairs)
        for kind in self.kinds:
            self._check(kind, one_ratio=ratio_per == "step")
        for name in self.levels:
            check_known("level", name, LEVELS)
            if name in loss.refused_levels:
                raise InputError(f"level={name!r} with {type(loss).__name__}: {loss.refused_levels[name]}.")
        self.generator = torch.Generator().manual_seed(seed)
        self.image_mixer = find_mixer(image_mixer, self.levels)
        self.last: Terms | None = None
        self._next: str | None = None

    def hardest_at(self, level: str) -> int | None:
        """Return how many negatives of an anchor are mixed at a level; None is all of them."""
        return self.hardest or (1 if level == "input" else None)

    def _check(self, kind: str, one_ratio: bool) -> None:
        check_kind(kind)
        refused = self.loss.refused | (self.loss.refused_with_one_ratio if one_ratio else {})
        if kind in refused:
            raise InputError(f"pairs={kind!r} with {type(self.loss).__name__}: {refused[kind]}.")

    def next_level(self) -> str:
        """Return the level of the coming step, so that its features can be had; the step then draws no other."""
        if self._next is None:
            self._next = draw_one(self.levels, self.generator)
        return self._next

    def _take_level(self) -> str:
        level, self._next = self.next_level(), None
        return level

    def forward(
        self, embeddings: Tensor, labels: Tensor, features: Tensor | None = None, head: Head | None = None
    ) -> Tensor:
        """Return clean + weight * mixed, a scalar.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            features: What is mixed at the step's level, a row for each embedding: maps, tokens or vectors at "feature",
                images (floating, or uint8, which become [0, 1]) at "input". In several processes this one's own.
            head: What made the embeddings of `features`: the rest of the model, or all of it. The heads of
                :class:`~metrixkit.models.ImageEncoder` tell how their pooling mixes, so that averages cost nothing and
                maxima need no mixed maps.

        Raises:
            InputError: Shapes, types or devices do not fit, or `features` are missing, or given where only embeddings
                are mixed.
        """
        level = self._take_level()
        relations = self.loss.relations(embeddings, labels)
        clean = self.loss.clean_loss(relations)
        kind = draw_one(self.kinds, self.generator)
        setting = self._set_up(level, kind, relations, embeddings, labels, features, head)
        ratio = self._draw(setting, self.generator)
        mixed = setting.value(ratio)
        mean = ratio if isinstance(ratio, float) else float(ratio.mean())
        self.last = Terms(clean.detach(), mixed.detach(), mean, kind, level)
        return clean + self.weight * mixed

    def mixed_loss(
        self,
        embeddings: Tensor,
        labels: Tensor,
        lam: float | Tensor | None = None,
        pairs: str | None = None,
        features: Tensor | None = None,
        head: Head | None = None,
    ) -> Tensor:
        """Return the mixed term alone, unweighted: the mean over anchors that have mixtures.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            lam: lambda in [0, 1], the weight of the first element; or (B, B) with one for each pair (first, second),
                for losses between the rows of the batch; None draws as a step does.
            pairs: Kind of pair; None draws as a step does.
            features: As in `forward`.
            head: As in `forward`.

        Returns:
            A scalar; exactly 0 with zero gradient where no anchor has a mixture.

        Raises:
            InputError: As the constructor and `forward`, and for lambda outside [0, 1].
        """
        level = self._take_level()
        kind = draw_one(self.kinds, self.generator) if pairs is None else pairs
        self._check(kind, one_ratio=self.ratio_per == "step" if lam is None else not isinstance(lam, Tensor))
        relations = self.loss.relations(embeddings, labels)
        setting = self._set_up(level, kind, relations, embeddings, labels, features, head)
        if lam is None:
            return setting.value(self._draw(setting, self.generator))
        # Given as (positive, anchor), where rows of the plan are anchors.
        transposed = setting.plan.flipped and setting.columns_of_first is None
        return setting.value(given_ratio(lam, setting.shape, transposed, relations.similarity))

    def gradient_ratio(
        self, embeddings: Tensor, labels: Tensor, features: Tensor | None = None, head: Head | None = None
    ) -> float:
        """Return weight * |gradient of the mixed term| / |gradient of the clean loss|.

        With respect to the embeddings at level "embed", to the features at "feature". At "input", where that would take
        two more passes of the whole model, it is taken with respect to what the anchors are made of (embeddings, or
        proxies), and the mixtures are constants.

        Call it on the batch of a step whose log is written, after the step's forward call: it mixes the last step's
        kind of pair at its lambda (new ones where each pair has its own), on a detached copy, and leaves generator,
        gradients and running statistics alone. It costs the loss (and the head) once more, not the model; at "input"
        one pass of the mixtures without gradient. Far above 1, the mixed term swamps the clean one; see `reduction`.

        Args:
            embeddings: (B, d) raw embeddings.
            labels: (B,) integers.
            features: As in `forward`.
            head: As in `forward`.

        Returns:
            A number >= 0; infinite where only the clean gradient is 0, and 0 where both are.
        """
        last = self.last
        kind, ratio, level = (last.pairs, last.ratio, last.level) if last else (self.kinds[0], 0.5, self.levels[0])
        with torch.enable_grad(), steady(head), kept(self.generator):
            by = rows = embeddings.detach().clone().requires_grad_()
            maps, factor = None, self.weight
            if level == "feature":
                maps, head = check_features(features, head, level)
                by = maps = maps.detach().requires_grad_()
                rows, share = embedded_again(embeddings, maps, head)
                factor *= share
            elif level == "input":
                maps, head = check_features(features, head, level)
                head = torch.no_grad()(head)
                factor *= len(maps) / len(embeddings)
            relations = self.loss.relations(rows, labels)
            if level == "input" and isinstance(self.loss, ProxyAnchor):
                by = self.loss.proxies
            setting = self._set_up(level, kind, relations, rows, labels, maps, head)
            lam: float | Tensor = ratio
            if self.ratio_per == "pair":
                lam = self._draw(setting, self.generator)
            return relative_gradient(factor * setting.value(lam), self.loss.clean_loss(relations), by)

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
        self._next = None

    def _set_up(
        self,
        level: str,
        kind: str,
        relations: Relations,
        embeddings: Tensor,
        labels: Tensor,
        features: Tensor | None,
        head: Head | None,
    ) -> _Setting:
        """Choose the pairs, and how their mixtures come to similarities."""
        average = self.reduction == "mean" or self.loss.always_mean
        if level == "embed":
            if features is not None and self.levels == ["embed"]:
                raise InputError("features and head belong to the levels 'feature' and 'input'; this one is 'embed'.")
            plan = self._plan(kind, relations, self.hardest_at(level))
            return embedded_mixtures(self.loss, relations, plan, self.renormalize, average)
        maps, head = check_features(features, head, level)
        own = own_part(len(maps), len(embeddings))
        rows = embeddings[own]
        if len(rows) < len(embeddings):
            relations = self.loss.relations(rows, labels[own])
        plan = self._plan(kind, relations, self.hardest_at(level))
        chunk = self.chunk or (FEATURE_CHUNK if level == "feature" else None)
        anchors = self.loss.anchor_rows(rows)
        mixer = None
        if level == "input" and self.image_mixer is not None:
            # One number for masks, whether or not this process has mixtures: generators stay together.
            mixer = partial(mix_pairs, self.image_mixer, branch(self.generator))
        return EncodedMixtures(self.loss, relations, anchors, plan, maps, head, chunk, average, mixer)

    def _plan(self, kind: str, relations: Relations, hardest: int | None) -> PairPlan:
        clean = relations.similarity.detach()
        return plan_pairs(kind, relations.positive, relations.negative, clean, hardest, self.positives)

    def _draw(self, setting: _Setting, generator: torch.Generator) -> float | Tensor:
        if self.ratio_per == "step":
            return float(draw_ratio(self.alpha, generator))
        return draw_ratio(self.alpha, generator, setting.shape).to(setting.relations.similarity)
