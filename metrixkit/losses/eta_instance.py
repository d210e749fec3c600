"""SAMix' eta-balanced loss over instances: which of the two images, against all others.

N mixtures, d dimensions, K negatives. Rows are brought to length 1 inside; everything is computed in float32 at least.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.checks import check_known
from metrixkit.losses.eta_class import check_eta, two_way
from metrixkit.losses.matched import check_sides, common_precision
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.two_hot import share_rows
from metrixkit.losses.unit import no_autocast, products, unit_rows
from metrixkit.mixing.ratio import draw_ratio

InstanceMode = Literal["joint", "split", "official", "official_local"]
_MODES: tuple[str, ...] = get_args(InstanceMode)


def eta_instance_loss(
    mixed: Tensor,
    key_first: Tensor,
    key_second: Tensor,
    queue: Tensor,
    lam: float | Tensor,
    eta: float = 0.5,
    temperature: float = 0.2,
    mode: InstanceMode = "joint",
    *,
    ignore: Tensor | None = None,
    extended: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the mean over mixtures of the eta-balanced contrast with the keys of both images.

    With s_i, s_j the scaled cosines with both keys and s_n those with the negatives, local is ``lambda CE([s_i, s_j])
    + (1 - lambda) CE([s_j, s_i])``, the first being right: a softmax of two. With InfoNCE ``lambda CE([s_i, s_n]) +
    (1 - lambda) CE([s_j, s_n])``, in which the other image is no candidate:

    - ``joint``: local + eta global, with global ``LSE(s_i, s_j, s_n) - LSE(s_i, s_j)``: with eta = 1 this is exactly
      the cross-entropy by lambda over both keys and all negatives in one softmax.
    - ``split``: local + eta (InfoNCE - local); with eta = 1 InfoNCE, the loss that encoders learn from in the release.
    - ``official``: InfoNCE + eta local: the release, where eta is 0 unless asked for, then 0.5 and falling.
    - ``official_local``: local + eta InfoNCE, the release with the two terms exchanged.

    Args:
        mixed: (N, d) raw embeddings of the mixtures, N >= 1.
        key_first: (N, d), targets of the first images; keys take no gradient.
        key_second: (N, d), of their partners: already in the partners' order.
        queue: (K, d) raw rows, negatives of all.
        lam: Share of the first: a number in [0, 1], or (N,) of such.
        eta: Weight of the second term, >= 0.
        temperature: T, > 0; 0.2 with MoCo v2.
        mode: Which of the above.
        ignore: (N, K) bool, entries of the queue that are no negatives of a mixture; see :func:`same_label`.
        extended: Two (N, d) keys that stand for both in the second term of an official mode; see
            :func:`extend_positives`.

    Returns:
        A scalar in float32 or, if embeddings are, float64; differentiable once.

    Raises:
        InputError: Shapes, types or numbers do not fit.

    Source: Li et al. (SAMix, 2021), Eq. 7, which lacks its exponentials; the released code for the official modes.
    """
    check_known("mode", mode, _MODES)
    eta, temperature = check_eta(eta), positive_number("temperature", temperature)
    if extended is not None and not mode.startswith("official"):
        raise InputError(
            f"extended keys belong to the second term of mode 'official' or 'official_local', not {mode!r}."
        )
    check_sides(mixed, key_first, ("mixed", "key_first"))
    check_sides(mixed, key_second, ("mixed", "key_second"))
    _check_queue(queue, ignore, mixed)
    with no_autocast(mixed):
        rows, a, b, negatives = common_precision(mixed, key_first.detach(), key_second.detach(), queue.detach())
        rows = unit_rows(rows)
        share = share_rows(lam, len(rows), rows)
        beyond = products(rows, unit_rows(negatives)) / temperature
        if ignore is not None:
            beyond = beyond.masked_fill(ignore, -torch.inf)
        own = _with_keys(rows, a, b, temperature)
        local = _local(own, share)
        if mode == "joint":
            return (local + eta * (torch.cat([own, beyond], 1).logsumexp(1) - own.logsumexp(1))).mean()
        contrast = _info_nce(own, beyond, share)
        if mode == "split":
            return (local + eta * (contrast - local)).mean()
        if extended is not None:
            for name, keys in zip(("extended[0]", "extended[1]"), extended, strict=True):
                check_sides(mixed, keys, ("mixed", name))
            a, b = (keys.detach().to(rows.dtype) for keys in extended)
            own = _with_keys(rows, a, b, temperature)
        if mode == "official":
            return (contrast + eta * (local if extended is None else _local(own, share))).mean()
        return (local + eta * (contrast if extended is None else _info_nce(own, beyond, share))).mean()


