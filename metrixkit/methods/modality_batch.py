"""What methods on several modalities share: what of a batch is there, its task loss, and DMM on mixed inputs.

B items, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses import DynamicMixedMargin, NTXent, Ramp
from metrixkit.mixing import Partner, draw_partners
from metrixkit.models.multimodal import Multimodal
from metrixkit.seam import Batch


@dataclass(frozen=True)
class MixedInputs:
    """DMM on the inputs of modalities: what is added, and when.

    Attributes:
        weight: Greatest weight of the mixed loss, >= 0.
        margin: alpha, the gap of cosines that a clean row would be asked for, in [0, 2].
        schedule: The part of it that is asked of a mixture.
        low: Least lambda.
        high: Greatest lambda.
        ratio_per: One lambda a "step" for all modalities, or one for each "row".
        partner: Who is mixed with whom.
        ramp: How the weight grows; e / (e + 12) from e = 1 is that of the release. null has it whole at once.
    """

    weight: float = 1.0
    margin: float = 0.2
    schedule: Literal["lambda", "2lambda-1", "constant"] = "lambda"
    low: float = 0.5
    high: float = 1.0
    ratio_per: Literal["step", "row"] = "step"
    partner: Literal["flip", "permutation"] = "flip"
    ramp: Ramp | None = field(default_factory=lambda: Ramp(12.0, 1))

    def around(self, temperature: float, seed: int) -> DynamicMixedMargin:
        """Return the criterion, its host being NT-Xent."""
        return DynamicMixedMargin(
            NTXent(temperature),
            schedule=self.schedule,
            low=self.low,
            high=self.high,
            ratio_per=self.ratio_per,
            partner=self.partner,
            weight=self.weight,
            ramp=self.ramp,
            alpha=self.margin,
            seed=seed,
        )


@dataclass(frozen=True)
class Inputs:
    """A batch as the networks take it.

    Attributes:
        x: Modality to (B, ...) floats, of those that anything is there of.
        masks: What else came with the batch, ``NAME_mask`` among it.
        present: (B, M) bool.
    """

    x: dict[str, Tensor]
    masks: Mapping[str, Tensor]
    present: Tensor


class Dropping:
    """Modalities that go missing in training, drawn anew each step; each item keeps one at least.

    Args:
        rate: Probability of each modality of each item, in [0, 1).
        seed: Of the generator.

    Raises:
        InputError: A rate out of range.
    """

    def __init__(self, rate: float, seed: int) -> None:
        if not 0 <= rate < 1:
            raise InputError(f"method.drop={rate}: expected a probability, 0 <= x < 1.")
        self.rate = rate
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, present: Tensor) -> Tensor:
        """Return (B, M) bool with less in it; (B, M) itself at rate 0."""
        if self.rate == 0:
            return present
        places = torch.rand(present.shape, generator=self.generator).to(present.device)
        kept = present & (places >= self.rate)
        # Of an item that would lose all, the modality drawn last stays.
        last = torch.where(present, places, -1.0).argmax(dim=1)
        lost = ~kept.any(dim=1)
        kept[lost, last[lost]] = present[lost, last[lost]]
        return kept


def inputs_of(model: Multimodal, batch: Batch, dropping: Dropping | None) -> Inputs:
    """Return a batch for the networks; `dropping` takes more away, in training.

    Raises:
        InputError: An item without any modality.
    """
    present = batch.mask
    if present is None:
        present = torch.ones(len(batch.ids), len(model.names), dtype=torch.bool)
    here = torch.tensor([name in batch.modalities for name in model.names], device=present.device)
    present = present & here
    if not bool(present.any(dim=1).all()):
        row = int((~present.any(dim=1)).nonzero()[0])
        raise InputError(f"of the item {batch.ids[row]!r} no modality is there: {', '.join(model.names)}.")
    present = present if dropping is None else dropping(present)
    return Inputs(model.prepare(batch.modalities), batch.modalities, present)


def rows_of(inputs: Inputs, name: str, column: int) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return rows, inputs and mask of the items that have a modality; None for fewer than two."""
    if name not in inputs.x:
        return None
    rows = inputs.present[:, column].nonzero()[:, 0].to(inputs.x[name].device)
    if len(rows) < 2:
        return None
    mask = inputs.masks.get(f"{name}_mask")
    return rows, inputs.x[name][rows], None if mask is None else mask[rows]


def partners(dmm: DynamicMixedMargin, count: int) -> Tensor:
    """Return (count,) partners by the criterion's own rule and generator."""
    how: Partner = dmm.partner
    return draw_partners(count, how, dmm.generator)


def task_loss(model: Multimodal, loss: nn.Module, joint: Tensor, labels: Tensor | None) -> Tensor:
    """Return the loss of (B, d) joint embeddings on labels, or of the numbers predicted from them.

    Raises:
        InputError: No labels.
    """
    if labels is None:
        raise InputError("this method learns from labels or values, and the batch has none.")
    if getattr(loss, "takes", "labels") == "values":
        return loss(model.predict(joint), labels)  # type: ignore[no-any-return]
    return loss(joint, labels)  # type: ignore[no-any-return]
