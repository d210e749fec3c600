"""How two examples become one: partners, pairs and the mixing ratio."""

from metrixkit.mixing.geodesic import slerp
from metrixkit.mixing.images import (
    IMAGE_MIXERS,
    Boxes,
    MixedImages,
    cutmix,
    cutmix_boxes,
    cutmix_or_mixup,
    draw_boxes,
    fine_grained_saliency,
    fmix,
    gradient_saliency,
    inter_intra,
    manifoldmix,
    mixup,
    puzzlemix,
    resizemix,
    saliencymix,
)
from metrixkit.mixing.mixer import MIXER_PRESETS, MaskPair, Mixer, adjust_mask, mask_from_pair
from metrixkit.mixing.pairs import ANCHOR_KINDS, PAIR_KINDS, PairPlan, check_kind, plan_pairs
from metrixkit.mixing.partners import PARTNERS, Partner, check_share, draw_partners, mix_inputs
from metrixkit.mixing.ratio import draw_between, draw_one, draw_ratio
from metrixkit.mixing.selection import SELECTION_RULES, Selection, SelectionRule, select_positives
from metrixkit.mixing.unique import Block, UniqueMixtures, mix, unique_mixtures

__all__ = [
    "ANCHOR_KINDS",
    "IMAGE_MIXERS",
    "MIXER_PRESETS",
    "PAIR_KINDS",
    "PARTNERS",
    "SELECTION_RULES",
    "Block",
    "Boxes",
    "MaskPair",
    "MixedImages",
    "Mixer",
    "PairPlan",
    "Partner",
    "Selection",
    "SelectionRule",
    "UniqueMixtures",
    "adjust_mask",
    "check_kind",
    "check_share",
    "cutmix",
    "cutmix_boxes",
    "cutmix_or_mixup",
    "draw_between",
    "draw_boxes",
    "draw_one",
    "draw_partners",
    "draw_ratio",
    "fine_grained_saliency",
    "fmix",
    "gradient_saliency",
    "inter_intra",
    "manifoldmix",
    "mask_from_pair",
    "mix",
    "mix_inputs",
    "mixup",
    "plan_pairs",
    "puzzlemix",
    "resizemix",
    "saliencymix",
    "select_positives",
    "slerp",
    "unique_mixtures",
]
