"""An encoder as a folder: ``model.safetensors`` and ``config.json``, enough to build it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.families import folders_trusted, names_in_folder
from metrixkit.files import write_bytes
from metrixkit.foreign import read_json
from metrixkit.models.encoder import ImageEncoder
from metrixkit.rebuilding import rebuilding

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
ALL_KINDS = ("image", "video_text", "clip_video_text")
_REQUIRED = {"format", "encoder", "transform", "weights_sha256"}
# Configuration of a backbone that came from a folder, which the exported model must not depend on.
BACKBONE = "backbone"


def save_model(
    encoder: ImageEncoder, folder: str | Path, transform: Mapping[str, Any], extra: Mapping[str, Any] | None = None
) -> None:
    """Write an encoder so that it can be loaded without what trained it.

    Each file is replaced as a whole, the configuration last; it holds the hash of the weights, so that a save cut off
    between the two is noticed when it is loaded.

    Args:
        encoder: The encoder, on any device.
        folder: Made if needed.
        transform: Evaluation transform as ``metrixkit.data.transforms.eval_transform_config`` describes it.
        extra: What else to keep under ``extra`` in the configuration (names of classes, training command); JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    weights = save(tensors, metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "kind": "image",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "encoder": {**encoder.settings(), "weights": "none"},
        "transform": dict(transform),
        "extra": dict(extra or {}),
    }
    save_config: Callable[[Path], None] | None = getattr(encoder.trunk, "save_config", None)
    if save_config is not None:
        save_config(folder / BACKBONE)
    write_bytes(folder / WEIGHTS, weights)
    write_bytes(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_encoder(folder: str | Path, trust: bool = False) -> tuple[ImageEncoder, dict[str, Any]]:
    """Return the encoder in `folder` on the CPU in evaluation mode, and its configuration.

    Args:
        folder: An exported model. It is data: its tensors and settings are read, and nothing in it is run.
        trust: Import the backbone that its settings name as ``package.module:Name``, and let a backbone of the hub be
            looked up there.

    Raises:
        InputError: A file is missing, not readable, of a later format, or the two do not belong together; code or a
            hub is needed and `trust` does not allow it.
    """
    folder = Path(folder)
    config = read_config(folder)
    weights = read_weights(folder, config)
    settings = {**config["encoder"], "weights": "none"}
    settings["backbone"] = _backbone(folder, settings.get("backbone"), trust)
    with rebuilding(folder, len(weights), names_in_folder(settings, trust)):
        encoder = ImageEncoder(**settings)
        state: dict[str, Tensor] = load(weights)
        encoder.load_state_dict(state)
    return encoder.eval(), config


def _backbone(folder: Path, name: Any, trust: bool) -> str:
    """Return which backbone a saved encoder has; one that lies elsewhere only where the folder is trusted."""
    if (folder / BACKBONE).is_dir():
        return f"transformers/{folder / BACKBONE}"
    if not isinstance(name, str):
        raise InputError(f"{folder / CONFIG}: encoder.backbone is {name!r}; expected a name.")
    if name.startswith("transformers/") and not folders_trusted(trust):
        raise InputError(
            f"{folder} has no {BACKBONE}/ with the configuration of {name!r}. Copy it from where the model was saved; "
            "--trust (in Python trust=True) looks for it under that name, also on the hub."
        )
    if ":" in name and name.startswith("timm/") and not folders_trusted(trust):
        raise InputError(
            f"{folder}: its backbone {name!r} is described elsewhere, on the hub or in another folder, and a saved "
            "file is not followed there. --trust (in Python trust=True) follows it."
        )
    return name


def read_weights(folder: Path, config: Mapping[str, Any]) -> bytes:
    """Return the content of the weight file that a configuration was written for.

    Raises:
        InputError: It is missing, or another file.
    """
    weights = (folder / WEIGHTS).read_bytes() if (folder / WEIGHTS).is_file() else None
    if weights is None:
        raise InputError(f"{folder} has no {WEIGHTS}; an exported model is a folder with {WEIGHTS} and {CONFIG}.")
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise InputError(
            f"{folder}: {WEIGHTS} is not the file {CONFIG} was written for (a save cut off, or a broken copy)."
        )
    return weights


def read_config(folder: Path, kinds: tuple[str, ...] = ("image",)) -> dict[str, Any]:
    """Return the configuration of the exported model in `folder`.

    Args:
        folder: An exported model.
        kinds: Which kinds of model are expected.

    Raises:
        InputError: Missing, no JSON, of another format, or another kind of model.
    """
    path = folder / CONFIG
    if not path.exists():
        raise InputError(f"{folder} has no {CONFIG}; an exported model is a folder with {WEIGHTS} and {CONFIG}.")
    config = read_json(path)
    if not config.keys() >= _REQUIRED:
        raise InputError(f"{path} was not written by metrixkit: expected the keys {', '.join(sorted(_REQUIRED))}.")
    if config["format"] != FORMAT or config.get("kind") not in ALL_KINDS:
        raise InputError(
            f"{path}: format {config['format']!r}, kind {config.get('kind')!r}; this release reads format {FORMAT}, "
            f"kinds {', '.join(ALL_KINDS)}. A newer metrixkit wrote it."
        )
    if config["kind"] not in kinds:
        raise InputError(f"{path} is a model of kind {config['kind']!r}; expected {' or '.join(kinds)} here.")
    for name in ("encoder", "transform"):
        if not isinstance(config[name], dict):
            raise InputError(f"{path}: {name} is {config[name]!r}; expected its settings.")
    return config
