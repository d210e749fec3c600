"""How two examples become one: partners, pairs and the mixing ratio."""

from metrixkit.mixing.pairs import ANCHOR_KINDS, PAIR_KINDS, PairPlan, check_kind, plan_pairs
from metrixkit.mixing.ratio import draw_one, draw_ratio
from metrixkit.mixing.unique import Block, UniqueMixtures, mix, unique_mixtures

__all__ = [
    "ANCHOR_KINDS",
    "PAIR_KINDS",
    "Block",
    "PairPlan",
    "UniqueMixtures",
    "check_kind",
    "draw_one",
    "draw_ratio",
    "mix",
    "plan_pairs",
    "unique_mixtures",
]
