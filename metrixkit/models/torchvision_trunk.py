"""Backbones of torchvision, split before their pooling although torchvision itself offers no such split."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.trunk import Card, layer_prefixes, stages_by_prefix

log = logging.getLogger(__name__)

# Children of a torchvision model that come after the last features, in all families that run their children in turn.
_AFTER = ("avgpool", "flatten", "classifier", "fc", "head", "heads")
# Children that only group others; a stage is one of theirs.
_GROUPS = ("features", "layers", "blocks", "trunk_output")


class TorchvisionTrunk(nn.Module):
    """A torchvision classification model without its classifier; see :class:`metrixkit.models.trunk.Trunk`.

    Args:
        name: torchvision's name, optionally with the weights' (``resnet50``, ``resnet50.IMAGENET1K_V1``); without, the
            default ones give the card.
        image_size: Side of the input in pixels, or None for that of the card. ViT and MaxViT are built for it.
        pretrained: Load the weights by torchvision's own route, downloading them when they are not cached.

    Raises:
        InputError: No such name or weights, weights that cannot be had, or a family whose forward pass does not
            split (GoogLeNet, Inception).
    """

    def __init__(self, name: str, image_size: int | None, pretrained: bool) -> None:
        super().__init__()
        base, weights = _weights(name)
        self.card = _card(weights)
        self._image_size = image_size or self.card.image_size
        self.model: nn.Module = create(base, self._image_size)
        self._vit = isinstance(self.model, VisionTransformer)
        self._relu = isinstance(self.model, models.DenseNet)  # applied by its forward, in no child
        self.prefix_tokens = int(self._vit)
        children = [child for child, _ in self.model.named_children()]
        self.head_names = tuple(child for child in children if child in _AFTER)
        self._steps: list[str] = []
        for child in children:
            if child in self.head_names or self._vit:
                continue
            inner = getattr(self.model, child)
            grouped = child in _GROUPS
            self._steps += [f"{child}.{key}" for key, _ in inner.named_children()] if grouped else [child]
        self._keep_only_pooling()
        if pretrained:
            self.model.load_state_dict(_fetch(name, weights, self), strict=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (B, C, H, W), or tokens (B, N, C) of a ViT, of (B, 3, H, W) normalised images."""
        if self._vit:
            patches = self.model._process_input(images)  # type: ignore[operator]
            token = self.model.class_token.expand(len(images), -1, -1)  # type: ignore[operator, union-attr]
            return self.model.encoder(torch.cat([token, patches], dim=1))  # type: ignore[no-any-return, operator]
        features = images
        for step in self._steps:
            features = self.model.get_submodule(step)(features)
        return features.relu() if self._relu else features

    def own_pool(self, features: Tensor) -> Tensor:
        """Return (B, C): torchvision's pooling and what stands between it and the last linear layer."""
        if self._vit:
            return features[:, 0]
        heads = [getattr(self.model, name) for name in self.head_names]
        flattens = any(isinstance(module, nn.Flatten) for head in heads for module in head.modules())
        pools = any(isinstance(module, nn.AdaptiveAvgPool2d) for head in heads for module in head.modules())
        pooled = features if pools else features.mean((2, 3))
        for name, head in zip(self.head_names, heads, strict=True):
            pooled = head(pooled)
            if name == "avgpool" and not flattens:
                pooled = pooled.flatten(1)
        return pooled.flatten(1)

    def stages(self) -> list[list[str]]:
        """Return parameter names by stage.

        A stage is a layer of a ViT, a child of ``features`` (or of what takes its place), or a ``layerN`` of a ResNet.
        Norms that stand alone go with the stage before them.
        """
        if self._vit:
            prefixes = layer_prefixes(self.model, r"^encoder\.layers\.\w+$")
        else:
            prefixes = [
                s for s in self._steps if not isinstance(self.model.get_submodule(s), (_BatchNorm, nn.LayerNorm))
            ]
            prefixes = prefixes[1:]  # what the first step holds is the stem
        return stages_by_prefix((name for name, _ in self.model.named_parameters()), prefixes)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `state` with a ViT's position embedding resampled to the image size."""
        if not self._vit or "encoder.pos_embedding" not in state:
            return state
        patch = self.model.patch_size
        return dict(interpolate_embeddings(self._image_size, patch, dict(state)))  # type: ignore[arg-type]

    def _keep_only_pooling(self) -> None:
        """Put an identity where the classifier's last layer is; keys of the layers before it stay as they are."""
        for name in self.head_names:
            head = getattr(self.model, name)
            if isinstance(head, nn.Linear):
                setattr(self.model, name, nn.Identity())
            elif isinstance(head, nn.Sequential):
                linear = [i for i, layer in enumerate(head) if isinstance(layer, (nn.Linear, nn.Conv2d))]
                for i in range(linear[-1], len(head)) if linear else ():
                    if not isinstance(head[i], nn.AdaptiveAvgPool2d):
                        head[i] = nn.Identity()


def _weights(name: str) -> tuple[str, Any]:
    base, _, tag = name.partition(".")
    known = models.list_models(module=models)
    if base not in known:
        raise InputError(
            f"backbone 'torchvision/{name}': torchvision {torchvision.__version__} has no such model."
            f"{did_you_mean(base, known)}"
        )
    if base in ("googlenet", "inception_v3"):
        raise InputError(f"backbone 'torchvision/{name}' cannot be split before its pooling; use timm/inception_v3.")
    offered = models.get_model_weights(base)
    if tag and tag not in offered.__members__:
        raise InputError(
            f"backbone 'torchvision/{name}': no weights {tag!r} for {base}.{did_you_mean(tag, offered.__members__)}"
        )
    return base, offered[tag] if tag else offered.DEFAULT  # type: ignore[attr-defined]


def _card(weights: Any) -> Card:
    preset = weights.transforms()
    return Card(int(preset.crop_size[0]), tuple(preset.mean), tuple(preset.std))


def create(base: str, image_size: int) -> nn.Module:
    """Return torchvision's own model with random weights, built for the image size where its family asks for one.

    Raises:
        InputError: An image size that the family does not take.
    """
    if base.startswith("vit_"):
        # The patch size is the last part of the name: vit_b_16.
        patch = int(base.rsplit("_", 1)[-1])
        if image_size % patch:
            raise InputError(f"image_size {image_size} is no multiple of the {patch} px patches of torchvision/{base}.")
        return models.get_model(base, weights=None, image_size=image_size)
    if base.startswith("maxvit"):
        if image_size % 224:
            raise InputError(f"image_size {image_size}: torchvision/{base} takes multiples of 224.")
        return models.get_model(base, weights=None, input_size=(image_size, image_size))
    return models.get_model(base, weights=None)


def _fetch(name: str, weights: Any, trunk: TorchvisionTrunk) -> dict[str, Tensor]:
    log.info("weights of torchvision/%s: from the cache of torch.hub, or downloaded from %s", name, weights.url)
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # URL errors, broken downloads and unwritable caches come as many kinds
        raise InputError(
            f"backbone 'torchvision/{name}': its pretrained weights could not be had ({type(error).__name__}: {error})."
            f" They come from {weights.url}; where there is no network, fetch them elsewhere and set weights: PATH, "
            f"or put it into {torch.hub.get_dir()}/checkpoints."
        ) from error
    return trunk.adapt(dict(state))
