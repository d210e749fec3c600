"""Mixtures of features or inputs: encoded once each, and compared with the clean embeddings of their anchors.

B rows of the batch, A anchors, K candidates (the batch), U mixtures, T comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metrixkit.distributed import rank, world_size
from metrixkit.errors import InputError
from metrixkit.losses.flat import flat_sum
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.relations import Relations
from metrixkit.losses.similarities import Head, mixture_similarities
from metrixkit.losses.unit import no_autocast
from metrixkit.mixing import PairPlan, UniqueMixtures, unique_mixtures

ImageMixer = Callable[[Tensor, UniqueMixtures, float | Tensor], tuple[Tensor, Tensor]]
"""(B, C, H, W) images, U pairs of their rows, the first ones' shares -> (U, C, H, W) mixtures and (U,) shares."""

FEATURE_CHUNK = 256
"""Mixtures of features that are held at once where no other number is given."""
_MOST_COMPARISONS = 2**26


@dataclass(frozen=True)
class EncodedMixtures:
    """The mixed loss of a step at feature or input level, up to its lambda.

    Attributes:
        loss: Whose form is taken.
        relations: Of the batch.
        anchors: (A, d) unit rows.
        plan: The pairs; both elements are rows of the batch.
        features: (B, ...) what is mixed.
        head: Encodes mixtures.
        chunk: See :func:`~metrixkit.losses.similarities.mixture_similarities`.
        average: Whether an anchor's mixtures are averaged instead of summed.
        image_mixer: How two images become one at level "input", given its generator: the shares that it returns weigh
            the labels. None interpolates pixels, or features.
    """

    loss: PairLoss
    relations: Relations
    anchors: Tensor
    plan: PairPlan
    features: Tensor
    head: Head
    chunk: int | None
    average: bool
    image_mixer: ImageMixer | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, B): one lambda for each where pairs have their own."""
        return len(self.features), len(self.features)

    @property
    def columns_of_first(self) -> None:
        """First elements are the batch's rows themselves."""

    def value(self, ratio: float | Tensor) -> Tensor:
        """Return the mixed loss, a scalar, by a number or (B, B) lambdas; exactly 0 without mixtures."""
        counts = self.plan.counts()
        if int(counts.sum()) > _MOST_COMPARISONS:
            raise InputError(
                f"{int(counts.sum()):,} comparisons of anchors and mixtures are too many to list; narrow them with "
                "hardest=K, or mix another kind of pairs."
            )
        mixtures = unique_mixtures(self.plan)
        if not len(mixtures):
            return self.anchors[:0].sum() + self.relations.zero_or_nan()
        lam = ratio[mixtures.first, mixtures.second] if isinstance(ratio, Tensor) else ratio
        first_weight = 1 - lam if self.plan.flipped else lam
        features, elements = self.features, mixtures
        if self.image_mixer is not None:
            features, first_weight = self.image_mixer(features, mixtures, first_weight)
            lam = 1 - first_weight if self.plan.flipped else first_weight
            # The mixtures are there already: each stands alone.
            alone = torch.arange(len(mixtures), device=features.device)
            elements, first_weight = replace(mixtures, first=alone, second=alone), 1.0
        s = mixture_similarities(self.anchors, features, self.head, elements, first_weight, self.chunk)
        label: float | Tensor = lam if self.plan.target is None else self.plan.target
        if isinstance(label, Tensor):
            label = label[mixtures.mixture].to(s.dtype)
        with no_autocast(s):
            weight_pos, weight_neg = self.loss.batch_weights(self.relations, counts > 0)
            share = 1 / counts.clamp(min=1).to(s.dtype) if self.average else torch.ones_like(weight_pos)
            mixed = flat_sum(self.loss.form, s, mixtures.anchor, label, share, weight_pos, weight_neg)
            return mixed + self.relations.zero_or_nan()


def check_features(features: Tensor | None, head: Head | None, level: str) -> tuple[Tensor, Head]:
    """Return floating features and the head, or raise InputError; uint8 images are brought to [0, 1].

    Args:
        features: (B, ...) floating, or uint8 at level "input".
        head: Encodes mixtures of them.
        level: For messages.
    """
    what = "maps, tokens or vectors, and what encodes them" if level == "feature" else "images, and the whole encoder"
    if features is None or head is None:
        raise InputError(f"level={level!r} needs features=... and head=...: {what}.")
    if not isinstance(features, Tensor) or not callable(head):
        raise InputError(
            f"level={level!r}: got {type(features).__name__} and {type(head).__name__}, expected a tensor and a "
            f"callable: {what}."
        )
    if features.dtype == torch.uint8 and level == "input":
        features = features.float() / 255
    if features.ndim < 2 or not features.is_floating_point():
        raise InputError(
            f"features: got {features.dtype} {tuple(features.shape)}, expected floating (B, ...), or uint8 images at "
            "level 'input'."
        )
    return features, head


def own_part(count: int, rows: int) -> slice:
    """Return which of `rows` gathered rows are this process's `count`; all of them outside a process group.

    Raises:
        InputError: There is not one feature for each row of this process.
    """
    if rows == count:
        return slice(0, rows)
    if world_size() > 1 and rows == count * world_size():
        return slice(rank() * count, (rank() + 1) * count)
    raise InputError(
        f"features have {count} rows, embeddings {rows}; expected one for each (in several processes: this process's "
        "features with the embeddings of all, in rank order)."
    )
