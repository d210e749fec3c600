"""Who counts: labelled items, class indices, and the rank of the true class among scores."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.data.held_out import UNLABELLED
from metrixkit.errors import InputError

TOP = (1, 5)
NEVER = 2**31  # rank of a class that is no answer, beyond any k


def labelled(items: pd.DataFrame) -> NDArray[np.int64]:
    """Return the positions of the items that have a label."""
    return np.flatnonzero((items["label"] != UNLABELLED).to_numpy())


def class_codes(labels: Sequence[str], classes: Sequence[str], what: str) -> Tensor:
    """Return (N,) int64 positions of labels in `classes`, -1 for a class that is not there.

    Args:
        labels: N labels of the items that are judged.
        classes: What can be answered.
        what: What these items are called, for messages ("test items").

    Raises:
        InputError: No label is among the classes, or there is only one class to answer with.

    Warns:
        UserWarning: Some labels are not; those items can only be answered wrongly, and count so.
    """
    if len(classes) < 2:
        raise InputError(
            f"all training items that could answer are of one class ({''.join(classes)!r}), so every answer would be "
            "that one: kNN, linear probes and classifiers need two classes or more."
        )
    index = {name: i for i, name in enumerate(classes)}
    codes = torch.tensor([index.get(label, -1) for label in labels], dtype=torch.int64)
    absent = int((codes < 0).sum())
    if absent == len(codes):
        first = labels[0] if len(labels) else "none"
        raise InputError(
            f"no class of the {len(codes)} {what} is among the {len(classes)} labelled training classes (first: "
            f"{first!r}, there {', '.join(classes[:3])}, ...). kNN and linear probes need a split in which training "
            "and test share their classes, such as data.split=classification."
        )
    if absent:
        warnings.warn(
            f"{absent} of {len(codes)} {what} are of classes without a labelled training item; they count as wrong.",
            UserWarning,
            stacklevel=3,
        )
    return codes


def true_rank(scores: Tensor, codes: Tensor) -> Tensor:
    """Return (B,) int64, from 1, the pessimistic rank of the true class among (B, C) scores.

    Ties count against the item, and so does NaN: a model that diverged must not look right. Code -1 is never right.
    """
    known = codes.clamp(min=0).to(scores.device)
    rank = (~(scores < scores.gather(1, known[:, None]))).sum(dim=1)
    return torch.where(codes.to(scores.device) < 0, NEVER, rank).cpu()


def tops(classes: int, top: Sequence[int] = TOP) -> tuple[int, ...]:
    """Return the k of top-k that say something: where there are no more classes than k, everything is right."""
    return tuple(k for k in top if k < classes)


def top_accuracy(ranks: Tensor, prefix: str, top: Sequence[int] = TOP) -> dict[str, float]:
    """Return ``{"PREFIX@k": share of ranks <= k}``."""
    return {f"{prefix}@{k}": float((ranks <= k).double().mean()) for k in top}
