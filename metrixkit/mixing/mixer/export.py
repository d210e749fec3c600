"""A trained Mixer beside the model whose feature maps it reads: ``mixer.safetensors`` and ``mixer.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load, save

from metrixkit.errors import InputError
from metrixkit.files import write_bytes
from metrixkit.foreign import read_json
from metrixkit.mixing.mixer.network import Mixer
from metrixkit.rebuilding import rebuilding

WEIGHTS, SETTINGS = "mixer.safetensors", "mixer.json"
FORMAT = 1
_KEYS = {"format", "weights_sha256", "channels", "stage", "settings"}


class SavedMixer(NamedTuple):
    """What :func:`load_mixer` finds.

    Attributes:
        mixer: On the CPU, in evaluation mode.
        stage: Stage of the backbone whose maps it reads, as :meth:`metrixkit.models.ImageEncoder.features` counts; None
            is the last.
        extra: What was kept beside it.
    """

    mixer: Mixer
    stage: int | None
    extra: dict[str, Any]


def has_mixer(folder: str | Path) -> bool:
    """Whether a Mixer was saved in `folder`."""
    return (Path(folder) / SETTINGS).is_file()


def save_mixer(mixer: Mixer, folder: str | Path, stage: int | None, extra: Mapping[str, Any] | None = None) -> None:
    """Write a Mixer into a model's folder. Each file is replaced as a whole, the settings last.

    Args:
        mixer: On any device.
        folder: Made if needed; usually that of the model, a run's ``model/``.
        stage: Stage of the backbone whose maps it reads, 0 being the stem; None is the last.
        extra: What else to keep ("lambda is one a batch"); JSON values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in mixer.state_dict().items()})
    settings = {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "channels": mixer.channels,
        "stage": stage,
        "settings": asdict(mixer.settings),
        "attention_limit": mixer.attention_limit,
        "extra": dict(extra or {}),
    }
    write_bytes(folder / WEIGHTS, weights)
    write_bytes(folder / SETTINGS, (json.dumps(settings, indent=2) + "\n").encode())


def load_mixer(folder: str | Path) -> SavedMixer:
    """Return the Mixer in `folder`.

    Raises:
        InputError: A file is missing, not readable, of a later format, or the two do not belong together.
    """
    folder = Path(folder)
    path = folder / SETTINGS
    if not path.exists():
        raise InputError(
            f"{folder} holds no Mixer ({SETTINGS} is missing); runs that train one (SAMix, AutoMix) leave it in their "
            "model/."
        )
    told = read_json(path)
    if not told.keys() >= _KEYS or told["format"] != FORMAT:
        raise InputError(
            f"{path}: expected the keys {', '.join(sorted(_KEYS))} in format {FORMAT}; another programme or a newer "
            "metrixkit wrote it."
        )
    weights = (folder / WEIGHTS).read_bytes() if (folder / WEIGHTS).is_file() else b""
    if hashlib.sha256(weights).hexdigest() != told["weights_sha256"]:
        raise InputError(
            f"{folder}: {WEIGHTS} is missing or not the file {SETTINGS} was written for (a save cut off, or a broken "
            "copy)."
        )
    stage, extra = told["stage"], told.get("extra", {})
    if not isinstance(stage, int | None) or not isinstance(extra, dict):
        raise InputError(f"{path}: stage {stage!r} or extra {extra!r} is not what a Mixer is saved with.")
    with rebuilding(folder, len(weights)):
        limit = {name: told[name] for name in ("attention_limit",) if name in told}  # absent in earlier files
        mixer = Mixer(told["channels"], **told["settings"], **limit)
        mixer.load_state_dict(load(weights))
    return SavedMixer(mixer.eval(), stage, extra)
