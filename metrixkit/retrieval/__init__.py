"""Exact retrieval evaluation: metrics, neighbours, and how embeddings fill their space."""

from metrixkit.retrieval.clusters import nmi_ami
from metrixkit.retrieval.evaluation import Evaluation, evaluate
from metrixkit.retrieval.geometry import alignment, uniformity, utilization
from metrixkit.retrieval.nearest import neighbours
from metrixkit.retrieval.predicted import Predictions, load_predictions, predictions, save_predictions

__all__ = [
    "Evaluation",
    "Predictions",
    "alignment",
    "evaluate",
    "load_predictions",
    "neighbours",
    "nmi_ami",
    "predictions",
    "save_predictions",
    "uniformity",
    "utilization",
]
