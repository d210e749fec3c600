"""Backbones of timm."""

from __future__ import annotations

import inspect
import logging
import re
import sys

import timm
from timm.models import group_parameters, is_model_pretrained
from torch import Tensor, nn

from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.trunk import Card, layer_prefixes, stages_by_prefix

log = logging.getLogger(__name__)


class TimmTrunk(nn.Module):
    """A timm model without its classifier; see :class:`metrixkit.models.trunk.Trunk`.

    Args:
        name: timm's name, with or without the tag of its weights (``resnet50``, ``resnet50.tv_in1k``).
        image_size: Side of the input in pixels, or None for that of the card. Models with position embeddings are
            built for it.
        pretrained: Load the tag's weights by timm's own route, downloading them when they are not cached.

    Raises:
        InputError: No such name or tag, no weights for it, weights that cannot be had, or an image size that the
            model's patches do not divide.
    """

    def __init__(self, name: str, image_size: int | None, pretrained: bool) -> None:
        super().__init__()
        _check_name(name, pretrained)
        self.model: nn.Module = create(name, image_size, pretrained)
        config = getattr(self.model, "pretrained_cfg", {})
        self.card = Card(
            image_size=int(config.get("input_size", (3, 224, 224))[-1]),
            mean=tuple(config.get("mean", Card.mean)),
            std=tuple(config.get("std", Card.std)),
        )
        self.prefix_tokens = int(getattr(self.model, "num_prefix_tokens", 0) or 0)
        self._last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"  # channels last in the shape itself
        classifier = config.get("classifier") or ()
        # The attention pool and the norm after pooling belong to the model's own pooling.
        self.head_names = ((classifier,) if isinstance(classifier, str) else tuple(classifier)) + (
            "attn_pool",
            "fc_norm",
        )
        _check_patches(self.model, name, image_size or self.card.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Return maps (B, C, H, W) or tokens (B, N, C) of (B, 3, H, W) normalised images."""
        features: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        return features.permute(0, 3, 1, 2) if self._last and features.ndim == 4 else features

    def own_pool(self, features: Tensor) -> Tensor:
        """Return (B, C): timm's ``forward_head`` up to the classifier."""
        features = features.permute(0, 2, 3, 1) if self._last and features.ndim == 4 else features
        return self.model.forward_head(features, pre_logits=True)  # type: ignore[no-any-return, operator]

    def stages(self) -> list[list[str]]:
        """Return parameter names by stage: timm's own coarse division (blocks of a ViT, stages of a CNN).

        What that leaves over (final norm, own pooling) goes with the last stage.
        """
        if not hasattr(self.model, "group_matcher"):
            return stages_by_prefix((n for n, _ in self.model.named_parameters()), layer_prefixes(self.model))
        matcher = self.model.group_matcher(coarse=True)  # type: ignore[operator]
        grouped = group_parameters(self.model, matcher)
        stages = [list(grouped[i]) for i in sorted(grouped) if grouped[i]]
        if isinstance(matcher, dict) and len(stages) > 1:
            specs = [[spec] if isinstance(spec, str) else [part for part, _ in spec or ()] for spec in matcher.values()]
            if not any(re.match(part, name) for spec in specs for part in spec for name in stages[-1]):
                stages[-2:] = [stages[-2] + stages[-1]]
        return stages

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `state` through the converter timm itself uses for the architecture, where it has one.

        That reads the layouts of the original releases (DINOv2, CLIP) and resamples position embeddings.
        """
        convert = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state
        try:
            return dict(convert(state, self.model))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            return state  # another architecture: the comparison of keys says so better than the converter


def _check_name(name: str, pretrained: bool) -> None:
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise InputError(
            f"backbone 'timm/{name}': timm {timm.__version__} has no such model."
            f"{did_you_mean(base, timm.list_models())}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise InputError(f"backbone 'timm/{name}': {base} has no weights tagged {tag!r}.{did_you_mean(tag, tags)}")
    if pretrained and not is_model_pretrained(name):
        raise InputError(f"backbone 'timm/{name}': timm has no weights for it; use weights: none or a file.")


def create(name: str, image_size: int | None, pretrained: bool) -> nn.Module:
    """Return timm's own model without classifier, built for the image size where it takes one.

    Raises:
        InputError: Pretrained weights that cannot be had.
    """
    if pretrained:
        log.info("weights of timm/%s: from timm's cache, or downloaded", name)
    try:
        if image_size is not None:
            try:
                return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub, its HTTP client and timm each raise their own kinds
        if not pretrained:
            raise
        source = timm.get_pretrained_cfg(name)
        where = getattr(source, "hf_hub_id", None) or getattr(source, "url", None) or name
        raise InputError(
            f"backbone 'timm/{name}': its pretrained weights could not be had ({type(error).__name__}: {error}). "
            f"They come from {where}; where there is no network, fetch them elsewhere and set weights: PATH "
            "(.safetensors or .pth in timm's layout), or put them into the hub cache (HF_HOME)."
        ) from error


def _check_patches(model: nn.Module, name: str, image_size: int) -> None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if "img_size" not in inspect.signature(type(model).__init__).parameters or not isinstance(patch, (tuple, list)):
        return
    if image_size % patch[0]:
        near = image_size // patch[0] * patch[0]
        raise InputError(
            f"image_size {image_size} is no multiple of the {patch[0]} px patches of timm/{name}; "
            f"take {near or patch[0]} or {near + patch[0]}."
        )
