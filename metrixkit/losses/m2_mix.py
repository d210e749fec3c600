"""Geodesic multi-modal mixing of matched pairs (So et al., NeurIPS 2023): the rival that mixes across the two sides.

N pairs, d dimensions. DMM mixes the inputs of one side and asks for less margin; here unit embeddings are mixed along
the sphere and take the place of negatives, or of one side.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.info_nce import symmetric_cross_entropy
from metrixkit.losses.matched import Takes, check_sides, unit_sides
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.unit import no_autocast, products
from metrixkit.mixing import draw_ratio, slerp


def m2_mix(a: Tensor, b: Tensor, lam: float | Tensor, temperature: float = 0.01) -> Tensor:
    """Return the cross-entropy of each pair against mixtures of the other pairs, summed over both directions.

    The mixture of pair j lies between a_j and b_j on the sphere. Off the diagonal the logits are its cosines with a_i
    (then with b_i), on the diagonal those of the pair itself.

    Args:
        a: (N, d) raw embeddings of one side, N >= 1.
        b: (N, d) of the other; row i belongs to row i.
        lam: Share of `a` in the mixtures: a number in [0, 1], or (N,).
        temperature: T, > 0. The code takes 0.01, or 0.07 where it sets the mixed one apart.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: The sides, lambda or T do not fit.
    """
    temperature = positive_number("temperature", temperature)
    check_sides(a, b)
    with no_autocast(a):
        x, y = unit_sides(a, b)
        mixtures = slerp(x, y, lam)
        pair = torch.linalg.vecdot(x, y).diag_embed()
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        target = torch.arange(len(x), device=x.device)
        logits = (torch.where(itself, pair, products(side, mixtures)) / temperature for side in (x, y))
        return sum((F.cross_entropy(part, target) for part in logits), x.new_zeros(()))


def v_mix(a: Tensor, b: Tensor, lam: float | Tensor, temperature: float = 0.01) -> Tensor:
    """Return the soft cross-entropy of `a` mixed with the reversed batch against the clean `b`, mean of directions.

    The target of row i is lambda on pair i and 1 - lambda on pair N-1-i. Arguments and errors as for :func:`m2_mix`.
    """
    return _within(a, b, lam, temperature, (True, False))


def l_mix(a: Tensor, b: Tensor, lam: float | Tensor, temperature: float = 0.01) -> Tensor:
    """Return the same with `b` mixed and `a` clean: the roles of :func:`v_mix` changed."""
    return _within(a, b, lam, temperature, (False, True))


def vl_mix(a: Tensor, b: Tensor, lam: float | Tensor, temperature: float = 0.01) -> Tensor:
    """Return the same with both sides mixed at the same lambda; the target is 1 on both pairs, as in the authors' code.

    Its rows add up to 2. Arguments and errors as for :func:`m2_mix`.
    """
    return _within(a, b, lam, temperature, (True, True))


def _within(a: Tensor, b: Tensor, lam: float | Tensor, temperature: float, mixed: tuple[bool, bool]) -> Tensor:
    temperature = positive_number("temperature", temperature)
    check_sides(a, b)
    with no_autocast(a):
        sides = unit_sides(a, b)
        x, y = (slerp(side, side.flip(0), lam) if it else side for side, it in zip(sides, mixed, strict=True))
        own = torch.eye(len(x), dtype=x.dtype, device=x.device)
        share = torch.as_tensor(lam, dtype=x.dtype, device=x.device).expand(len(x))[:, None]
        target = own + own.flip(0) if all(mixed) else share * own + (1 - share) * own.flip(0)
        if mixed == (False, True):
            target = target.T
        logits = products(x, y) / temperature
        rows = -(target * logits.log_softmax(1)).sum(1).mean()
        columns = -(target * logits.log_softmax(0)).sum(0).mean()
        return (rows + columns) / 2


class M2Mix(nn.Module):
    """Symmetric cross-entropy plus m2-Mix; with `uni` and `both` it is the m3-Mix of the paper.

    Args:
        temperature: T of the clean loss and, unless it has its own, of the mixed ones, > 0.
        mixed_temperature: T of m2-Mix alone; 0.07 in the authors' `sep_scale`.
        m2: Weight of :func:`m2_mix`, >= 0.
        uni: Weight of :func:`v_mix` and of :func:`l_mix`, >= 0; 0.05 in m3-Mix.
        both: Weight of :func:`vl_mix`, >= 0; 0.05 to 0.2 in m3-Mix.
        beta: m2-Mix' lambda ~ Beta(beta, beta), > 0; 0.2 in m3-Mix.
        beta_uni: The same of the other three, which share one lambda.
        fade: Whether the mixed losses are divided by the number of the epoch, counted from 1.
        seed: Of the generator, whose state is in `state_dict`, as the epoch is.

    Raises:
        InputError: A number is out of range.
    """

    takes: ClassVar[Takes] = "pairs"
    on_cosines: ClassVar[bool] = True

    def __init__(
        self,
        temperature: float = 0.01,
        mixed_temperature: float | None = None,
        m2: float = 0.01,
        uni: float = 0.0,
        both: float = 0.0,
        beta: float = 0.5,
        beta_uni: float = 0.5,
        fade: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.temperature = positive_number("temperature", temperature)
        self.mixed_temperature = positive_number("mixed_temperature", mixed_temperature or temperature)
        for name, value in (("m2", m2), ("uni", uni), ("both", both)):
            if not value >= 0:
                raise InputError(f"{name} is {value}, expected a weight >= 0.")
        self.m2, self.uni, self.both, self.fade = float(m2), float(uni), float(both), fade
        self.beta, self.beta_uni = positive_number("beta", beta), positive_number("beta_uni", beta_uni)
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self.last: dict[str, Tensor | float] = {}

    def set_epoch(self, epoch: int) -> None:
        """Settle the weight of the mixed losses for `epoch`, counted from 0."""
        self.epoch = int(epoch)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the loss of matched (N, d) sides: a scalar."""
        clean = symmetric_cross_entropy(a, b, 1 / self.temperature)
        lam, lam_uni = (float(draw_ratio(beta, self.generator)) for beta in (self.beta, self.beta_uni))
        mixed = clean.new_zeros(())
        if self.m2:
            mixed = mixed + self.m2 * m2_mix(a, b, lam, self.mixed_temperature)
        if self.uni:
            mixed = mixed + self.uni * (v_mix(a, b, lam_uni, self.temperature) + l_mix(a, b, lam_uni, self.temperature))
        if self.both:
            mixed = mixed + self.both * vl_mix(a, b, lam_uni, self.temperature)
        if self.fade:
            mixed = mixed / (self.epoch + 1)
        self.last = {"clean": clean.detach(), "mixed": mixed.detach(), "lambda": lam}
        return clean + mixed

    def logs(self) -> dict[str, float]:
        """Return clean loss, weighted mixed losses and m2-Mix' lambda of the last step; {} before it."""
        return {name: float(value) for name, value in self.last.items()}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state and the epoch."""
        return {"generator": self.generator.get_state(), "epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.generator.set_state(state["generator"].cpu())
        self.epoch = int(state["epoch"])
