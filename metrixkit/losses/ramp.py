"""How the weight of an added loss grows over the epochs."""

from __future__ import annotations

from dataclasses import dataclass

from metrixkit.errors import InputError


@dataclass(frozen=True)
class Ramp:
    """``e / (e + offset)`` with e = epoch + first: from `first / (first + offset)` towards 1.

    In the releases of DMM, COOT and CML take offset 30 and first 0, so that nothing is added in the first epoch; GMC
    takes offset 12 and first 1.

    Attributes:
        offset: Epochs until half of the weight, >= 0; 0 with first 1 is the whole weight at once.
        first: The number of the first epoch, 0 or more.

    Raises:
        InputError: A negative number, or both are 0.
    """

    offset: float = 30.0
    first: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.offset < 0 or self.first < 0 or self.offset + self.first == 0:
            raise InputError(
                f"ramp: offset={self.offset} and first={self.first}; expected numbers >= 0 that are not both 0. "
                "No ramp at all is ramp=None (null in configs)."
            )

    def __call__(self, epoch: int) -> float:
        """Return the share of the weight in `epoch`, counted from 0: in [0, 1]."""
        return (epoch + self.first) / (epoch + self.first + self.offset)