def same_label(first: Tensor, second: Tensor, queue: Tensor) -> Tensor:
    """Return which entries of a queue carry the label, or pseudo label, of either image of a mixture.

    Args:
        first: (N,) integer labels of the first images.
        second: (N,), of their partners.
        queue: (K,), of the queue; a negative number stands for an unknown label, which equals none.

    Returns:
        (N, K) bool, to be ignored as negatives.

    Raises:
        InputError: Other shapes or types.
    """
    for name, labels in (("first", first), ("second", second), ("queue", queue)):
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
            got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels of {name}: got {got}, expected one row of integers.")
    if first.shape != second.shape:
        raise InputError(f"labels: {len(first)} of first images and {len(second)} of partners, expected as many.")
    return ((first[:, None] == queue) | (second[:, None] == queue)) & (queue >= 0)


def extend_positives(
    a: Tensor,
    b: Tensor,
    generator: torch.Generator,
    how: Literal["both", "interpolation", "extrapolation"] = "both",
    alpha: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """Return two keys of the same images moved along the line between them, in every dimension by another share.

    ``N(m a + (1 - m) b)`` and ``N(m b + (1 - m) a)`` with elements m ~ Beta(alpha, alpha), or m + 1, beyond both, which
    "both" takes in half of the calls. Bring the second into the partners' order afterwards.

    Args:
        a: (N, d) raw keys of one view.
        b: (N, d), of the other; row i of the same image.
        generator: A CPU generator, advanced by two draws whatever is asked for.
        how: Whether to stay between the keys or to go beyond.
        alpha: Concentration, > 0.

    Returns:
        Two (N, d) of rows at length 1, without gradient.

    Raises:
        InputError: Shapes, types or numbers do not fit.

    Source: Zhu et al., Improving Contrastive Learning by Visualizing Feature Transformation, ICCV 2021, as SAMix' code
    takes it for its auxiliary term.
    """
    check_known("how", how, ("both", "interpolation", "extrapolation"))
    check_sides(a, b)
    with no_autocast(a), torch.no_grad():
        a, b = (unit_rows(rows) for rows in common_precision(a, b))
        coin = float(torch.rand((), generator=generator, dtype=torch.float64))
        share = draw_ratio(alpha, generator, tuple(a.shape)).to(a)
        if how == "extrapolation" or (how == "both" and coin > 0.5):
            share = share + 1
        return unit_rows(share * a + (1 - share) * b), unit_rows(share * b + (1 - share) * a)


def _with_keys(rows: Tensor, a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return the (N, 2) scaled cosines of unit rows with both of their raw keys."""
    return torch.stack([torch.linalg.vecdot(rows, unit_rows(keys)) for keys in (a, b)], 1) / temperature


def _local(own: Tensor, share: Tensor) -> Tensor:
    return two_way(own[:, 1] - own[:, 0], share, 1 - share)


def _info_nce(own: Tensor, beyond: Tensor, share: Tensor) -> Tensor:
    """Return (N,) the two contrasts by share, each key alone among the negatives."""
    rest = beyond.logsumexp(1, keepdim=True)
    each = torch.logaddexp(own, rest) - own
    return share * each[:, 0] + (1 - share) * each[:, 1]


def _check_queue(queue: Tensor, ignore: Tensor | None, mixed: Tensor) -> None:
    if not isinstance(queue, Tensor) or queue.ndim != 2 or not queue.is_floating_point() or not len(queue):
        got = f"{queue.dtype} {tuple(queue.shape)}" if isinstance(queue, Tensor) else type(queue).__name__
        raise InputError(f"queue: got {got}, expected floating (negatives, {mixed.shape[1]}), not empty.")
    if queue.shape[1] != mixed.shape[1] or queue.device != mixed.device:
        raise InputError(
            f"queue: {tuple(queue.shape)} on {queue.device}, expected (negatives, {mixed.shape[1]}) on {mixed.device}."
        )
    if ignore is not None and (ignore.dtype != torch.bool or ignore.shape != (len(mixed), len(queue))):
        raise InputError(
            f"ignore: got {ignore.dtype} {tuple(ignore.shape)}, expected ({len(mixed)}, {len(queue)}) bool: which "
            "entries of the queue are no negatives of which mixture."
        )
