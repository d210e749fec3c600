"""What is minimised: generalised pair and proxy losses, mixing with labels on top, and other packages' losses.

A row that holds NaN or infinity makes each of them NaN, whatever hinge, choice or mean over terms stands between.
"""

from collections.abc import Callable

from torch import nn

from metrixkit.losses.absolute_error import AbsoluteError
from metrixkit.losses.byol import byol_loss
from metrixkit.losses.clim import clim_loss, instance_mixup_loss
from metrixkit.losses.cluster_loss import ClusterLosses, cluster_losses, cluster_weights
from metrixkit.losses.cml import BPR, CMLMinTriplet, CMLSumTriplet, bpr, cml_min_triplet, cml_sum_triplet
from metrixkit.losses.dmm import DynamicMixedMargin
from metrixkit.losses.eta_class import eta_loss
from metrixkit.losses.eta_instance import eta_instance_loss, extend_positives, same_label
from metrixkit.losses.from_pml import from_pml, from_pml_by_name
from metrixkit.losses.imix import imix_byol_loss, imix_moco_loss, imix_npair_loss
from metrixkit.losses.info_nce import InfoNCE, NTXent, SymmetricCrossEntropy, info_nce, nt_xent, symmetric_cross_entropy
from metrixkit.losses.m2_mix import M2Mix, l_mix, m2_mix, v_mix, vl_mix
from metrixkit.losses.mask_loss import mask_loss
from metrixkit.losses.max_margin import MaxMargin, max_margin
from metrixkit.losses.metrix import Metrix, Terms
from metrixkit.losses.mixco import mixco_moco_loss, mixco_simclr_loss
from metrixkit.losses.mixed_contrast import mixed_info_nce
from metrixkit.losses.mochi import HarderDraw, draw_harder, mochi_loss, mochi_loss_drawn
from metrixkit.losses.official import OfficialContrastive
from metrixkit.losses.pairs import NCA, BinomialDeviance, Contrastive, LiftedStructure, MultiSimilarity, PairLoss
from metrixkit.losses.pml import PML
from metrixkit.losses.proxies import ProxyAnchor, ProxyLoss, ProxyNCA
from metrixkit.losses.ramp import Ramp
from metrixkit.losses.rivals import IMix, MoCHi
from metrixkit.losses.soft_labels import mixed_cross_entropy
from metrixkit.losses.swav import sinkhorn, swav_loss
from metrixkit.losses.triplet import Triplet
from metrixkit.losses.two_hot import two_hot_cross_entropy
from metrixkit.losses.unmix import unmix_loss, unmix_symmetric_loss

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
    "ClusterLosses",
    "Contrastive",
    "DynamicMixedMargin",
    "HarderDraw",
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
    "byol_loss",
    "clim_loss",
    "cluster_losses",
    "cluster_weights",
    "cml_min_triplet",
    "cml_sum_triplet",
    "draw_harder",
    "eta_instance_loss",
    "eta_loss",
    "extend_positives",
    "from_pml",
    "imix_byol_loss",
    "imix_moco_loss",
    "imix_npair_loss",
    "info_nce",
    "instance_mixup_loss",
    "l_mix",
    "m2_mix",
    "mask_loss",
    "max_margin",
    "mixco_moco_loss",
    "mixco_simclr_loss",
    "mixed_cross_entropy",
    "mixed_info_nce",
    "mochi_loss",
    "mochi_loss_drawn",
    "nt_xent",
    "same_label",
    "sinkhorn",
    "swav_loss",
    "symmetric_cross_entropy",
    "two_hot_cross_entropy",
    "unmix_loss",
    "unmix_symmetric_loss",
    "v_mix",
    "vl_mix",
]
