"""What keeps the Mixer's masks as large as lambda asks, and neither grey nor flat. B masks of H x W pixels."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.checks import check_known
from metrixkit.losses.two_hot import share_rows
from metrixkit.losses.unit import full_precision, no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan

MaskLossKind = Literal["l1+variance", "l1", "l2+variance", "sparsity"]
_KINDS: tuple[str, ...] = get_args(MaskLossKind)
_PER = ("batch", "sample")
# Weight of the variance beside the distance of means.
_SPREAD = 2.0


def mask_loss(
    mask: Tensor,
    lam: float | Tensor,
    kind: MaskLossKind = "l1+variance",
    margin: float = 0.1,
    per: Literal["batch", "sample"] = "batch",
) -> Tensor:
    """Return how far the mean of masks is from lambda, beyond a margin, less twice their variance.

    With mu and var over the pixels of all masks of the batch, or of each sample:

    - ``l1+variance``: ``[|mu - lambda| - margin]_+ - 2 var``, as SAMix has it: variance is maximised, which its paper
      prints with the other sign.
    - ``l1``: without the variance (AutoMix).
    - ``l2+variance``: ``[(mu - lambda)^2 - margin^2]_+ - 2 var``.
    - ``sparsity``: ``[mean s (1 - s) - margin]_+``, which knows no lambda.

    All are the same for the first image's masks with lambda and their partners' with 1 - lambda. Several processes:
    each takes the mean of its own masks.

    Args:
        mask: (B, 1, H, W) in [0, 1], share of the first image, with gradient.
        lam: Its share: a number in [0, 1], or (B,) of such.
        kind: Which of the above.
        margin: In [0, 1].
        per: "batch", as released, or "sample": the mean of each mask's own loss. Lambdas that differ within the batch
            need "sample": the mean of a batch would only be held to their mean.

    Returns:
        A scalar in float32 or, if the masks are, float64; before its weight beta (0.1).

    Raises:
        InputError: Shapes, types or numbers do not fit, or lambdas differ and `per` is "batch".

    Source: Li et al. (SAMix, 2021) and Liu et al. (AutoMix, ECCV 2022), the losses of the mask, as released.
    """
    check_known("kind", kind, _KINDS)
    check_known("per", per, _PER)
    if not 0 <= margin <= 1:
        raise InputError(f"mask_loss: margin={margin}, expected a distance of means in [0, 1]; 0.1 is usual.")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[1] != 1 or not mask.is_floating_point():
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"mask_loss: got {got}, expected floating (B, 1, H, W) masks of the first images.")
    if not mask.numel():
        raise InputError(f"mask_loss: masks are empty, {tuple(mask.shape)}; expected at least one pixel.")
    with no_autocast(mask):
        rows = full_precision(mask).flatten(1)
        share = share_rows(lam, len(rows), rows)
        if per == "batch":
            if isinstance(lam, Tensor) and bool((lam != lam.flatten()[0]).any()):
                raise InputError(
                    "mask_loss: lam holds several values, and per='batch' has one mean to compare; take per='sample'."
                )
            rows, share = rows.reshape(1, -1), share[:1]
        if kind == "sparsity":
            grey = (rows * (1 - rows)).mean(1)
            return (grey - margin).clamp(min=0).mean() + zero_or_nan(grey)
        distance = rows.mean(1) - share
        far = distance.square() - margin**2 if kind == "l2+variance" else distance.abs() - margin
        far = far.clamp(min=0)
        return far.mean() if kind == "l1" else (far - _SPREAD * rows.var(1, correction=0)).mean()
