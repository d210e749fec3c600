"""How labelled images are mixed in supervised training: each a mixer of :mod:`metrixkit.mixing.images`, its options
and what it asks for.

B images. Lambda and partners are drawn by the recipe, so that they are alike for all; a mixer says how two become one
and which lambda labels must use. Concentrations of the papers' comparison (Li et al., SAMix, 2021), as its release
tabulates them; what the paper says otherwise stands in brackets:

==================  =========  =============  ==============  ===================  =========================
mixer               CIFAR-100  Tiny-ImageNet  CUB, Aircraft   ImageNet, ResNet-18  ImageNet, larger networks
==================  =========  =============  ==============  ===================  =========================
mixup               1          1              0.2 (paper: 1)  0.2                  0.2 (paper: 1)
cutmix              0.2        1              1               0.2                  1
manifoldmix         2          0.2            0.5             0.2                  0.2 (paper: 1)
saliencymix, fmix   0.2        1              0.2             0.2                  1
resizemix (drawn)   1          1              1               0.2                  1
puzzlemix           1          1              1               1                    1
==================  =========  =============  ==============  ===================  =========================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing import draw_ratio
from metrixkit.mixing.images import (
    MixedImages,
    cutmix,
    cutmix_or_mixup,
    fmix,
    inter_intra,
    manifoldmix,
    mixup,
    puzzlemix,
    resizemix,
    saliencymix,
)
from metrixkit.mixing.images.resizemix import Scale


@dataclass(frozen=True)
class Pairing:
    """What a recipe has drawn for a batch, and what a mixer may look at.

    Attributes:
        partner: (B,) int64 rows of the batch, on the CPU.
        lam: Share of the first image: a number, or (B,).
        labels: (B,) int64.
        generator: A CPU generator, equal in every process, for what the mixer draws itself.
        saliency: (B, H, W) of the images where :attr:`ImageMixer.needs_saliency`, else None.
    """

    partner: Tensor
    lam: float | Tensor
    labels: Tensor
    generator: torch.Generator
    saliency: Tensor | None = None


class ImageMixer:
    """No mixing.

    Attributes:
        alpha: Lambda is drawn from Beta(alpha, alpha); 0 leaves the images as they are.
        needs_saliency: Whether it wants the gradient of the loss by the images: a further pass.
        stages: Stages of the encoder at which it may mix maps; empty for images.
    """

    needs_saliency: ClassVar[bool] = False
    alpha: float = 0.0
    stages: tuple[int, ...] = ()

    def draw_stage(self, generator: torch.Generator) -> int | None:
        """Return the stage of a step after which maps are mixed, or None for images."""
        return None

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures of (B, 3, H, W) images in [0, 1], or of (B, ...) maps where a stage was drawn."""
        return MixedImages(inputs, torch.ones(len(inputs), device=inputs.device), None)


class NoImageMixer(ImageMixer):
    """Clean images: the vanilla classifier."""


class MixUp(ImageMixer):
    """MixUp (Zhang et al., ICLR 2018): every pixel interpolated.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _alpha(alpha)

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        return mixup(inputs, pairing.partner, pairing.lam)


class CutMix(ImageMixer):
    """CutMix (Yun et al., ICCV 2019): a box of the partner, in its place.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
        shared_box: One box a batch, as first implementations and SAMix' comparison have it, instead of one an image.
    """

    def __init__(self, alpha: float = 1.0, shared_box: bool = False) -> None:
        self.alpha, self.shared_box = _alpha(alpha), shared_box

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        return cutmix(inputs, pairing.partner, pairing.lam, pairing.generator, self.shared_box)


class ManifoldMix(ImageMixer):
    """Manifold Mixup (Verma et al., ICML 2019): maps interpolated at a stage drawn for each step.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
        stages: Stages of the backbone among which it draws, 0 being the stem, as the model's `train` counts; 1 and 2
            are the first two residual stages, as in SAMix' comparison.
        images: Whether it also draws among them the images themselves.

    Raises:
        InputError: Neither stages nor images.
    """

    def __init__(self, alpha: float = 1.0, stages: list[int] | None = None, images: bool = True) -> None:
        self.alpha, self.images = _alpha(alpha), images
        self.stages = (1, 2) if stages is None else tuple(stages)
        if not self.stages and not images:
            raise InputError("image_mixer.stages is empty and image_mixer.images is false: there is nowhere to mix.")

    def draw_stage(self, generator: torch.Generator) -> int | None:
        """Return one of the stages, or None for the images, each equally likely."""
        options = [*([None] if self.images else []), *self.stages]
        return options[int(torch.randint(len(options), (), generator=generator))]

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        return manifoldmix(inputs, pairing.partner, pairing.lam)


class SaliencyMix(ImageMixer):
    """SaliencyMix (Uddin et al., ICLR 2021): a box around the partner's most salient pixel.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
        shared_box: The first partner's box for the batch, as in SAMix' comparison, instead of one an image.
    """

    def __init__(self, alpha: float = 1.0, shared_box: bool = False) -> None:
        self.alpha, self.shared_box = _alpha(alpha), shared_box

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        return saliencymix(inputs, pairing.partner, pairing.lam, shared_box=self.shared_box)


class FMix(ImageMixer):
    """FMix (Harris et al., 2020): masks cut from low-frequency noise.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
        decay: How fast amplitude falls with frequency.
        max_soft: Share of the pixels, to each side of the edge, over which the mask passes from 1 to 0.
        shared_mask: One noise image a batch, as the authors do.
        official: The released code's noise.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 3.0,
        max_soft: float = 0.0,
        shared_mask: bool = False,
        official: bool = False,
    ) -> None:
        self.alpha, self.decay, self.max_soft = _alpha(alpha), decay, max_soft
        self.shared_mask, self.official = shared_mask, official

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        options = (self.decay, self.max_soft, self.shared_mask, self.official)
        return fmix(inputs, pairing.partner, pairing.lam, pairing.generator, *options)


