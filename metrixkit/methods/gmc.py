"""Geometric multimodal contrast, every modality alone near all of them together; plain fusion; DMM on both.

B items, M modalities, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses import DynamicMixedMargin, NTXent
from metrixkit.methods.modality_batch import Dropping, Inputs, MixedInputs, inputs_of, partners, rows_of, task_loss
from metrixkit.mixing import mix_inputs
from metrixkit.models.multimodal import Multimodal
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class GMC(nn.Module):
    """loss(joint) + weight * SUM over modalities of NT-Xent(joint, alone) (+ DMM on the inputs of each modality).

    NT-Xent runs over the 2B embeddings of one modality and the joint branch: each row's counterpart is its positive,
    the 2B - 2 others are negatives. With DMM each modality's inputs are mixed in pairs, encoded alone, and asked by the
    bidirectional hinge to lie nearer to their own item's clean joint embedding than to any other, by the margin
    m(lambda) * margin; averaged over modalities and added with its weight.

    Args:
        model: With a branch for each modality.
        loss: On (embeddings, labels), or ``absolute_error`` on predicted numbers; of the joint branch.
        seed: Given by the programme.
        temperature: Of NT-Xent.
        weight: Of the sum of NT-Xent.
        dmm: Settings of the mixed term; null for none.
        drop: Probability that a modality goes missing in training; then the pairs of those items are left out of its
            NT-Xent and the joint branch sees zeros. 0 is published.

    Raises:
        InputError: A model without branches, or settings out of range.

    Source: Poklukar et al., ICML 2022; with DMM: IEEE Access 2023, released code (folder gmc).
    """

    def __init__(
        self,
        model: Multimodal,
        loss: nn.Module,
        seed: int = 0,
        temperature: float = 0.3,
        weight: float = 1.0,
        dmm: MixedInputs | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if not model.branches:
            raise InputError("method gmc needs a branch for each modality: leave model.branches at true.")
        if weight < 0:
            raise InputError(f"method.weight={weight}: expected a number >= 0.")
        self.model, self.loss, self.weight = model, loss, weight
        self.contrast = NTXent(temperature)
        self.dmm = None if dmm is None else dmm.around(temperature, seed)
        self.dropping = Dropping(drop, seed + 1)

    def needs(self) -> Needs:
        """Labels or values, no views."""
        return Needs(views=0)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch of modalities with their mask; ``labels`` are classes or values."""
        inputs = inputs_of(self.model, batch, self.dropping if self.training else None)
        joint = self.model.joint(inputs.x, inputs.masks, inputs.present)
        task = task_loss(self.model, self.loss, joint, batch.labels)
        contrast, mixed = gmc_terms(self.model, self.contrast, self.dmm, inputs, joint)
        total = task + self.weight * contrast
        told = {"loss/task": task.detach(), "loss/contrast": contrast.detach()}
        if mixed is not None and self.dmm is not None:
            total = total + self.dmm.current_weight * mixed
            told["loss/mixed"] = mixed.detach()
        return Output({"total": total}, lambda: {name: float(value) for name, value in told.items()})

    def encoders(self) -> dict[str, nn.Module]:
        """Return the network."""
        return {"multimodal": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the network's and the loss's parameters."""
        return _groups(self.model, self.loss)

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Settle the weight of the mixed loss, and tell the epoch to a loss that weighs its parts by it."""
        return _settle(self.dmm, self.loss, epoch)

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the generator that drops modalities."""
        return {"drop": self.dropping.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.dropping.generator.set_state(state["drop"].cpu())


class Fusion(nn.Module):
    """loss(joint) alone: the modalities are joined and nothing asks any of them to serve without the others.

    With DMM all modalities of an item are mixed with those of its partner, at one lambda, encoded together, and asked
    by the same hinge to lie near the item's own clean embedding.

    Args:
        model: Its branches of single modalities are not trained; ``model.branches=false`` builds none.
        loss: As for :class:`GMC`.
        seed: Given by the programme.
        dmm: Settings of the mixed term; null for none.
        drop: Probability that a modality goes missing in training.
    """

    def __init__(
        self, model: Multimodal, loss: nn.Module, seed: int = 0, dmm: MixedInputs | None = None, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.dmm = None if dmm is None else dmm.around(0.3, seed)
        self.dropping = Dropping(drop, seed + 1)

    def needs(self) -> Needs:
        """Labels or values, no views."""
        return Needs(views=0)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch; as :meth:`GMC.forward`."""
        inputs = inputs_of(self.model, batch, self.dropping if self.training else None)
        joint = self.model.joint(inputs.x, inputs.masks, inputs.present)
        total = task = task_loss(self.model, self.loss, joint, batch.labels)
        told = {"loss/task": task.detach()}
        if self.dmm is not None and self.dmm.current_weight > 0 and len(joint) > 1:
            lam, partner = self.dmm.draw(len(joint))
            x = {name: mix_inputs(values, lam, partner) for name, values in inputs.x.items()}
            blended = self.model.joint(x, inputs.masks, inputs.present)
            mixed = self.dmm.mixed_loss(joint, joint, mixed_a=blended, lam=lam)
            total = total + self.dmm.current_weight * mixed
            told["loss/mixed"] = mixed.detach()
        return Output({"total": total}, lambda: {name: float(value) for name, value in told.items()})

    def encoders(self) -> dict[str, nn.Module]:
        """Return the network."""
        return {"multimodal": self.model}

    def parameter_groups(self) -> list[Group]:
        """Return the network's and the loss's parameters."""
        return _groups(self.model, self.loss)

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Settle the weight of the mixed loss, and tell the epoch to a loss that weighs its parts by it."""
        return _settle(self.dmm, self.loss, epoch)

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of the generator that drops modalities."""
        return {"drop": self.dropping.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.dropping.generator.set_state(state["drop"].cpu())


def gmc_terms(
    model: Multimodal, contrast: nn.Module, dmm: DynamicMixedMargin | None, inputs: Inputs, joint: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the sum of the contrasts over modalities, and the mean of the mixed hinges; None where none is asked.

    Args:
        model: Encodes the modalities alone.
        contrast: On matched (b, d) sides.
        dmm: Draws lambda, once for all modalities, and the partners among the items that have the modality.
        inputs: The batch.
        joint: (B, d) clean joint embeddings.
    """
    total, hinges = joint.new_zeros(()), []
    mixing = dmm if dmm is not None and dmm.current_weight > 0 else None
    lam = None if mixing is None else mixing.draw(len(joint))[0]
    for column, name in enumerate(model.names):
        found = rows_of(inputs, name, column)
        if found is None:
            continue
        rows, x, mask = found
        part, own = model.part(name, x, mask), joint[rows]
        total = total + contrast(own, part)
        if mixing is not None and lam is not None:
            share = lam[rows.cpu()] if isinstance(lam, Tensor) else lam
            blended = model.part(name, mix_inputs(x, share, partners(mixing, len(rows))), mask)
            hinges.append(mixing.mixed_loss(part, own, mixed_a=blended, lam=share))
    return total, torch.stack(hinges).mean() if hinges else None


def _groups(model: Multimodal, loss: nn.Module) -> list[Group]:
    own = [p for p in loss.parameters() if p.requires_grad]
    return [*model.parameter_groups(), *([Group("loss", own, warm=True)] if own else [])]


def _settle(dmm: DynamicMixedMargin | None, loss: nn.Module, epoch: int) -> EpochPlan:
    if hasattr(loss, "set_epoch"):
        loss.set_epoch(epoch)  # type: ignore[operator]
    if dmm is not None:
        dmm.set_epoch(epoch)
        return EpochPlan(logs={"mixed_weight": dmm.current_weight})
    return EpochPlan()
