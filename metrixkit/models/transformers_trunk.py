"""Vision towers of transformers: CLIP, SigLIP and DINOv2, by hub name or local folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.foreign import read_json
from metrixkit.models.transformers_config import from_config, transformers_config
from metrixkit.models.trunk import IMAGENET_MEAN, IMAGENET_STD, Card, layer_prefixes, stages_by_prefix

log = logging.getLogger(__name__)

CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Kind of the vision configuration: class, mean and std of its published weights, leading tokens.
_TOWERS: dict[str, tuple[str, tuple[tuple[float, ...], tuple[float, ...]], int]] = {
    "clip_vision_model": ("CLIPVisionModel", CLIP_PIXELS, 1),
    "siglip_vision_model": ("SiglipVisionModel", ((0.5,) * 3, (0.5,) * 3), 0),
    "dinov2": ("Dinov2Model", (IMAGENET_MEAN, IMAGENET_STD), 1),
}


class TransformersTrunk(nn.Module):
    """The vision tower of a transformers model; see :class:`metrixkit.models.trunk.Trunk`.

    Args:
        name: Hub name or local folder with ``config.json`` (and ``preprocessor_config.json`` for mean and std; without,
            those of the family's published weights).
        image_size: Side of the input in pixels, or None for that of the configuration. Position embeddings are
            interpolated at every call where it departs.
        pretrained: Load the weights by transformers' own route, downloading them when they are not cached.

    Raises:
        InputError: No such folder or hub entry, another kind of model, or weights that cannot be had.
    """

    def __init__(self, name: str, image_size: int | None, pretrained: bool) -> None:
        super().__init__()
        config = _vision_config(name)
        kind = str(config.model_type)
        if kind not in _TOWERS:
            raise InputError(
                f"backbone 'transformers/{name}' is a {kind!r}; expected one of {', '.join(_TOWERS)} (or a model that "
                "holds one). Other architectures: timm/NAME."
            )
        class_name, (mean, std), self.prefix_tokens = _TOWERS[kind]
        size = image_size or int(config.image_size)
        if size % int(config.patch_size):
            raise InputError(f"image_size {size} is no multiple of the {config.patch_size} px patches of {name!r}.")
        self._kind = kind
        self._interpolate = size != int(config.image_size) and kind != "dinov2"  # DINOv2 does so by itself
        self.card = read_card(name, Card(int(config.image_size), mean, std))
        self.model: nn.Module = _create(name, class_name, config, pretrained)
        self.head_names = {"clip_vision_model": ("post_layernorm",), "siglip_vision_model": ("head",)}.get(kind, ())

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens (B, N, C), class token first where there is one, of (B, 3, H, W) normalised images."""
        extra = {"interpolate_pos_encoding": True} if self._interpolate else {}
        return self.model(pixel_values=images, **extra).last_hidden_state  # type: ignore[no-any-return]

    def own_pool(self, features: Tensor) -> Tensor:
        """Return (B, C): normalised class token (CLIP), attention pool (SigLIP), class token (DINOv2)."""
        # Earlier releases nest the tower once more.
        tower: Any = getattr(self.model, "vision_model", self.model)
        if self._kind == "clip_vision_model":
            return tower.post_layernorm(features[:, 0])  # type: ignore[no-any-return]
        return tower.head(features) if self._kind == "siglip_vision_model" else features[:, 0]

    def stages(self) -> list[list[str]]:
        """Return parameter names by stage: the embeddings, then each layer."""
        return stages_by_prefix((name for name, _ in self.model.named_parameters()), layer_prefixes(self.model))

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tower's part of `state`, whether it is of the tower alone or of the whole model."""
        own = self.model.state_dict().keys()
        if own & state.keys():
            return state
        for prefix in ("vision_model.", "dinov2."):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if own & part.keys():
                return part
        return state

    def save_config(self, folder: Path) -> None:
        """Write the tower's configuration and card into `folder`, from which the architecture can be built again."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        side = self.card.image_size
        preset = {
            "image_mean": list(self.card.mean),
            "image_std": list(self.card.std),
            "size": {"height": side, "width": side},
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(preset, indent=2) + "\n")


def _vision_config(name: str) -> Any:
    config = transformers_config(name, f"backbone 'transformers/{name}'")
    return getattr(config, "vision_config", config)


def read_card(name: str, default: Card) -> Card:
    """Return mean and std of a local folder's ``preprocessor_config.json``, `default` for what it does not say."""
    path = Path(name) / "preprocessor_config.json"
    if not path.is_file():
        return default
    preset = read_json(path)
    found = []
    for key, values in (("image_mean", default.mean), ("image_std", default.std)):
        told = preset.get(key, values)
        if not isinstance(told, list | tuple) or not all(isinstance(v, int | float) for v in told) or len(told) != 3:
            raise InputError(f"{path}: {key} is {told!r}; expected three numbers, of red, green and blue.")
        found.append(tuple(float(v) for v in told))
    return Card(default.image_size, *found)


def _create(name: str, class_name: str, config: Any, pretrained: bool) -> nn.Module:
    import transformers

    tower = getattr(transformers, class_name)
    if not pretrained:
        return from_config(tower, config, f"backbone 'transformers/{name}'")
    log.info("weights of transformers/%s: from the folder or the hub cache, or downloaded", name)
    try:
        return tower.from_pretrained(  # type: ignore[no-any-return]
            name, config=config, trust_remote_code=False, weights_only=True
        )
    except Exception as error:  # the hub, its HTTP client and transformers each raise their own kinds
        raise InputError(
            f"backbone 'transformers/{name}': its weights could not be had ({type(error).__name__}: {error}). Give a "
            "local folder with the weights, or set weights: PATH."
        ) from error
