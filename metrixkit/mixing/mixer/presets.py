"""The Mixer's choices, and the four sets of them that have a name."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from metrixkit.errors import InputError, did_you_mean


@dataclass(frozen=True)
class MixerSettings:
    """Every point on which papers and releases differ. C channels; r is `reduction`.

    Attributes:
        projection: Query and key: "two" 1x1 convolutions of both images' channels (2C -> C / r), "shared", one for
            both, or "sides", one (C -> C / r) that makes queries of the first image and keys of the partner.
        encoding: How lambda enters: "factor" multiplies the features of the first by 1 + gamma lambda and those of the
            partner by 1 + gamma (1 - lambda); "channel" appends lambda and 1 - lambda as a constant channel; "none".
        gamma: "learned" starts at 0 and is held in [0, 1]; a number is constant.
        warp: k of the S-shaped warp of lambda; negative for none.
        content: Of which image the content is made, "partner" or "first"; its mask is what is predicted, and the other
            one is the rest to 1.
        content_layers: "nonlinear": 1x1 convolution (C -> C / r), batch norm, activation, 1x1 convolution to one
            channel, without biases. "linear": one 1x1 convolution with bias.
        activation: "relu" or "elu".
        dropout: On the elements of the content, in [0, 1).
        order: "upsample-sigmoid" or "sigmoid-upsample".
        upsampling: "bilinear" (corners not aligned) or "nearest".
        att_norm: Batch norm after the projections.
        rectify: ReLU on the maps before lambda enters.
        reduction: r, dividing C.
    """

    projection: Literal["two", "shared", "sides"] = "two"
    encoding: Literal["factor", "channel", "none"] = "factor"
    gamma: float | Literal["learned"] = "learned"
    warp: float = -1.0
    content: Literal["partner", "first"] = "partner"
    content_layers: Literal["nonlinear", "linear"] = "nonlinear"
    activation: Literal["relu", "elu"] = "relu"
    dropout: float = 0.1
    order: Literal["upsample-sigmoid", "sigmoid-upsample"] = "upsample-sigmoid"
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    att_norm: bool = False
    rectify: bool = False
    reduction: int = 2

    def __post_init__(self) -> None:
        """Check what a user may have set."""
        for name, kind in get_type_hints(MixerSettings).items():
            options, value = get_args(kind), getattr(self, name)
            if options and all(isinstance(option, str) for option in options) and value not in options:
                raise InputError(f"mixer {name}={value!r}.{did_you_mean(str(value), options)} Known: {options}.")
        if self.gamma != "learned" and not (_is_number(self.gamma) and 0 <= float(self.gamma) <= 1):
            raise InputError(f"mixer gamma={self.gamma!r}: expected 'learned', or a number in [0, 1].")
        if not _is_number(self.warp):
            raise InputError(f"mixer warp={self.warp!r}: expected a number, k of the warp; -1 for none.")
        if not _is_number(self.dropout):
            raise InputError(f"mixer dropout={self.dropout!r}: expected a share in [0, 1).")
        for name, flag in (("att_norm", self.att_norm), ("rectify", self.rectify)):
            if not isinstance(flag, bool):
                raise InputError(f"mixer {name}={flag!r}: expected true or false.")
        if not isinstance(self.reduction, int) or isinstance(self.reduction, bool):
            raise InputError(f"mixer reduction={self.reduction!r}: expected a whole number; 2 is usual.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"mixer dropout={self.dropout}: expected a share in [0, 1).")
        if self.reduction < 1:
            raise InputError(f"mixer reduction={self.reduction}: expected 1 or more; 2 is usual.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RELEASED = MixerSettings(gamma=1.0, warp=1.0, activation="elu")

MIXER_PRESETS: dict[str, MixerSettings] = {
    "samix": MixerSettings(),
    "automix": MixerSettings(
        projection="sides", encoding="none", content_layers="linear", dropout=0.0, upsampling="nearest"
    ),
    "official": _RELEASED,
    "paper": MixerSettings(projection="shared", content="first", order="sigmoid-upsample"),
}
"""Name to settings; :class:`~metrixkit.mixing.Mixer` says what they stand for."""


def mixer_settings(preset: str, changes: dict[str, Any]) -> MixerSettings:
    """Return the settings of `preset` with those of `changes` that are not None.

    Raises:
        InputError: An unknown preset, option or value.
    """
    if preset not in MIXER_PRESETS:
        raise InputError(f"no Mixer preset is called {preset!r}.{did_you_mean(preset, MIXER_PRESETS)}")
    known = [field.name for field in fields(MixerSettings)]
    for name in changes:
        if name not in known:
            raise InputError(f"the Mixer has no option {name!r}.{did_you_mean(name, known)}")
    return replace(MIXER_PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})
