"""How two examples become one: partners, pairs and the mixing ratio."""

from metrixkit.mixing.geodesic import slerp
from metrixkit.mixing.pairs import ANCHOR_KINDS, PAIR_KINDS, PairPlan, check_kind, plan_pairs
from metrixkit.mixing.partners import PARTNERS, Partner, check_share, draw_partners, mix_inputs
from metrixkit.mixing.ratio import draw_between, draw_one, draw_ratio
from metrixkit.mixing.unique import Block, UniqueMixtures, mix, unique_mixtures

__all__ = [
    "ANCHOR_KINDS",
    "PAIR_KINDS",
    "PARTNERS",
    "Block",
    "PairPlan",
    "Partner",
    "UniqueMixtures",
    "check_kind",
    "check_share",
    "draw_between",
    "draw_one",
    "draw_partners",
    "draw_ratio",
    "mix",
    "mix_inputs",
    "plan_pairs",
    "slerp",
    "unique_mixtures",
]