class ResizeMix(ImageMixer):
    """ResizeMix (Qin et al., 2020): the whole partner, made small, in a box.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing. Any other number is the same with ``scale="uniform"``.
        scale: Side of the box: share, so that its area is 1 - lambda; uniform, the paper's U(0.1, 0.8), whatever lambda
            is; drawn, lambda itself read as the side, as in SAMix' comparison.
        shared_box: One box a batch, as in SAMix' comparison, instead of one an image.
    """

    def __init__(self, alpha: float = 1.0, scale: Scale = "uniform", shared_box: bool = False) -> None:
        self.alpha, self.scale, self.shared_box = _alpha(alpha), scale, shared_box

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        return resizemix(inputs, pairing.partner, pairing.lam, pairing.generator, self.scale, self.shared_box)


class PuzzleMix(ImageMixer):
    """PuzzleMix (Kim et al., ICML 2020): masks that keep what is salient in both, patches moved into them.

    Saliency is the gradient of the clean loss by the images, in evaluation mode: one further pass of the network, back
    to the images and not to the weights. The cut runs on the processor.

    Args:
        alpha: Concentration, >= 0; 0 mixes nothing.
        blocks: Places of the mask to a side; null draws one of 2, 4, 8, 16 a batch.
        beta: Weight of the smoothness of labels.
        gamma: Weight of the smoothness of colours, as a share of `beta`.
        eta: Weight of the prior.
        transport: Whether patches move.
        transport_cost: What it costs to move a patch across the image.
    """

    needs_saliency: ClassVar[bool] = True

    def __init__(
        self,
        alpha: float = 1.0,
        blocks: int | None = None,
        beta: float = 1.2,
        gamma: float = 0.5,
        eta: float = 0.2,
        transport: bool = True,
        transport_cost: float = 0.8,
    ) -> None:
        self.alpha, self.blocks, self.beta, self.gamma, self.eta = _alpha(alpha), blocks, beta, gamma, eta
        self.transport, self.transport_cost = transport, transport_cost

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        assert pairing.saliency is not None  # the recipe brings what needs_saliency asks for
        return puzzlemix(
            inputs,
            pairing.partner,
            pairing.lam,
            pairing.generator,
            pairing.saliency,
            blocks=self.blocks,
            beta=self.beta,
            gamma=self.gamma,
            eta=self.eta,
            transport=self.transport,
            transport_cost=self.transport_cost,
        )


class InterIntra(ImageMixer):
    """Inter-Intra (Li et al., SAMix, 2021): CutMix between classes, MixUp within one.

    Args:
        alpha: Concentration for pairs of different classes, >= 0; 0 mixes nothing.
        intra_alpha: For pairs of one class, > 0.

    Raises:
        InputError: A number out of range.
    """

    def __init__(self, alpha: float = 2.0, intra_alpha: float = 0.2) -> None:
        self.alpha, self.intra_alpha = _alpha(alpha), intra_alpha
        draw_ratio(intra_alpha, torch.Generator())  # refuses what cannot be drawn from

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        many = pairing.lam.shape if isinstance(pairing.lam, Tensor) else ()
        drawn = draw_ratio(self.intra_alpha, pairing.generator, tuple(many))
        within = drawn if many else float(drawn)
        return inter_intra(inputs, pairing.partner, pairing.lam, pairing.generator, pairing.labels, intra_lam=within)


class CutMixOrMixUp(ImageMixer):
    """CutMix or MixUp, by a coin for each batch.

    Args:
        alpha: Concentration of both, >= 0; 0 mixes nothing.
        mixup_share: Probability of MixUp, in [0, 1].
        shared_box: As for cutmix.

    Raises:
        InputError: A number out of range.
    """

    def __init__(self, alpha: float = 1.0, mixup_share: float = 0.5, shared_box: bool = False) -> None:
        if not 0 <= mixup_share <= 1:
            raise InputError(f"image_mixer.mixup_share={mixup_share}: expected a probability in [0, 1].")
        self.alpha, self.mixup_share, self.shared_box = _alpha(alpha), mixup_share, shared_box

    def mix(self, inputs: Tensor, pairing: Pairing) -> MixedImages:
        """Return the mixtures."""
        options = (self.mixup_share, self.shared_box)
        return cutmix_or_mixup(inputs, pairing.partner, pairing.lam, pairing.generator, *options)


LABEL_MIXERS: dict[str, type[ImageMixer]] = {
    "none": NoImageMixer,
    "mixup": MixUp,
    "cutmix": CutMix,
    "manifoldmix": ManifoldMix,
    "saliencymix": SaliencyMix,
    "fmix": FMix,
    "resizemix": ResizeMix,
    "puzzlemix": PuzzleMix,
    "inter-intra": InterIntra,
    "cutmix-or-mixup": CutMixOrMixUp,
}


def _alpha(alpha: float) -> float:
    if not 0 <= alpha < float("inf"):
        raise InputError(f"image_mixer.alpha={alpha}: expected a number >= 0; 1 is usual, 0 mixes nothing.")
    return float(alpha)
