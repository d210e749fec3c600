"""The image encoder: backbone, pooling, projection, normalisation."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.backbone import build_trunk
from metrixkit.models.frozen_batch_norm import fold_frozen
from metrixkit.models.head import Head
from metrixkit.models.pooling import Pool, PoolingName, check_pooling
from metrixkit.models.stages import Split
from metrixkit.models.stem import StemName
from metrixkit.models.training_part import freeze, groups, trainable_stages
from metrixkit.models.trunk import Card, feature_shape, own_pool_channels, reached_parameters
from metrixkit.seam import Group


class ImageEncoder(nn.Module):
    """Images to embeddings: ``forward(x) == head(features(x))``, and so after any stage of the backbone.

    Args:
        backbone: ``timm/NAME``, ``torchvision/NAME``, ``transformers/NAME_OR_FOLDER`` (CLIP, SigLIP, DINOv2 towers),
            ``small``, or a class of your own as ``package.module:Name``.
        weights: ``none`` (random, from torch's global generator), ``pretrained`` (the library's own route; downloads
            what is not cached), or the path of a ``.pt``, ``.pth`` or ``.safetensors`` file in the library's layout, in
            which everything but the classifier must match.
        pooling: How features become a vector: ``avg``, ``max``, ``avg+max`` (their sum, as Metrix), ``gem``, ``token``
            (class token) or ``model`` (the backbone's own). See :class:`metrixkit.models.pooling.Pool`.
        dim: Length of the embedding: a linear layer with bias follows the pooling, weights drawn by Kaiming's normal
            rule (fan out), bias 0. None: the pooled vector is the embedding.
        normalize: Divide each row by its Euclidean length.
        freeze_batch_norm: Batch norms keep running statistics, scale and shift, whatever :meth:`train` says, and are
            computed with the convolution before them where that is possible.
        train: ``all``; ``last:N``, the last N stages of the backbone and the head; ``head``. Stages are the layers of a
            transformer and the stages of a CNN, the stem being the first. Frozen stages stay in evaluation mode.
        layer_decay: In (0, 1]. The k-th stage from the output trains at ``layer_decay ** k`` times the rate.
        head_lr: Factor on the rate of the head.
        image_size: Side of the input in pixels; None takes that of the weights' card.
        mean: Mean of red, green and blue in [0, 1] to subtract; None takes the card's.
        std: Their standard deviation to divide by; None takes the card's.
        channels_last: Keep weights and images in channels-last memory; faster for CNNs in low precision.
        stem: First layers of the backbone: ``imagenet``, its own; ``small``, for ResNets on images of 32 to 96 pixels,
            3 x 3 with stride 1 and no max-pool, so that maps are four times as large in each direction. Give
            `image_size` with it: the card's is that of the other stem.

    Attributes:
        embedding_dim: Length of the embedding.
        image_size: Side of the input in pixels.
        mean: (1, 3, 1, 1) buffer.
        std: (1, 3, 1, 1) buffer.
        notes: Departures from the weights' card, sentence by sentence, for the log.

    Raises:
        InputError: A name, file or number that cannot be right; the message says how to mend it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "timm/resnet50.tv_in1k",
        weights: str = "none",
        pooling: PoolingName = "avg+max",
        dim: int | None = 512,
        normalize: bool = True,
        freeze_batch_norm: bool = False,
        train: str = "all",
        layer_decay: float = 1.0,
        head_lr: float = 1.0,
        image_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        channels_last: bool = False,
        stem: StemName = "imagenet",
    ) -> None:
        super().__init__()
        self._frozen: list[str] = []
        _check_numbers(dim, layer_decay, head_lr, image_size, mean, std)
        trunk = build_trunk(backbone, weights, image_size, pooling == "model", stem)
        self.trunk = cast(nn.Module, trunk)
        card = trunk.card
        self.image_size = image_size or card.image_size
        mean, std = list(mean or card.mean), list(std or card.std)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.notes = _departures(card, Card(self.image_size, tuple(mean), tuple(std)))

        shape = feature_shape(self.trunk, self.image_size)
        check_pooling(pooling, shape, trunk.prefix_tokens, backbone)
        self.pool = None if pooling == "model" else Pool(pooling, trunk.prefix_tokens)
        channels = shape[-1] if len(shape) == 3 else shape[1]
        if pooling == "model":
            channels = own_pool_channels(self.trunk, self.image_size)
        self.projection = None if dim is None else nn.Linear(channels, dim)
        if self.projection is not None:
            nn.init.kaiming_normal_(self.projection.weight, mode="fan_out")
            nn.init.zeros_(self.projection.bias)
        self.embedding_dim = channels if dim is None else dim
        self.normalize = normalize
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._settings: dict[str, Any] = {
            "backbone": backbone, "weights": weights, "pooling": pooling, "dim": dim, "normalize": normalize,
            "freeze_batch_norm": freeze_batch_norm, "train": train, "layer_decay": layer_decay, "head_lr": head_lr,
            "image_size": self.image_size, "mean": mean, "std": std, "channels_last": channels_last,
            "stem": stem,
        }  # fmt: skip

        self._stages = trunk.stages()
        self._splits: dict[int, Split] = {}
        # What this pooling does not reach must not wait for a gradient.
        reached = reached_parameters(self, self.image_size)
        for name, parameter in self.named_parameters():
            if name not in reached:
                parameter.requires_grad_(False)
        trainable = trainable_stages(train, len(self._stages))
        self._frozen = freeze(trunk.model, self._stages, trainable, freeze_batch_norm)
        if freeze_batch_norm:
            fold_frozen(self.trunk, self.image_size)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of a batch of images.

        Args:
            images: (B, 3, H, W), uint8 in 0..255 or floating point in [0, 1]; mean and std are applied here.

        Returns:
            (B, embedding_dim) float32 (float64 of a double encoder), also under autocast; unit rows if `normalize`.

        Raises:
            InputError: Another shape.
        """
        return self.head(self.features(images))

    def features(self, images: Tensor, stage: int | None = None) -> Tensor:
        """Return the backbone's features; mixing at feature level happens here.

        Args:
            images: As for :meth:`forward`.
            stage: Those after this stage, 0 being the stem; None (or the last stage) takes the last features, before
                pooling. Stages are those of `train`: layers of a transformer, stages of a CNN.

        Returns:
            Maps (B, C, h, w), tokens (B, N, C) or vectors (B, C), by the backbone; under autocast in its precision.

        Raises:
            InputError: As :meth:`forward`; no such stage, or a backbone that cannot be cut there.
        """
        split = self._split(stage)
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), uint8 or in [0, 1].")
        pixels = images.to(self.mean.dtype)
        if not images.is_floating_point():
            pixels = pixels / 255
        pixels = (pixels - self.mean) / self.std
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.trunk(pixels) if split is None else split.features(pixels)  # type: ignore[no-any-return]

    @property
    def head(self) -> Head:
        """What pools, projects and normalises the last features, (B, ...) -> (B, embedding_dim), or mixtures of such.

        Embeddings are in float32 also under autocast.
        """
        return Head(self)

    def head_from(self, stage: int | None = None) -> Head:
        """Return what follows ``features(images, stage)``: the rest of the backbone and the head.

        Raises:
            InputError: No such stage, or a backbone that cannot be cut there.
        """
        return Head(self, self._split(stage))

    def _split(self, stage: int | None) -> Split | None:
        if stage is None or stage == len(self._stages) - 1:
            return None
        if stage not in self._splits:
            self._splits[stage] = Split(self.trunk, stage, self.image_size, f"backbone {self._settings['backbone']!r}")
        return self._splits[stage]

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set training mode, except for what is frozen."""
        super().train(mode)
        for name in self._frozen:
            self.trunk.model.get_submodule(name).eval()  # type: ignore[union-attr]
        return self

    def parameter_groups(self) -> list[Group]:
        """Return every trainable parameter exactly once; see :func:`metrixkit.models.training_part.groups`."""
        head = [p for module in (self.pool, self.projection) if module is not None for p in module.parameters()]
        model = cast(nn.Module, self.trunk.model)
        return groups(model, self._stages, head, self._settings["layer_decay"], self._settings["head_lr"])

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON takes them, what the card gave filled in."""
        return {key: list(value) if isinstance(value, list) else value for key, value in self._settings.items()}


def _check_numbers(
    dim: int | None,
    layer_decay: float,
    head_lr: float,
    image_size: int | None,
    mean: list[float] | None,
    std: list[float] | None,
) -> None:
    if dim is not None and dim < 1:
        raise InputError(f"dim {dim}: expected a positive length, or null for the pooled vector itself.")
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size {image_size}: expected pixels, or null for the weights' own.")
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay {layer_decay}: expected a factor in (0, 1]; 1 trains all stages alike.")
    if head_lr < 0:
        raise InputError(f"head_lr {head_lr}: expected a factor of at least 0 on the head's rate.")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and (len(values) != 3 or (name == "std" and min(values) <= 0)):
            raise InputError(f"{name} {values}: expected three numbers, of red, green and blue in [0, 1]; std above 0.")
        if values is not None and max(abs(v) for v in values) > 1:
            raise InputError(f"{name} {values}: these are for pixels in 0..255; divide them by 255.")


def _departures(card: Card, own: Card) -> list[str]:
    notes = []
    if own.image_size != card.image_size:
        notes.append(f"image_size {own.image_size}; the weights' card says {card.image_size}")
    for name, values, expected in (("mean", own.mean, card.mean), ("std", own.std, card.std)):
        if any(abs(a - b) > 1e-6 for a, b in zip(values, expected, strict=True)):
            notes.append(f"{name} {list(values)}; the weights' card says {list(expected)}")
    return notes
