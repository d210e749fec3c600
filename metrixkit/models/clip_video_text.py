"""CLIP for videos: its two towers with their projections, and a head that makes one vector of the frames.

B clips or texts, T frames, d dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.sequence import Positions, masked_mean, quick_gelu, unit
from metrixkit.models.transformers_config import from_config, transformers_config
from metrixkit.models.transformers_trunk import CLIP_PIXELS, read_card
from metrixkit.models.trunk import Card
from metrixkit.models.video import check_sequence, each_present, unit_pixels
from metrixkit.models.video_text import PairInputs, decay_groups
from metrixkit.seam import Group

log = logging.getLogger(__name__)

_NONE = PairInputs()
# Where CLIP4Clip's code lets nothing move: what comes before the blocks.
_BEFORE_BLOCKS = ("embeddings.", "pre_layrnorm.")


class _Frame(nn.Module):
    """(M, 3, H, W) frames to (M, d), with CLIP's mean and deviation; its parameters are the model's."""

    mean: Tensor
    std: Tensor

    def __init__(self, clip: Any, card: Card) -> None:
        super().__init__()
        self._clip = [clip]  # in a list, so that parameters are not counted twice
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        clip = self._clip[0]
        pixels = (unit_pixels(frames) - self.mean) / self.std
        return clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)  # type: ignore[no-any-return]


class ClipVideoText(nn.Module):
    """CLIP's towers on texts and frames (CLIP4Clip, Luo et al., Neurocomputing 2022).

    Args:
        inputs: Given by the programme; CLIP takes words and frames.
        backbone: Hub name or local folder of a CLIP model of transformers, with its tokenizer.
        weights: "pretrained" loads them, downloading what is not cached; "none" draws them.
        head: "meanP": frame embeddings at length 1, their mean. "seqTransf": before that a transformer over the frames,
            whose result is added to them; it starts as CLIP's first text layers where the sizes agree.
        layers: Blocks of that transformer.
        max_frames: Positions there are for frames.
        max_words: Tokens of a text, start and end included; the rest is cut off.
        modality: Which modality of the data is matched with the texts; of kind "video".
        train: "all" of CLIP; "blocks", as CLIP4Clip's code: all but the token, patch and position embeddings and the
            layer norm before the blocks; or "none".
        clip_lr: Factor on the base rate for CLIP's parameters; the published rates are 1e-7 for CLIP and 1e-4 for the
            rest.

    Attributes:
        image_size: Side of the frames in pixels.

    Raises:
        InputError: No CLIP model or tokenizer there, features instead of frames or words, or a setting out of range.
    """

    kind = "clip_video_text"

    def __init__(
        self,
        inputs: PairInputs = _NONE,
        backbone: str = "openai/clip-vit-base-patch32",
        weights: Literal["pretrained", "none"] = "pretrained",
        head: Literal["meanP", "seqTransf"] = "meanP",
        layers: int = 4,
        max_frames: int = 12,
        max_words: int = 32,
        modality: str = "video",
        train: Literal["all", "blocks", "none"] = "all",
        clip_lr: float = 1e-3,
    ) -> None:
        super().__init__()
        if inputs.video_dim is not None or inputs.text_dim is not None:
            raise InputError("model=clip_video_text takes frames and words; for features take model=video_text.")
        if train == "none" and head == "meanP":
            raise InputError("model.train=none with head=meanP leaves nothing to train; take head=seqTransf.")
        self.inputs, self.modality, self.clip_lr, self.max_words = inputs, modality, clip_lr, max_words
        self._settings: dict[str, Any] = {
            "backbone": backbone,
            "head": head,
            "layers": layers,
            "max_frames": max_frames,
            "max_words": max_words,
            "modality": modality,
            "train": train,
            "clip_lr": clip_lr,
        }
        self.clip: Any = _clip(backbone, weights == "pretrained")
        self.tokenizer = _tokenizer(backbone)
        config = self.clip.config
        if not 2 <= max_words <= config.text_config.max_position_embeddings:
            raise InputError(
                f"model.max_words={max_words}: {backbone!r} takes 2 to {config.text_config.max_position_embeddings}."
            )
        self.image_size, self.embedding_dim = int(config.vision_config.image_size), int(config.projection_dim)
        self.card = read_card(backbone, Card(self.image_size, *CLIP_PIXELS))
        self._frame = _Frame(self.clip, self.card)
        self.time = _over_time(self.clip, max_frames, layers) if head == "seqTransf" else None
        # The loss has the temperature; a parameter without gradient would hang data-parallel training.
        self.clip.logit_scale.requires_grad_(False)
        for name, parameter in self.clip.named_parameters():
            if train == "none" or (train == "blocks" and any(part in name for part in _BEFORE_BLOCKS)):
                parameter.requires_grad_(False)

    def embed_text(self, texts: Sequence[str] | Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, d) unit embeddings of B texts.

        Raises:
            InputError: Features instead of texts, or an empty text.
        """
        if isinstance(texts, Tensor):
            raise InputError("features were given, but the text side of this model takes texts.")
        empty = next((i for i, text in enumerate(texts) if not str(text).strip()), None)
        if empty is not None:
            raise InputError(f"text {empty} is {texts[empty]!r}, which holds no word.")
        tokens = self.tokenizer(
            [str(text) for text in texts], padding=True, truncation=True, max_length=self.max_words, return_tensors="pt"
        )
        device = self.clip.text_projection.weight.device
        found = self.clip.text_model(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        )
        return unit(self.clip.text_projection(found.pooler_output))

    def embed_video(self, video: Tensor, mask: Tensor) -> Tensor:
        """Return (B, d) unit embeddings of (B, T, 3, H, W) frames, uint8 or in [0, 1], with their (B, T) mask."""
        check_sequence(video, mask, "(B, T, 3, H, W)")
        frames = each_present(video, mask, self._frame)
        if self.time is not None:
            frames = frames + self.time(frames, mask).to(frames.dtype)
        return unit(masked_mean(unit(frames), mask))

    def settings(self) -> dict[str, Any]:
        """Return the arguments, but `inputs` and `weights`, that build this model again; JSON values."""
        return self._settings

    def save_backbone(self, folder: Path) -> None:
        """Write CLIP's configuration, its tokenizer and what is known of its pixels into `folder`, without weights."""
        import json

        folder.mkdir(parents=True, exist_ok=True)
        self.clip.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        pixels = {"image_mean": list(self.card.mean), "image_std": list(self.card.std)}
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=2) + "\n")

    def parameter_groups(self) -> list[Group]:
        """Return CLIP's parameters with their own rate, and those of the head; gains and biases are not decayed."""
        groups = decay_groups("clip", list(self.clip.parameters()), self.clip_lr)
        return (
            groups if self.time is None else [*groups, *decay_groups("head", list(self.time.parameters()), warm=True)]
        )


