"""What frozen features are worth: neighbours that vote, linear classifiers, fine-tuning on few labels, tightness."""

from metrixkit.probing.classifier import Pictures, Pooled, Trained, train_classifier
from metrixkit.probing.knn import knn_accuracy, knn_ranks
from metrixkit.probing.labels import UNLABELLED, labelled, top_accuracy
from metrixkit.probing.linear import FeatureProbe, fit_probe
from metrixkit.probing.schedules import LINEAR, SEMI, ProbeSchedule, linear_schedule
from metrixkit.probing.similarity import intra_class_similarity
from metrixkit.probing.subsets import choose_labelled, draw_share, read_list

__all__ = [
    "LINEAR",
    "SEMI",
    "UNLABELLED",
    "FeatureProbe",
    "Pictures",
    "Pooled",
    "ProbeSchedule",
    "Trained",
    "choose_labelled",
    "draw_share",
    "fit_probe",
    "intra_class_similarity",
    "knn_accuracy",
    "knn_ranks",
    "labelled",
    "linear_schedule",
    "read_list",
    "top_accuracy",
    "train_classifier",
]
