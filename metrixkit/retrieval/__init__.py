"""Exact retrieval evaluation: metrics, neighbours, and how embeddings fill their space."""

from metrixkit.retrieval.clusters import nmi_ami
from metrixkit.retrieval.crossmodal import CrossModal, crossmodal
from metrixkit.retrieval.doubtful_labels import DoubtfulLabels, doubtful_labels
from metrixkit.retrieval.evaluation import Evaluation, evaluate
from metrixkit.retrieval.exact.nearest import neighbours
from metrixkit.retrieval.geometry import alignment, uniformity, utilization
from metrixkit.retrieval.index import RetrievalIndex, choose_factory, sweep
from metrixkit.retrieval.missing.fill import fuse
from metrixkit.retrieval.missing.masks import Mask, draw_mask, rate_masks, read_masks, subset_masks, write_masks
from metrixkit.retrieval.missing.outcomes import classification_outcome, regression_outcome
from metrixkit.retrieval.missing.patterns import ModalityItems
from metrixkit.retrieval.missing.robustness import robustness
from metrixkit.retrieval.missing.robustness_result import Robustness, merge
from metrixkit.retrieval.near_duplicates import NearDuplicates, near_duplicates
from metrixkit.retrieval.openset import OpenSet, open_set
from metrixkit.retrieval.predicted import Predictions, load_predictions, predictions, save_predictions
from metrixkit.retrieval.verification import Verification, verify

__all__ = [
    "CrossModal",
    "DoubtfulLabels",
    "Evaluation",
    "Mask",
    "ModalityItems",
    "NearDuplicates",
    "OpenSet",
    "Predictions",
    "RetrievalIndex",
    "Robustness",
    "Verification",
    "alignment",
    "choose_factory",
    "classification_outcome",
    "crossmodal",
    "evaluate",
    "load_predictions",
    "doubtful_labels",
    "draw_mask",
    "fuse",
    "merge",
    "near_duplicates",
    "neighbours",
    "nmi_ami",
    "open_set",
    "predictions",
    "rate_masks",
    "read_masks",
    "regression_outcome",
    "robustness",
    "save_predictions",
    "subset_masks",
    "sweep",
    "uniformity",
    "utilization",
    "verify",
    "write_masks",
]
