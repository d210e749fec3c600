"""Training recipes, one file each; they compose models, mixing and losses behind the seam."""

from __future__ import annotations

from metrixkit.methods.gmc import GMC, Fusion
from metrixkit.methods.metric import MetricLearning
from metrixkit.methods.recommender import Recommender
from metrixkit.methods.video_text import VideoTextRetrieval

METHODS: dict[str, type] = {
    "metric": MetricLearning,
    "recommender": Recommender,
    "video_text": VideoTextRetrieval,
    "gmc": GMC,
    "fusion": Fusion,
}

__all__ = ["GMC", "METHODS", "Fusion", "MetricLearning", "Recommender", "VideoTextRetrieval"]
