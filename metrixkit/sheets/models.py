"""What a run offers to look at mixing with: its encoder, its Mixer, its classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.embedding.images import load_image_model
from metrixkit.errors import InputError
from metrixkit.inference import default_device
from metrixkit.mixing.images import fine_grained_saliency, gradient_saliency
from metrixkit.mixing.mixer import MaskPair, Mixer, channels_first, has_mixer, load_mixer
from metrixkit.models import ImageEncoder
from metrixkit.models.classifier import CLASSIFIER, load_classifier

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class RunModels:
    """A run's networks, in evaluation mode on one device.

    Attributes:
        where: What the user called it.
        encoder: The exported encoder.
        transform: Its evaluation transform: (3, H, W) uint8 to (3, S, S) uint8.
        mixer: The learned Mixer, or None.
        stage: Stage whose maps the Mixer reads.
        classifier: (B, 3, H, W) images in [0, 1] to (B, number of classes) logits, or None.
        classes: Names of the classes, in the order of the logits.
    """

    where: str
    encoder: ImageEncoder
    transform: Callable[[Tensor], Tensor]
    mixer: Mixer | None = None
    stage: int | None = None
    classifier: Logits | None = None
    classes: Sequence[str] = ()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.encoder.parameters()).device

    def fitted(self, images: Tensor) -> Tensor:
        """Return (B, 3, H, W) images on the device, at the size the encoder was trained at."""
        images, size = images.to(self.device), self.encoder.image_size
        if images.shape[-2:] == (size, size):
            return images
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(0, 1)

    @torch.no_grad()
    def masks(self, first: Tensor, second: Tensor, lam: float) -> MaskPair:
        """Return the Mixer's masks of P pairs, at the size of the images.

        The Mixer sees the exported encoder's maps in evaluation mode. (In training it sees those of the momentum
        network, normalised by the batch.)

        Args:
            first: (P, 3, H, W) in [0, 1].
            second: Their partners.
            lam: Share of the first.

        Raises:
            InputError: The run has no Mixer, or it does not fit the encoder.
        """
        if self.mixer is None:
            raise InputError(f"{self.where} holds no Mixer; runs that train one (SAMix, AutoMix) leave it in model/.")
        channels, size = self.mixer.channels, (int(first.shape[-2]), int(first.shape[-1]))
        z_i, z_j = (
            channels_first(self.encoder.features(self.fitted(images), self.stage), channels)
            for images in (first, second)
        )
        most = max(1, self.mixer.attention_limit // (z_i.shape[2] * z_i.shape[3]) ** 2)
        found = [self.mixer(a, b, lam, size) for a, b in zip(z_i.split(most), z_j.split(most), strict=True)]
        return MaskPair(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def load_run(where: str | Path) -> RunModels:
    """Return the networks of a run, or of an exported model.

    Args:
        where: A run folder, an exported model's folder, or a hub name.

    Raises:
        InputError: No model of images is there, or one of its parts cannot be read.
    """
    device = default_device()
    embedder = load_image_model(where, device)
    mixer, stage, classifier = None, None, None
    for folder in (Path(where) / "model", Path(where)):
        if mixer is None and has_mixer(folder):
            saved = load_mixer(folder)
            mixer, stage = saved.mixer.to(device), saved.stage
        if classifier is None and (folder / CLASSIFIER).is_file():
            classifier = load_classifier(folder, embedder.encoder)
    classes = () if classifier is None else classifier.classes
    return RunModels(str(where), embedder.encoder, embedder.transform, mixer, stage, classifier, classes)


def saliency(images: Tensor, models: RunModels | None = None) -> Tensor:
    """Return where images are salient, for PuzzleMix: (B, H, W) >= 0 on the CPU.

    Args:
        images: (B, 3, H, W) in [0, 1].
        models: A classifier's gradient of the cross-entropy of the class it predicts, by the pixels; of an encoder
            without one, the gradient of the squared length of its last features; None is the model-free
            :func:`~metrixkit.mixing.fine_grained_saliency`.
    """
    if models is None:
        return fine_grained_saliency(images)
    seen = models.fitted(images).detach().requires_grad_()
    with torch.enable_grad():
        if models.classifier is not None:
            logits = models.classifier(seen)
            told = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
        else:
            told = models.encoder.features(seen).float().square().sum()
        (gradient,) = torch.autograd.grad(told, seen)
    found = gradient_saliency(gradient)[:, None]
    if found.shape[-2:] != images.shape[-2:]:
        found = F.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False)
    return found[:, 0].to("cpu")


def saliency_told(models: RunModels | None) -> str:
    """Return what :func:`saliency` is, for captions."""
    if models is None:
        return "no model given: model-free saliency stands in for the input gradient"
    if models.classifier is not None:
        return "saliency: the classifier's input gradient, for the class it predicts"
    return "saliency: input gradient of the squared length of the encoder's last features"
