"""What is minimised: generalised pair and proxy losses, mixing with labels on top, and other packages' losses."""

from collections.abc import Callable

from torch import nn

from metrixkit.losses.from_pml import from_pml, from_pml_by_name
from metrixkit.losses.metrix import Metrix, Terms
from metrixkit.losses.official import OfficialContrastive
from metrixkit.losses.pairs import NCA, BinomialDeviance, Contrastive, LiftedStructure, MultiSimilarity, PairLoss
from metrixkit.losses.pml import PML
from metrixkit.losses.proxies import ProxyAnchor, ProxyLoss, ProxyNCA
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
}
"""Name to class, or to a function that builds one.

`num_classes`, `dim` and `seed` are the programme's to give, not the user's.
"""

__all__ = [
    "LOSSES",
    "NCA",
    "PML",
    "BinomialDeviance",
    "Contrastive",
    "IMix",
    "LiftedStructure",
    "Metrix",
    "MoCHi",
    "MultiSimilarity",
    "OfficialContrastive",
    "PairLoss",
    "ProxyAnchor",
    "ProxyLoss",
    "ProxyNCA",
    "Terms",
    "Triplet",
    "from_pml",
]
