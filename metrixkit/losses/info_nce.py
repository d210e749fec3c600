"""Contrast by softmax: InfoNCE, NT-Xent and the symmetric cross-entropy of CLIP.

N pairs, d dimensions, K further negatives. Rows are brought to length 1 inside and everything is computed in float32 at
least, whatever autocast says. Several processes: gather first, with gradient.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.denominator import check_negatives, log_denominator, nce_rows
from metrixkit.losses.matched import Takes, check_sides, common_precision, matched_cosines
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.unit import cosines, no_autocast, unit_rows


def info_nce(query: Tensor, key: Tensor, temperature: float = 0.07, negatives: Tensor | None = None) -> Tensor:
    """Return the mean over queries of ``-log e^{s(q, k) / T} / (e^{s(q, k) / T} + SUM_n e^{s(q, n) / T})``.

    Args:
        query: (N, d) raw embeddings, N >= 1.
        key: (N, d); row i is the positive of query i.
        temperature: T, > 0.
        negatives: (K, d) raw rows that are the negatives of every query, such as a queue; None takes the other keys.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types or the temperature do not fit.

    Source: van den Oord et al., 2018; with a queue MoCo (He et al., CVPR 2020), Eq. 1.
    """
    temperature = positive_number("temperature", temperature)
    if negatives is None:
        s = matched_cosines(query, key)
        with no_autocast(s):
            return F.cross_entropy(s / temperature, torch.arange(len(s), device=s.device))
    check_sides(query, key, ("query", "key"))
    check_negatives(negatives, query)
    with no_autocast(query):
        q, k = (unit_rows(rows) for rows in common_precision(query, key, negatives[:0])[:2])
        own = torch.linalg.vecdot(q, k) / temperature
        return nce_rows(own, log_denominator(q, negatives, temperature)).mean()


def nt_xent(a: Tensor, b: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the mean over all 2N rows of the cross-entropy of their partner among the 2N - 1 other rows of both sides.

    Args:
        a: (N, d) raw embeddings of one view, N >= 1.
        b: (N, d) of the other; row i belongs to row i.
        temperature: T, > 0.

    Returns:
        A scalar >= 0; 0 for a single pair.

    Raises:
        InputError: The sides do not fit one another, or T is not positive.

    Source: SimCLR (Chen et al., ICML 2020), Eq. 1.
    """
    temperature = positive_number("temperature", temperature)
    check_sides(a, b)
    with no_autocast(a):
        s = cosines(torch.cat(common_precision(a, b))) / temperature
        itself = torch.eye(len(s), dtype=torch.bool, device=s.device)
        return F.cross_entropy(s.masked_fill(itself, -torch.inf), torch.arange(len(s), device=s.device).roll(len(a)))


def symmetric_cross_entropy(a: Tensor, b: Tensor, logit_scale: float | Tensor) -> Tensor:
    """Return the mean of the cross-entropies by rows and by columns of ``logit_scale * S``, S the cosines of a with b.

    Args:
        a: (N, d) raw embeddings of one side, N >= 1.
        b: (N, d) of the other; row i belongs to row i.
        logit_scale: The factor itself, > 0, not its logarithm: 1 / temperature, 100 at most in CLIP. A scalar tensor is
            differentiated.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: The sides do not fit one another.

    Source: CLIP (Radford et al., ICML 2021), Figure 3.
    """
    s = matched_cosines(a, b)
    with no_autocast(s):
        logits = s * (logit_scale.to(s) if isinstance(logit_scale, Tensor) else logit_scale)
        target = torch.arange(len(s), device=s.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class InfoNCE(nn.Module):
    """:func:`info_nce` with the other keys as negatives, in one direction or in both.

    Args:
        temperature: T, > 0.
        symmetric: Whether sides also change roles and the two losses are averaged.

    Raises:
        InputError: T is not positive.
    """

    takes: ClassVar[Takes] = "pairs"
    on_cosines: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.07, symmetric: bool = False) -> None:
        super().__init__()
        self.temperature, self.symmetric = positive_number("temperature", temperature), symmetric

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the loss of matched (N, d) sides, queries first: a scalar."""
        if self.symmetric:
            return symmetric_cross_entropy(a, b, 1 / self.temperature)
        return info_nce(a, b, self.temperature)


class NTXent(nn.Module):
    """:func:`nt_xent` as a loss with settings.

    Args:
        temperature: T, > 0.

    Raises:
        InputError: T is not positive.
    """

    takes: ClassVar[Takes] = "pairs"
    on_cosines: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive_number("temperature", temperature)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the loss of matched (N, d) sides: a scalar."""
        return nt_xent(a, b, self.temperature)


class SymmetricCrossEntropy(nn.Module):
    """:func:`symmetric_cross_entropy` with a learned temperature, as CLIP has it.

    Args:
        temperature: At the start, > 0.
        learn: Whether it is learned; its reciprocal is held at `most`.
        most: Greatest factor on the cosines, > 0.

    Attributes:
        log_scale: Scalar parameter, the logarithm of the factor.

    Raises:
        InputError: A number is not positive, or 1 / temperature is above `most`.
    """

    takes: ClassVar[Takes] = "pairs"
    on_cosines: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.07, learn: bool = True, most: float = 100.0) -> None:
        super().__init__()
        start = 1 / positive_number("temperature", temperature)
        if start > positive_number("most", most) * (1 + 1e-9):
            raise InputError(f"temperature={temperature} is a factor of {start:g} on the cosines, above most={most:g}.")
        self.most = float(most)
        self.log_scale = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learn)

    @property
    def scale(self) -> Tensor:
        """The factor on the cosines, a scalar tensor."""
        # At the bound the value is cut and the gradient still passes, so that a scale beyond it can come back.
        exact = self.log_scale.exp()
        return exact + (exact.clamp(max=self.most) - exact).detach()

    def forward(self, a: Tensor, b: Tensor, logit_scale: float | Tensor | None = None) -> Tensor:
        """Return the loss of matched (N, d) sides; `logit_scale` is the factor of a model that has its own."""
        return symmetric_cross_entropy(a, b, self.scale if logit_scale is None else logit_scale)
