"""Supervised classification, clean or with mixed images and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.distributed import world_size
from metrixkit.errors import InputError
from metrixkit.inference import evaluating
from metrixkit.losses import mixed_cross_entropy
from metrixkit.losses.soft_labels import check_smoothing
from metrixkit.losses.unit import no_autocast
from metrixkit.methods.image_mixers import ImageMixer, NoImageMixer, Pairing
from metrixkit.methods.momentum_tower import own_share, pixels
from metrixkit.mixing import draw_between, draw_partners, draw_ratio
from metrixkit.mixing.images import MixedImages, gradient_saliency
from metrixkit.models.classifier import Classifier
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class Classification(nn.Module):
    """A linear classifier on an encoder, both trained by cross-entropy, with any of the image mixers.

    A step mixes the batch with a permutation of itself (a row may meet itself) and minimises ``lambda CE(y_i) +
    (1 - lambda) CE(y_j)`` with the lambda that the mixer returns. Mixtures are of a process's own rows.

    Args:
        model: Encoder of images to embeddings that are not normalised (``model.normalize=false``); pooled features
            (``model.dim=null``) are usual.
        num_classes: C. Given by the programme.
        image_mixer: What is mixed and how; see :mod:`metrixkit.methods.image_mixers`.
        probability: Share of the steps that mix, drawn for each; the others are clean.
        ratio_per: One lambda a batch, as published, or one a sample.
        label_smoothing: Share of the labels spread over all classes.
        classifier_lr: Factor on the base rate for the linear layer.
        seed: Of lambda, partners and what mixers draw.

    Raises:
        InputError: Fewer than two classes, a model that normalises or cannot be cut where the mixer mixes, a number
            out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        image_mixer: ImageMixer | None = None,
        probability: float = 1.0,
        ratio_per: Literal["batch", "sample"] = "batch",
        label_smoothing: float = 0.0,
        classifier_lr: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_classifiable(model, num_classes)
        if not 0 <= probability <= 1:
            raise InputError(f"method.probability={probability}: expected the share of steps that mix, in [0, 1].")
        if classifier_lr < 0:
            raise InputError(f"method.classifier_lr={classifier_lr}: expected a factor of at least 0.")
        self.mixer = NoImageMixer() if image_mixer is None else image_mixer
        self.probability, self.ratio_per, self.classifier_lr = probability, ratio_per, classifier_lr
        self.label_smoothing = check_smoothing(label_smoothing)
        self.model = model
        self.linear = linear_layer(int(model.embedding_dim), num_classes)  # type: ignore[arg-type]
        self.generator = torch.Generator().manual_seed(seed)
        for stage in self.mixer.stages:
            if not hasattr(model, "head_from"):
                raise InputError(
                    f"image_mixer.stages: {type(model).__name__} cannot be cut; it has no head_from(stage)."
                )
            model.head_from(stage)  # type: ignore[operator]  # a stage that is not there is refused now

    def needs(self) -> Needs:
        """One view with labels; only batch norm couples the rows."""
        return Needs(views=1, labels=True, batch_coupled=False)

    def forward(self, batch: Batch) -> Output:
        """Return the loss of a batch."""
        images, labels = pixels(batch.views[0]), batch.labels
        assert labels is not None  # the loop brings what needs() asks for
        second, lam = labels, torch.ones(len(labels), device=images.device)
        if self._mixes():
            stage = self.mixer.draw_stage(self.generator)
            pairing = self._pairing(images, labels)
            second = labels[pairing.partner.to(labels.device)]
            mixed, embeddings = self._mixed(images, pairing, stage)
            lam = mixed.lam
        else:
            embeddings = self.model(images)
        with no_autocast(embeddings):
            logits = self.linear(embeddings)
        total = mixed_cross_entropy(logits, labels, second, lam, self.label_smoothing)

        def logs() -> dict[str, float]:
            guess = logits.detach().argmax(1)
            right = lam * (guess == labels) + (1 - lam) * (guess == second)
            return {"lambda": float(lam.mean()), "accuracy": float(right.mean())}

        return Output({"total": total}, logs)

    def _mixes(self) -> bool:
        if self.mixer.alpha == 0 or self.probability == 0:
            return False
        return self.probability == 1 or float(draw_between(0, 1, self.generator)) < self.probability

    def _pairing(self, images: Tensor, labels: Tensor) -> Pairing:
        count = len(labels)
        lam: float | Tensor
        if self.ratio_per == "batch":
            lam = float(draw_ratio(self.mixer.alpha, self.generator))
        else:
            lam = own_share(draw_ratio(self.mixer.alpha, self.generator, (count * world_size(),)), count)
        partner = draw_partners(count, "permutation", self.generator)
        saliency = self._saliency(images, labels) if self.mixer.needs_saliency else None
        return Pairing(partner, lam, labels, self.generator, saliency)

    def _mixed(self, images: Tensor, pairing: Pairing, stage: int | None) -> tuple[MixedImages, Tensor]:
        if stage is None:
            mixed = self.mixer.mix(images, pairing)
            return mixed, self.model(mixed.images)
        mixed = self.mixer.mix(self.model.features(images, stage), pairing)  # type: ignore[operator]
        return mixed, self.model.head_from(stage)(mixed.images)  # type: ignore[operator]

    def _saliency(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return (B, H, W) how much the clean loss depends on each pixel; batch norms are neither used nor moved."""
        with evaluating(self), torch.enable_grad():
            asked = images.detach().requires_grad_()
            embeddings = self.model(asked)
            with no_autocast(embeddings):
                logits = self.linear(embeddings)
            loss = mixed_cross_entropy(logits, labels, labels, 1.0)
            (gradient,) = torch.autograd.grad(loss, asked)
        return gradient_saliency(gradient)

    def encoders(self) -> dict[str, nn.Module]:
        """Return the encoder, which is exported and searched with, and the classifier on it."""
        return {"image": self.model, "classifier": Classifier(self.model, self.linear)}

    def parameter_groups(self) -> list[Group]:
        """Return the encoder's groups and the linear layer."""
        groups: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [*groups, Group("classifier", list(self.linear.parameters()), lr_scale=self.classifier_lr, warm=True)]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Nothing to settle."""
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Nothing follows the weights."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())


def check_classifiable(model: nn.Module, num_classes: int) -> None:
    """Raise InputError unless there are two classes, and the model's embeddings have their own length."""
    if num_classes < 2:
        raise InputError(
            f"the training split has {num_classes} class: a classifier needs two or more. Is data.classes too narrow, "
            "or do all files lie in one folder?"
        )
    said = model.settings() if hasattr(model, "settings") else {}  # type: ignore[operator]
    if said.get("normalize"):
        raise InputError(
            "a linear classifier on rows of length 1 can hardly tell classes apart: set model.normalize=false, and "
            "model.dim=null for the pooled features themselves."
        )


def linear_layer(inputs: int, classes: int) -> nn.Linear:
    """Return a layer with weights from N(0, 0.01^2), of torch's global generator, and biases 0, as SAMix' heads."""
    layer = nn.Linear(inputs, classes)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
