"""Mixers that choose between CutMix and MixUp: by label or pseudo label (Inter-Intra), or by a coin (Un-Mix)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.cutmix import cutmix
from metrixkit.mixing.images.mixed import MixedImages, branch, prepare
from metrixkit.mixing.images.mixup import mixup
from metrixkit.mixing.partners import check_share


def inter_intra(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    intra_lam: float | Tensor | None = None,
) -> MixedImages:
    """CutMix for a pair of different labels, MixUp for one of the same (SAMix, appendix A.2.1; no code was released).

    There pairs of different clusters take lambda from Beta(2, 2) or a higher alpha and pairs of one cluster from
    Beta(0.2, 0.2); the paper's section 3.1 contradicts it (a large alpha within, a small one between clusters).

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such.
        generator: A CPU generator, advanced by one draw.
        labels: (B,) integers, labels or pseudo labels (clusters) of the images.
        partner_labels: (B,) those of the partners; needed where `partner` holds images.
        intra_lam: The share for pairs of one label, as `lam`; None is `lam`.

    Returns:
        The mixtures; lambda is that of each row's own mixer, and the mask's mean; the mask is even where MixUp was.

    Raises:
        InputError: Types, shapes or values do not fit, or the partners' labels are not known.
    """
    images, others, shares = prepare(images, partner, lam)
    same = _same_label(labels, partner, partner_labels, len(images)).to(images.device)
    cut = cutmix(images, others, shares, generator)
    blend = mixup(images, others, shares if intra_lam is None else check_share(intra_lam, len(images)))
    assert cut.mask is not None
    rows = same[:, None, None, None]
    even = blend.lam.to(images.dtype)[:, None, None, None]
    return MixedImages(
        torch.where(rows, blend.images, cut.images),
        torch.where(same, blend.lam, cut.lam),
        torch.where(rows, even, cut.mask),
    )


def cutmix_or_mixup(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator,
    mixup_share: float = 0.5,
    shared_box: bool = False,
) -> MixedImages:
    """MixUp for the whole batch with probability `mixup_share`, else CutMix (Un-Mix, Shen et al., 2022).

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such.
        generator: A CPU generator, advanced by one draw.
        mixup_share: Probability of MixUp, in [0, 1].
        shared_box: As for :func:`cutmix`; the released code of Un-Mix does so.

    Returns:
        What the mixer chosen returns.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    if not 0 <= mixup_share <= 1:
        raise InputError(f"mixup_share is {mixup_share}, expected a probability in [0, 1].")
    own = branch(generator)
    if float(torch.rand((), generator=own, dtype=torch.float64)) < mixup_share:
        return mixup(images, partner, lam)
    return cutmix(images, partner, lam, own, shared_box)


def _same_label(labels: Tensor, partner: Tensor, partner_labels: Tensor | None, count: int) -> Tensor:
    """Return (B,) bool: whether a row and its partner have one label."""
    if labels.shape != (count,):
        raise InputError(f"labels have shape {tuple(labels.shape)}, expected ({count},): one an image.")
    if partner_labels is None:
        if partner.ndim != 1:
            raise InputError("partner holds images: give their labels as partner_labels.")
        partner_labels = labels[partner.to(labels.device)]
    elif partner_labels.shape != (count,):
        raise InputError(
            f"partner_labels have shape {tuple(partner_labels.shape)}, expected ({count},): one a partner."
        )
    return labels == partner_labels.to(labels.device)
