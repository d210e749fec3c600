"""What is minimised: generalised pair and proxy losses, mixing with labels on top, and other packages' losses."""

from collections.abc import Callable

from torch import nn

from metrixkit.losses.absolute_error import AbsoluteError
from metrixkit.losses.cml import BPR, CMLMinTriplet, CMLSumTriplet, bpr, cml_min_triplet, cml_sum_triplet
from metrixkit.losses.dmm import DynamicMixedMargin
from metrixkit.losses.from_pml import from_pml, from_pml_by_name
from metrixkit.losses.info_nce import InfoNCE, NTXent, SymmetricCrossEntropy, info_nce, nt_xent, symmetric_cross_entropy
from metrixkit.losses.m2_mix import M2Mix, l_mix, m2_mix, v_mix, vl_mix
from metrixkit.losses.max_margin import MaxMargin, max_margin
from metrixkit.losses.metrix import Metrix, Terms
from metrixkit.losses.official import OfficialContrastive
from metrixkit.losses.pairs import NCA, BinomialDeviance, Contrastive, LiftedStructure, MultiSimilarity, PairLoss
from metrixkit.losses.pml import PML
from metrixkit.losses.proxies import ProxyAnchor, ProxyLoss, ProxyNCA
from metrixkit.losses.ramp import Ramp
from metrixkit.losses.rivals import IMix, MoCHi
from metrixkit.losses.triplet import Triplet

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "contrastive": Contrastive,
    "multi_similarity": MultiSimilarity,
    "binomial_deviance": BinomialDeviance,
    "lifted_structure": LiftedStructure,
    "nca": NCA,
    "triplet": Triplet,
    "proxy_anchor": ProxyAnchor,
    "proxy_nca": ProxyNCA,
    "metrix": Metrix,
    "pml": PML,
    "from_pml": from_pml_by_name,
    "imix": IMix,
    "mochi": MoCHi,
    "official_contrastive": OfficialContrastive,
    "dmm": DynamicMixedMargin,
    "max_margin": MaxMargin,
    "info_nce": InfoNCE,
    "nt_xent": NTXent,
    "symmetric_cross_entropy": SymmetricCrossEntropy,
    "m2_mix": M2Mix,
    "cml_min_triplet": CMLMinTriplet,
    "cml_sum_triplet": CMLSumTriplet,
    "bpr": BPR,
    "absolute_error": AbsoluteError,
}
"""Name to class, or to a function that builds one.

`num_classes`, `dim` and `seed` are the programme's to give, not the user's.
"""

__all__ = [
    "AbsoluteError",
    "BPR",
    "LOSSES",
    "NCA",
    "PML",
    "BinomialDeviance",
    "CMLMinTriplet",
    "CMLSumTriplet",
    "Contrastive",
    "DynamicMixedMargin",
    "IMix",
    "InfoNCE",
    "LiftedStructure",
    "M2Mix",
    "MaxMargin",
    "Metrix",
    "MoCHi",
    "MultiSimilarity",
    "NTXent",
    "OfficialContrastive",
    "PairLoss",
    "ProxyAnchor",
    "ProxyLoss",
    "ProxyNCA",
    "Ramp",
    "SymmetricCrossEntropy",
    "Terms",
    "Triplet",
    "bpr",
    "cml_min_triplet",
    "cml_sum_triplet",
    "from_pml",
    "info_nce",
    "l_mix",
    "m2_mix",
    "max_margin",
    "nt_xent",
    "symmetric_cross_entropy",
    "v_mix",
    "vl_mix",
]
