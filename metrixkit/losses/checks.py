"""What a user may set on Metrix, checked in one place."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from metrixkit.errors import InputError, did_you_mean


def listed(name: str, value: str | Sequence[str]) -> list[str]:
    """Return one name or several as a list, or raise InputError where there is none."""
    if not value:
        raise InputError(f"{name} is empty, expected at least one.")
    return [value] if isinstance(value, str) else list(value)


def check_known(name: str, value: str, options: Collection[str]) -> None:
    """Raise InputError with the near names unless `value` is one of `options`."""
    if value not in options:
        raise InputError(f"{name}={value!r}.{did_you_mean(str(value), options)} Known: {', '.join(options)}.")


def check_count(name: str, count: int | None, otherwise: str) -> None:
    """Raise InputError unless `count` is None or at least 1."""
    if count is not None and count < 1:
        raise InputError(f"{name} is {count}, expected at least 1, or None for {otherwise}.")


def check_mixing(weight: float, alpha: float) -> None:
    """Raise InputError unless the mixed loss's weight is at least 0 and its alpha above 0."""
    if not weight >= 0:
        raise InputError(f"weight is {weight}, expected a number >= 0; the paper takes 0.4.")
    if not alpha > 0:
        raise InputError(f"alpha is {alpha}, expected a number > 0; the paper takes 2.0.")


def given_ratio(lam: float | Tensor, shape: tuple[int, int], transposed: bool, like: Tensor) -> float | Tensor:
    """Return lambda as the user gave it, checked: a number, or one for each pair in the type of `like`.

    Args:
        lam: A number in [0, 1], or a matrix of such.
        shape: What a matrix must have, after it was transposed where `transposed`.
        transposed: Whether the plan's rows are the user's columns.
        like: A tensor of the right type and device.

    Raises:
        InputError: Another shape or a value outside [0, 1].
    """
    if not isinstance(lam, Tensor) or lam.ndim == 0:
        lam = float(lam)
        if not 0 <= lam <= 1:
            raise InputError(f"lam is {lam}, expected a number in [0, 1].")
        return lam
    if transposed:
        lam = lam.T
    if tuple(lam.shape) != shape or bool(((lam < 0) | (lam > 1)).any()):
        raise InputError(f"lam has shape {tuple(lam.shape)}, expected one number or shape {shape}, all in [0, 1].")
    return lam.detach().to(like)
