"""The cross-entropy with two right answers: what every self-supervised mixer minimises.

M rows, C candidates. A mixture of two images is an example of one by lambda and of the other by 1 - lambda. That soft
label has two entries, which are picked out of the logits: a matrix of labels is never built, and nothing is multiplied
with the logarithm of a probability that has become zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.unit import full_precision, no_autocast
from metrixkit.mixing import check_share


def target_rows(name: str, rows: Tensor, count: int, candidates: int, device: torch.device) -> Tensor:
    """Return (M,) target indices on `device`, checked.

    Values are checked where that costs nothing: on a processor. An accelerator refuses an index out of range by itself.

    Raises:
        InputError: Another shape or type, or an index outside [0, candidates).
    """
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.shape != (count,):
        got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{name}: got {got}, expected int64 of shape ({count},): one target for each mixed row.")
    if rows.device.type == "cpu" and bool(((rows < 0) | (rows >= candidates)).any()):
        raise InputError(
            f"{name} holds targets from {int(rows.min())} to {int(rows.max())}, expected rows of the {candidates} "
            "targets, counted from 0."
        )
    return rows.to(device, non_blocking=True)


def share_rows(lam: float | Tensor, count: int, like: Tensor) -> Tensor:
    """Return lambda as (M,) constants in type and on the device of `like`.

    A tensor on an accelerator is checked by shape only: to look at its values would be to wait for them.

    Raises:
        InputError: Another shape, or a value outside [0, 1].
    """
    if isinstance(lam, Tensor) and lam.device.type != "cpu" and lam.shape in ((), (count,)):
        return lam.detach().to(like).expand(count)
    share = check_share(lam, count)
    return share.to(like) if isinstance(share, Tensor) else like.new_full((count,), share)


def two_hot_cross_entropy(
    logits: Tensor, first: Tensor, second: Tensor, lam: float | Tensor, rest: Tensor | None = None
) -> Tensor:
    """Return ``log SUM_c e^{l_c} - lambda l_first - (1 - lambda) l_second`` for each row l.

    Where both targets are the same candidate their shares add up. A target with share 0 does not count, whatever its
    logit is, so that a candidate may be ruled out by -inf.

    Args:
        logits: (M, C) floating, at least one of each row finite.
        first: (M,) int64 candidate with share lambda.
        second: (M,) int64 candidate with the rest.
        lam: A number in [0, 1], or (M,) of such. No gradient.
        rest: (M,) logarithm of what further candidates add to the sum, none of them a target; see
            :func:`~metrixkit.losses.denominator.log_denominator`.

    Returns:
        (M,) >= 0, in float32 or, if the logits are, float64.

    Raises:
        InputError: Shapes, types, targets or lambda do not fit.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        got = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"logits: got {got}, expected a floating tensor of shape (rows, candidates).")
    count, candidates = logits.shape
    first, second = (
        target_rows(name, rows, count, candidates, logits.device)
        for name, rows in (("first", first), ("second", second))
    )
    if rest is not None and rest.shape != (count,):
        raise InputError(f"rest has shape {tuple(rest.shape)}, expected ({count},): one sum for each row.")
    with no_autocast(logits):
        wide = full_precision(logits)
        share = share_rows(lam, count, wide)
        total = wide.logsumexp(1)
        if rest is not None:
            total = torch.logaddexp(total, rest.to(wide))
        picked = (
            # Chosen before the product: 0 * -inf is not a number.
            part * torch.where(part > 0, wide.gather(1, rows[:, None]).squeeze(1), 0)
            for part, rows in ((share, first), (1 - share, second))
        )
        return total - sum(picked, torch.zeros_like(total))
