"""What is minimised: generalised pair and proxy losses, mixing with labels on top, and other packages' losses."""

from torch import nn

from metrixkit.losses.metrix import Metrix, Terms
from metrixkit.losses.official import OfficialContrastive
from metrixkit.losses.pairs import NCA, BinomialDeviance, Contrastive, LiftedStructure, MultiSimilarity, PairLoss
from metrixkit.losses.pml import PML
from metrixkit.losses.proxies import ProxyAnchor, ProxyLoss, ProxyNCA
from metrixkit.losses.triplet import Triplet

LOSSES: dict[str, type[nn.Module]] = {
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
    "official_contrastive": OfficialContrastive,
}
"""Name to class. `num_classes`, `dim` and `seed` of a constructor are the programme's to give, not the user's."""

__all__ = [
    "LOSSES",
    "NCA",
    "PML",
    "BinomialDeviance",
    "Contrastive",
    "LiftedStructure",
    "Metrix",
    "MultiSimilarity",
    "OfficialContrastive",
    "PairLoss",
    "ProxyAnchor",
    "ProxyLoss",
    "ProxyNCA",
    "Terms",
    "Triplet",
]
