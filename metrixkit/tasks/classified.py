"""How right and how sure scores of classes are.

N items, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.probing.labels import class_codes, tops, true_rank
from metrixkit.retrieval.bootstrap import percentile_interval

BINS = 15
LEVEL = 0.95
INTERVAL_SAMPLES = 2000


def class_metrics(scores: Tensor, labels: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Return top1, top5 (where C > 5), nll and ece.

    Args:
        scores: (N, C) logits.
        labels: N true classes. One that is not among `classes` counts as wrong, and has no nll.
        classes: C names in the order of the scores.

    Raises:
        InputError: No label is among the classes, or counts that differ.
    """
    codes = known_codes(scores, labels, classes)
    ranks = true_rank(scores, codes)
    found = {f"top{k}": float((ranks <= k).double().mean()) for k in tops(len(classes))}
    logs = scores.double().log_softmax(1)
    known = codes >= 0
    found["nll"] = float(-logs[known].gather(1, codes[known, None]).mean())
    found["ece"] = calibration_error(logs.amax(1).exp(), ranks == 1)
    return found


def class_intervals(scores: Tensor, labels: Sequence[str], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the 95 % interval of top1 over items and over whole classes, as an evaluation's ``intervals()``."""
    right = (class_ranks(scores, labels, classes) == 1).numpy()
    low, high = percentile_interval(right, LEVEL, INTERVAL_SAMPLES)
    by_class = percentile_interval(right, LEVEL, INTERVAL_SAMPLES, clusters=np.asarray(labels))
    return {"top1": {"low": low, "high": high, "by_class": list(by_class), "level": LEVEL}}


def class_ranks(scores: Tensor, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return (N,) int64 places of each item's own class, from 1; arguments and errors as of :func:`class_metrics`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*count as wrong", UserWarning)  # said where the metrics are told
        return true_rank(scores, known_codes(scores, labels, classes))


def known_codes(scores: Tensor, labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return (N,) int64 positions of labels among the classes, -1 for one that is not there.

    Raises:
        InputError: None is there, or counts that differ.
    """
    if scores.shape != (len(labels), len(classes)):
        raise InputError(
            f"scores have shape {tuple(scores.shape)}, expected ({len(labels)}, {len(classes)}): a row an item, a "
            "column a class."
        )
    if not set(labels) & set(classes):
        raise InputError(
            f"no class of the {len(labels)} items is among the {len(classes)} that the classifier knows (first: "
            f"{labels[0]!r}; it knows {', '.join(classes[:3])}, ...). Take a split in which training and test share "
            "their classes, such as data.split=classification; unseen classes are for task=retrieval."
        )
    return class_codes(labels, classes, "items")


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error: mean over items of |accuracy - mean confidence| of their bin.

    Args:
        confidence: (N,) probability of the class answered, in (0, 1].
        right: (N,) bool.
        bins: Of equal width, the lower edge excluded.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Eq. 3.
    """
    confidence = confidence.double().cpu()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right.cpu().double() - confidence)
    return float(gap.abs().sum() / len(confidence))


def class_definitions(classes: int) -> dict[str, str]:
    """Return what the metrics mean, for C classes."""
    found = {
        f"top{k}": f"Share of items whose class is {'the first' if k == 1 else f'among the first {k}'} of the "
        f"classifier's {classes}; ties count against the item, and so does a class that it does not know."
        for k in tops(classes)
    }
    found["nll"] = "Mean over items of known classes of -log of the probability (softmax) that theirs was given."
    found["ece"] = (
        f"Expected calibration error: mean of |share right - mean probability| over {BINS} bins of the first class's "
        "probability, weighed by their items."
    )
    return found
