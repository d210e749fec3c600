"""Training recipes, one file each; they compose models, mixing and losses behind the seam."""

from __future__ import annotations

from metrixkit.methods.byol import BYOL
from metrixkit.methods.classification import Classification
from metrixkit.methods.clim import CLIM
from metrixkit.methods.gmc import GMC, Fusion
from metrixkit.methods.image_mixers import LABEL_MIXERS
from metrixkit.methods.instance_mixers import MIXERS
from metrixkit.methods.metric import MetricLearning
from metrixkit.methods.moco import MoCo
from metrixkit.methods.recommender import Recommender
from metrixkit.methods.samix import SAMix
from metrixkit.methods.samix_cluster import SAMixC
from metrixkit.methods.samix_contrast import SAMixI
from metrixkit.methods.simclr import SimCLR
from metrixkit.methods.swav import SwAV
from metrixkit.methods.video_text import VideoTextRetrieval

METHODS: dict[str, type] = {
    "metric": MetricLearning,
    "classification": Classification,
    "moco": MoCo,
    "simclr": SimCLR,
    "byol": BYOL,
    "swav": SwAV,
    "clim": CLIM,
    "samix": SAMix,
    "samix_i": SAMixI,
    "samix_c": SAMixC,
    "recommender": Recommender,
    "video_text": VideoTextRetrieval,
    "gmc": GMC,
    "fusion": Fusion,
}

__all__ = [
    "BYOL",
    "CLIM",
    "GMC",
    "LABEL_MIXERS",
    "METHODS",
    "MIXERS",
    "Classification",
    "Fusion",
    "MetricLearning",
    "MoCo",
    "Recommender",
    "SAMix",
    "SAMixC",
    "SAMixI",
    "SimCLR",
    "SwAV",
    "VideoTextRetrieval",
]
