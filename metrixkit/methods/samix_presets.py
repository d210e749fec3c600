"""On what the SAMix paper, its release and AutoMix differ in training, as four named sets of choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from metrixkit.errors import InputError, did_you_mean
from metrixkit.losses.eta_class import EtaMode
from metrixkit.losses.eta_instance import InstanceMode
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.methods.samix_schedules import Schedule

RatioPer = Literal["batch", "sample"]
AdjustTo = Literal["own", "official"]
Views = Literal["cross", "official"]


@dataclass(frozen=True)
class SupervisedPreset:
    """Choices of :class:`~metrixkit.methods.samix.SAMix`, which describes each."""

    ratio_per: RatioPer = "sample"
    eta: float = 0.5
    eta_mode: EtaMode = "softmax_split"
    mask_kind: MaskLossKind = "l1+variance"
    beta_schedule: Schedule = "linear"
    adjust_probability: float = 1.0
    adjust_to: AdjustTo = "own"
    lam_margin: float = -1.0
    momentum_end: float = 1.0
    momentum_schedule: Literal["cosine", "official"] = "cosine"


@dataclass(frozen=True)
class ContrastPreset:
    """Choices of the self-supervised methods, which describe each."""

    ratio_per: RatioPer = "sample"
    eta: float = 0.5
    eta_mode: InstanceMode = "joint"
    mask_kind: MaskLossKind = "l1+variance"
    beta_schedule: Schedule = "linear"
    views: Views = "cross"


SUPERVISED: dict[str, SupervisedPreset] = {
    "samix": SupervisedPreset(),
    "paper": SupervisedPreset(ratio_per="batch"),
    "official": SupervisedPreset(
        ratio_per="batch",
        eta_mode="official",
        beta_schedule="official",
        adjust_probability=0.0,
        adjust_to="official",
        lam_margin=0.08,
        momentum_end=0.99999,
        momentum_schedule="official",
    ),
    "automix": SupervisedPreset(ratio_per="batch", eta=1.0, mask_kind="l1", adjust_probability=0.0, lam_margin=0.08),
}
"""Name to choices; the Mixer's own of the same name are :data:`metrixkit.mixing.MIXER_PRESETS`."""

CONTRAST: dict[str, ContrastPreset] = {
    "samix": ContrastPreset(),
    "paper": ContrastPreset(ratio_per="batch"),
    "official": ContrastPreset(
        ratio_per="batch", eta=0.0, eta_mode="official", beta_schedule="official", views="official"
    ),
    "automix": ContrastPreset(ratio_per="batch", eta=1.0, eta_mode="split", mask_kind="l1"),
}

Choices = TypeVar("Choices", SupervisedPreset, ContrastPreset)


def chosen(presets: Mapping[str, Choices], name: str, changes: Mapping[str, Any]) -> Choices:
    """Return the choices of a preset with those of `changes` that are not None.

    Args:
        presets: :data:`SUPERVISED` or :data:`CONTRAST`.
        name: Of the preset.
        changes: Choice to value; names that are no choice are left out.

    Raises:
        InputError: An unknown preset.
    """
    if name not in presets:
        raise InputError(f"method.preset={name!r}.{did_you_mean(name, presets)} Known: {', '.join(presets)}.")
    known = [field.name for field in fields(presets[name])]
    return replace(presets[name], **{k: changes[k] for k in known if changes.get(k) is not None})
