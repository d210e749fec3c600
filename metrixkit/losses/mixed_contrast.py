"""InfoNCE of mixed rows: the one engine behind MixCo, i-Mix, Un-Mix, CLIM and instance mixup.

M mixed rows, T targets, K further negatives, d dimensions. Rows are brought to length 1 inside and everything is
computed in float32 at least, whatever autocast says.

Several processes: targets may be the gathered keys of all of them. Then `first` and `second` count from this process's
part on (rank * N + row), and nothing else changes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.checks import check_known
from metrixkit.losses.denominator import check_negatives, log_denominator, nce_rows
from metrixkit.losses.matched import common_precision
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.two_hot import share_rows, target_rows, two_hot_cross_entropy
from metrixkit.losses.unit import no_autocast, products, unit_rows

Candidates = Literal["joint", "split"]


def check_rows(name: str, rows: Tensor, like: Tensor | None = None) -> None:
    """Raise InputError unless `rows` is a floating (N, d), N at least 1, with the d and the device of `like`."""
    if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point() or not len(rows):
        got = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{name}: got {got}, expected a floating tensor of shape (rows, dimensions), not empty.")
    if like is not None and (rows.shape[1] != like.shape[1] or rows.device != like.device):
        raise InputError(
            f"{name} has {rows.shape[1]} dimensions on {rows.device}, expected {like.shape[1]} on {like.device}, as "
            "the rows it is compared with."
        )


def check_same(name: str, rows: Tensor, other: str, like: Tensor) -> None:
    """Raise InputError unless both are floating and of one shape (N, d), N at least 1."""
    check_rows(other, like)
    check_rows(name, rows, like)
    if rows.shape != like.shape:
        raise InputError(f"{name} has shape {tuple(rows.shape)}, expected {tuple(like.shape)}, as {other}.")


def mixed_info_nce(
    mixed: Tensor,
    targets: Tensor,
    first: Tensor,
    second: Tensor,
    lam: float | Tensor,
    temperature: float,
    negatives: Tensor | None = None,
    candidates: Candidates = "joint",
) -> Tensor:
    """Return the mean over mixtures of the cross-entropy with two right answers among the candidates.

    ``joint``: one softmax over all targets and negatives; both parents' targets compete with one another, and the
    targets of other images are negatives. ``split``: ``lambda NCE(first) + (1 - lambda) NCE(second)``, one positive
    each; the negatives are `negatives` alone, or without them the targets other than both, so that the other parent's
    target is in neither denominator.

    Args:
        mixed: (M, d) raw embeddings of the mixtures.
        targets: (T, d) raw rows; they learn where they require a gradient.
        first: (M,) int64 row of `targets` with share lambda.
        second: (M,) int64 row with the rest; it may be the same.
        lam: A number in [0, 1], or (M,) of such. No gradient.
        temperature: T, > 0.
        negatives: (K, d) raw rows, such as a queue; None takes none but the targets.
        candidates: "joint" or "split".

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types, devices, targets, lambda, the temperature or `candidates` do not fit.

    Source: joint MixCo (Kim et al., 2020) and i-Mix (Lee et al., ICLR 2021); split Un-Mix (Shen et al., AAAI 2022),
        CLIM (Li et al., 2020), Eq. 4.
    """
    temperature = positive_number("temperature", temperature)
    check_known("candidates", candidates, ("joint", "split"))
    check_rows("mixed", mixed)
    check_rows("targets", targets, mixed)
    if negatives is not None:
        check_negatives(negatives, mixed)
    first, second = (
        target_rows(name, rows, len(mixed), len(targets), mixed.device)
        for name, rows in (("first", first), ("second", second))
    )
    with no_autocast(mixed):
        wide = common_precision(mixed, targets, *([] if negatives is None else [negatives[:0]]))
        m, t = unit_rows(wide[0]), unit_rows(wide[1])
        rest = None if negatives is None else log_denominator(m, negatives, temperature)
        if candidates == "joint":
            return two_hot_cross_entropy(products(m / temperature, t), first, second, lam, rest).mean()
        share = share_rows(lam, len(m), m)
        if rest is None:
            logits = products(m / temperature, t)
            at_first, at_second = (logits.gather(1, rows[:, None]) for rows in (first, second))
            # Far below any logit, and finite: where no target is left, the loss and its gradient are 0.
            lowest = torch.finfo(m.dtype).min / 2
            others = logits.scatter(1, torch.stack([first, second], 1), lowest).logsumexp(1)
            terms = nce_rows(at_first.squeeze(1), others), nce_rows(at_second.squeeze(1), others)
        else:
            at_first, at_second = (torch.linalg.vecdot(m, t[rows]) / temperature for rows in (first, second))
            terms = nce_rows(at_first, rest), nce_rows(at_second, rest)
        return (share * terms[0] + (1 - share) * terms[1]).mean()
