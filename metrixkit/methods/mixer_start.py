"""The Mixer that a recipe starts with: a new one for a stage of the encoder, or one that a run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.families import names_in
from metrixkit.inference import evaluating
from metrixkit.mixing import Mixer
from metrixkit.mixing.mixer import has_mixer, load_mixer
from metrixkit.mixing.mixer.presets import mixer_settings
from metrixkit.models import load_encoder
from metrixkit.models.export import read_config


def new_mixer(encoder: nn.Module, stage: int, preset: str, options: Mapping[str, Any] | None) -> Mixer:
    """Return a Mixer for the maps of an encoder's stage.

    Args:
        encoder: Has ``features(images, stage)`` and ``image_size``, as :class:`metrixkit.models.ImageEncoder`.
        stage: 0 is the stem; 3 is the third residual stage of a ResNet.
        preset: The Mixer's; see :class:`metrixkit.mixing.Mixer`.
        options: Its choices that differ.

    Raises:
        InputError: No such stage, no maps there, or a choice that the Mixer refuses.
    """
    changes = dict(options or {})
    mixer_settings(preset, {name: value for name, value in changes.items() if name != "attention_limit"})
    return Mixer(channels_at(encoder, stage), preset, **changes)


def first_mixer(
    encoder: nn.Module,
    stage: int,
    preset: str,
    options: Mapping[str, Any] | None,
    mixer_from: str | None,
    freeze_mixer: bool = False,
) -> tuple[Mixer, int | None]:
    """Return the Mixer that a recipe starts with, and its stage: :func:`start_mixer` if a run is named, else a new one.

    Raises:
        InputError: As those two; options beside a kept Mixer, or a new one that shall be frozen.
    """
    if freeze_mixer and mixer_from is None:
        raise InputError("method.freeze_mixer=true keeps a trained Mixer: say which, by method.mixer_from=RUN.")
    if mixer_from is None:
        return new_mixer(encoder, stage, preset, options), stage
    if options:
        raise InputError(
            "method.mixer_options are those of a new Mixer; one from method.mixer_from brings its own. Set "
            "method.mixer_options=null."
        )
    return start_mixer(encoder, mixer_from)


def start_mixer(encoder: nn.Module, run: str) -> tuple[Mixer, int | None]:
    """Return the Mixer that a run left, and its stage.

    Args:
        encoder: As for :func:`new_mixer`.
        run: The run's folder, or its ``model/``.

    Raises:
        InputError: There is none, or it does not fit the encoder.
    """
    folder = model_folder(run)
    saved = load_mixer(folder)
    channels = channels_at(encoder, saved.stage)
    if saved.mixer.channels != channels:
        raise InputError(
            f"the Mixer in {folder} reads {saved.mixer.channels} channels, and stage {saved.stage} of this backbone "
            f"has {channels}; take the backbone it was trained on."
        )
    return saved.mixer, saved.stage


def channels_at(encoder: nn.Module, stage: int | None) -> int:
    """Return the channels of the maps of a stage.

    Raises:
        InputError: The encoder cannot be cut, has no such stage, or no maps of more than one place there.
    """
    if not hasattr(encoder, "features"):
        raise InputError(
            f"{type(encoder).__name__} has no features(images, stage); the Mixer reads the maps of a stage of "
            "metrixkit.models.ImageEncoder."
        )
    like = next(encoder.parameters())
    size = int(encoder.image_size)  # type: ignore[arg-type]
    with torch.no_grad(), evaluating(encoder):
        maps = encoder.features(like.new_zeros(1, 3, size, size), stage)  # type: ignore[operator]
    # The image is square, and so are its maps: what differs from two equal sides is the number of channels.
    channels = 3 if maps.ndim == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3] else 1
    if maps.ndim != 4 or maps[0].numel() == maps.shape[channels]:
        raise InputError(
            f"method.stage={stage}: the backbone answers {tuple(maps.shape[1:])} an image there, and the Mixer reads "
            "maps (C, h, w) of more than one place. Take an earlier stage, or a CNN."
        )
    return int(maps.shape[channels])


def model_folder(run: str) -> Path:
    """Return where a run keeps its model, given the run's folder or that one itself."""
    inside = Path(run) / "model"
    return inside if has_mixer(inside) else Path(run)


def teacher_weights(run: str, encoder: nn.Module) -> dict[str, Tensor]:
    """Return the state of the encoder that was kept with a Mixer, for one of the same kind.

    Raises:
        InputError: There is none, or it is another network.
    """
    folder = model_folder(run)
    # A backbone of one's own is the one that this run's config names, or it is none of its business.
    named = names_in(read_config(folder)["encoder"]) <= names_in(encoder.settings())  # type: ignore[operator]
    kept: dict[str, Tensor] = load_encoder(folder, trust=named)[0].state_dict()
    wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    if {name: tensor.shape for name, tensor in kept.items()} != wanted:
        raise InputError(
            f"the encoder in {folder} is another network than this run's model: method.freeze_mixer needs the one "
            "whose maps the Mixer was trained on. Take its model.backbone and model.pooling."
        )
    return kept
