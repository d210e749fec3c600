"""The absolute error of predicted numbers, for methods that regress."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from metrixkit.errors import InputError


class AbsoluteError(nn.Module):
    """The mean of ``|predicted - value|``."""

    takes: ClassVar[str] = "values"

    def forward(self, predicted: Tensor, values: Tensor) -> Tensor:
        """Return a scalar >= 0.

        Args:
            predicted: (N,) numbers.
            values: (N,) true ones.

        Raises:
            InputError: Shapes that differ: broadcasting would compare everything with everything.
        """
        if predicted.shape != values.shape or not len(values):
            raise InputError(
                f"predicted has shape {tuple(predicted.shape)} and values {tuple(values.shape)}; expected the same."
            )
        return (predicted - values.to(predicted)).abs().mean()