def _clip(name: str, pretrained: bool) -> Any:
    from transformers import CLIPModel  # seconds to import; only this model needs it

    config = transformers_config(name, f"backbone {name!r}")
    if config.model_type != "clip":
        raise InputError(f"backbone {name!r} is a {config.model_type!r}; expected a whole CLIP model, both its towers.")
    if not pretrained:
        return from_config(CLIPModel, config, f"backbone {name!r}")
    log.info("weights of %s: from the folder or the hub cache, or downloaded", name)
    try:
        # Whatever precision they are kept in, training wants float32.
        return CLIPModel.from_pretrained(name, config=config, trust_remote_code=False, weights_only=True).float()
    except Exception as error:  # the hub, its HTTP client and transformers each raise their own kinds
        raise InputError(
            f"backbone {name!r}: its weights could not be had ({type(error).__name__}: {error}). Give a local folder "
            "with the weights, or draw them: model.weights=none."
        ) from error


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    folder = Path(name)
    wanted = "A local folder needs tokenizer.json, or vocab.json and merges.txt, beside config.json."
    # Without these files transformers answers a tokenizer that knows no word, and says nothing.
    if folder.is_dir() and not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        raise InputError(f"backbone {name!r}: no tokenizer. {wanted}")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # as above
        raise InputError(f"backbone {name!r}: no tokenizer ({type(error).__name__}: {error}). {wanted}") from error
    if tokenizer.pad_token is None:
        raise InputError(f"backbone {name!r}: its tokenizer has no padding token, so texts cannot form a batch.")
    return tokenizer


def _over_time(clip: Any, max_frames: int, layers: int) -> Positions:
    """Return the transformer over frames, with the weights of CLIP's first text layers where the sizes agree."""
    text = clip.config.text_config
    heads = max(1, clip.config.projection_dim // 64)
    time = Positions(clip.config.projection_dim, max_frames, layers, heads, quick_gelu)
    tower = getattr(clip.text_model, "text_model", clip.text_model)  # earlier releases nest the tower once more
    there = list(tower.encoder.layers)
    fits = text.hidden_size == clip.config.projection_dim and text.intermediate_size == 4 * text.hidden_size
    if not fits or layers > len(there) or max_frames > text.max_position_embeddings:
        log.warning("the transformer over frames starts from drawn weights: CLIP's text layers are of another size")
        return time
    for block, layer in zip(time.blocks, there, strict=False):
        block.load_state_dict(layer.state_dict())
    with torch.no_grad():
        time.position.copy_(tower.embeddings.position_embedding.weight[:max_frames])
    return time
