"""The dynamic mixed margin of the DMM release for recommenders, faults included, for comparison."""

from __future__ import annotations

from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.cml import CMLMinTriplet, CMLSumTriplet, cml_min_triplet, cml_sum_triplet
from metrixkit.mixing import mix


class OfficialCML:
    """What the release computes on its two hosts for recommenders.

    - The margin decays: each step multiplies what the last one left by lambda, so that after ten steps it is about
      1e-7 and from the second epoch on exactly 0. The clean loss keeps the whole margin.
    - Min-triplet: lambda ~ U(0, 0.5), so that a mixture is mostly the other user (row N-1-i) while the liked item stays
      the own one's. Every user's positive distance is compared with every user's nearest negative, in the clean loss
      too.
    - Sum-triplet: not users are mixed but each negative with the positive, lambda of the positive, lambda ~ U(0, 1).
      As lambda grows the negative becomes the positive while the margin grows too.

    Args:
        loss: :class:`~metrixkit.losses.CMLMinTriplet` or :class:`~metrixkit.losses.CMLSumTriplet`.

    Attributes:
        margin: What the next mixed loss starts from.

    Raises:
        InputError: Another loss; there the release does what the default does, or has nothing.
    """

    def __init__(self, loss: nn.Module) -> None:
        if not isinstance(loss, CMLMinTriplet | CMLSumTriplet):
            raise InputError(
                f"official=True with {type(loss).__name__}: the release has faults to show on its CML hosts only, "
                "CMLMinTriplet and CMLSumTriplet; leave official out."
            )
        self.loss = loss
        self.margin = loss.margin
        self.high = 0.5 if isinstance(loss, CMLMinTriplet) else 1.0

    def clean(self, user: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Return the clean loss."""
        if isinstance(self.loss, CMLMinTriplet):
            return cml_min_triplet(user, positive, negatives, self.loss.margin, official=True)
        return self.loss(user, positive, negatives)  # type: ignore[no-any-return]

    def mixed(self, lam: float, user: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Return the mixed loss at `lam`, and leave the margin multiplied by it."""
        self.margin *= lam
        if isinstance(self.loss, CMLMinTriplet):
            return cml_min_triplet(mix(user, user.flip(0), lam), positive, negatives, self.margin, official=True)
        mixed = mix(positive[:, None].expand_as(negatives), negatives, lam)
        return cml_sum_triplet(user, positive, mixed, self.margin)
