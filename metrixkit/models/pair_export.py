"""A model of texts and videos as a folder: weights, configuration and vocabulary, enough to build it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.files import write_bytes
from metrixkit.foreign import read_text
from metrixkit.models.clip_video_text import ClipVideoText
from metrixkit.models.export import BACKBONE, CONFIG, FORMAT, WEIGHTS, read_config, read_weights
from metrixkit.models.text import TextSettings, TextTower
from metrixkit.models.video import VideoSettings
from metrixkit.models.video_text import PairInputs, VideoText
from metrixkit.rebuilding import rebuilding

PairModel = VideoText | ClipVideoText
KINDS = (VideoText.kind, ClipVideoText.kind)
VOCABULARY = "tokenizer.json"


def save_pair_model(
    model: PairModel, folder: str | Path, frames: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> None:
    """Write a model so that it can be loaded without what trained it; the configuration comes last.

    Args:
        model: The model, on any device.
        folder: Made if needed.
        frames: How clips are read: fps, max_frames, sampling, size.
        extra: What else to keep under ``extra`` in the configuration; JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if _weight(value)}
    weights = save(tensors, metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "kind": model.kind,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "encoder": model.settings(),
        "inputs": {"video_dim": model.inputs.video_dim, "text_dim": model.inputs.text_dim},
        "transform": dict(frames),
        "extra": dict(extra or {}),
    }
    if isinstance(model, ClipVideoText):
        model.save_backbone(folder / BACKBONE)
    elif isinstance(model.text, TextTower):
        write_bytes(folder / VOCABULARY, model.text.vocabulary.text.encode())
    write_bytes(folder / WEIGHTS, weights)
    write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_pair_model(folder: str | Path) -> tuple[PairModel, dict[str, Any]]:
    """Return the model in `folder` on the CPU in evaluation mode, and its configuration.

    Args:
        folder: An exported model. It is data: its tensors and settings are read, and nothing in it is run.

    Raises:
        InputError: A file is missing, not readable, of a later format, or they do not belong together.
    """
    folder = Path(folder)
    config = read_config(folder, KINDS)
    weights = read_weights(folder, config)
    vocabulary = folder / VOCABULARY
    with rebuilding(folder, len(weights)):
        inputs = PairInputs(**config["inputs"], vocabulary=read_text(vocabulary) if vocabulary.exists() else None)
        model = _build(config["kind"], dict(config["encoder"]), inputs, folder)
        state: dict[str, Any] = dict(load(weights))
        state |= {name: value for name, value in model.state_dict().items() if not _weight(value)}
        model.load_state_dict(state)
    return model.eval(), config


def _build(kind: str, settings: dict[str, Any], inputs: PairInputs, folder: Path) -> PairModel:
    if kind == ClipVideoText.kind:
        if not (folder / BACKBONE).is_dir():
            raise InputError(f"it has no {BACKBONE}/ with CLIP's configuration and tokenizer; copy it whole.")
        return ClipVideoText(inputs, **{**settings, "backbone": str(folder / BACKBONE)}, weights="none")
    settings["text"], settings["video"] = TextSettings(**settings["text"]), VideoSettings(**settings["video"])
    return VideoText(inputs, **settings)


def _weight(value: Any) -> bool:
    # The vocabulary stands in the state of a checkpoint; here it has a file of its own.
    return isinstance(value, Tensor)
