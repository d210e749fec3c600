"""How two images become one: each mixer a pure function of images, partner, lambda and generator.

``mixer(images, partner, lam, generator, **settings) -> MixedImages``, images floating in [0, 1] in and out. Mixers that
draw nothing take the generator too. `inter-intra` needs ``labels`` and `puzzlemix` ``saliency`` among their settings.
:func:`manifoldmix` mixes the maps of a stage and is no image mixer. Absent: Co-Mixup, of which no kept library exists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from metrixkit.families import Kind, returned_by
from metrixkit.mixing.images.boxes import Boxes, draw_boxes
from metrixkit.mixing.images.cutmix import cutmix, cutmix_boxes
from metrixkit.mixing.images.fmix import fmix
from metrixkit.mixing.images.inter_intra import cutmix_or_mixup, inter_intra
from metrixkit.mixing.images.manifold import manifoldmix
from metrixkit.mixing.images.mixed import MixedImages
from metrixkit.mixing.images.mixup import mixup
from metrixkit.mixing.images.puzzlemix import gradient_saliency, puzzlemix
from metrixkit.mixing.images.resizemix import resizemix
from metrixkit.mixing.images.saliency import fine_grained_saliency
from metrixkit.mixing.images.saliencymix import saliencymix

IMAGE_MIXERS: dict[str, Callable[..., MixedImages]] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "cutmix-or-mixup": cutmix_or_mixup,
    "saliencymix": saliencymix,
    "fmix": fmix,
    "resizemix": resizemix,
    "puzzlemix": puzzlemix,
    "inter-intra": inter_intra,
}


def _mixes(found: Any) -> bool:
    """Whether it is a Python function of (images, partner, lam, generator), answering what it says."""
    return (
        inspect.isfunction(found)
        and len(inspect.signature(found).parameters) >= 4
        and returned_by(found) in (None, MixedImages)
    )


IMAGE_MIXER = Kind("image mixer", "function of (images, partner, lam, generator) that answers MixedImages", _mixes)

__all__ = [
    "IMAGE_MIXER",
    "IMAGE_MIXERS",
    "Boxes",
    "MixedImages",
    "cutmix",
    "cutmix_boxes",
    "cutmix_or_mixup",
    "draw_boxes",
    "fine_grained_saliency",
    "fmix",
    "gradient_saliency",
    "inter_intra",
    "manifoldmix",
    "mixup",
    "puzzlemix",
    "resizemix",
    "saliencymix",
]
