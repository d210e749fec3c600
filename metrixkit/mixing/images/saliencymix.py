"""SaliencyMix: CutMix whose box sits where the partner is most salient (Uddin et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.boxes import Boxes, relative_side
from metrixkit.mixing.images.cutmix import paste_boxes
from metrixkit.mixing.images.mixed import MixedImages, prepare
from metrixkit.mixing.images.saliency import fine_grained_saliency


def saliencymix(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator | None = None,
    saliency: Tensor | None = None,
    shared_box: bool = False,
) -> MixedImages:
    """Paste the box of area 1 - lambda around the partner's most salient pixel, at the place where it was.

    Each image has a box of its own. (The released comparison takes one box a batch, from the first partner, and feeds
    its detector normalised floats, of which it finds nothing: in effect a random box.)

    Args:
        images: (B, C, H, W) floating, [0, 1]; or uint8. Normalised images serve as well: see `saliency`.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such.
        generator: Not used: nothing is drawn.
        saliency: (B, H, W) how salient each pixel of the *partner* is, from a detector of one's own; None is
            :func:`fine_grained_saliency`, which does not depend on the range of the pixels.
        shared_box: The first row's box for the whole batch, as the released comparison does.

    Returns:
        The mixtures; lambda is what is left of the first image after clipping, ``1 - area / (H W)``, and the mean of
        the mask.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images, others, shares = prepare(images, partner, lam)
    count, _, height, width = images.shape
    if saliency is None:
        saliency = fine_grained_saliency(others[:1] if shared_box else others)
        saliency = saliency.expand(count, -1, -1)
    elif saliency.shape != (count, height, width):
        raise InputError(
            f"saliency has shape {tuple(saliency.shape)}, expected {(count, height, width)}: a value a pixel of each "
            "partner."
        )
    if shared_box:
        saliency = saliency[:1].expand(count, -1, -1)
    # Boxes are made on the CPU: the peaks are waited for.
    peak = saliency.flatten(1).argmax(1).cpu()
    place = torch.stack([peak // width, peak % width], dim=1).double()
    centre = (place + 0.5) / torch.tensor([height, width])
    return paste_boxes(images, others, Boxes(relative_side(shares, count), centre).edges(height, width))
