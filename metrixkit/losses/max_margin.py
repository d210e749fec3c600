"""The bidirectional max-margin loss on matched pairs, as used for video and text.

N pairs, d dimensions.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from metrixkit.losses.matched import Takes, check_margin, margin_of, matched_cosines
from metrixkit.losses.unit import no_autocast


def max_margin(a: Tensor, b: Tensor, margin: float | Tensor = 0.2) -> Tensor:
    """Return ``(1 / N^2) SUM_{i != j} [m + S_ij - S_ii]_+ + [m + S_ij - S_jj]_+`` of the cosines S of a with b.

    Each row of either side is an anchor; the others of the other side are its negatives.

    Args:
        a: (N, d) raw embeddings of one side, N >= 1.
        b: (N, d) of the other; row i belongs to row i.
        margin: Gap of cosines that is demanded, in [0, 2]; or (N,) with one for each pair, which holds where the pair's
            rows are anchors. Not differentiated.

    Returns:
        A scalar >= 0; 0 for a single pair.

    Raises:
        InputError: The sides do not fit one another.

    Source: COOT (Ging et al., NeurIPS 2020), Eq. 7; the alignment term of the DMM release.
    """
    s = matched_cosines(a, b)
    with no_autocast(s):
        m = check_margin(margin, len(s))
        least = s.diagonal() - (m.to(s) if isinstance(m, Tensor) else m)
        gaps = (s - least[:, None]).clamp(min=0) + (s - least[None, :]).clamp(min=0)
        return gaps.fill_diagonal_(0).sum() / s.numel()


class MaxMargin(nn.Module):
    """:func:`max_margin` as a loss with settings, and as a host of DMM.

    Args:
        margin: Gap of cosines that is demanded, in [0, 2].

    Raises:
        InputError: The margin is out of range.
    """

    takes: ClassVar[Takes] = "pairs"
    on_cosines: ClassVar[bool] = True

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin_of("margin", margin, 2)

    def forward(self, a: Tensor, b: Tensor, margin: float | Tensor | None = None) -> Tensor:
        """Return the loss of matched (N, d) sides; `margin` stands in for the loss's own, which it does not change."""
        return max_margin(a, b, self.margin if margin is None else margin)
