"""How two examples become one: partners, pairs and the mixing ratio."""

from metrixkit.mixing.pairs import ANCHOR_KINDS, PAIR_KINDS, PairPlan, check_kind, plan_pairs
from metrixkit.mixing.ratio import draw_one, draw_ratio

__all__ = ["ANCHOR_KINDS", "PAIR_KINDS", "PairPlan", "check_kind", "draw_one", "draw_ratio", "plan_pairs"]
