"""Whether a classifier still sees both classes of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.sheets.mixers import Mixers
from metrixkit.sheets.pairs import Pairs

BATCH = 64


@torch.no_grad()
def mixed_accuracy(
    logits: Callable[[Tensor], Tensor],
    classes: Sequence[str],
    mixers: Mixers,
    pairs: Pairs,
    lambdas: Sequence[float],
    seed: int = 0,
) -> pd.DataFrame:
    """Return top-1 and top-2 accuracy on mixtures of two classes, for every mixer and lambda.

    Top-1 counts a mixture whose first class is one of its two; top-2 one whose first two classes are its two (as the
    comparison in SAMix, Li et al., 2021). Ties count against the classifier.

    Args:
        logits: (B, 3, S, S) images in [0, 1] to (B, C) logits; in evaluation mode.
        classes: C names of classes, in the order of the logits, at least three.
        mixers: Which.
        pairs: P pairs of images of two classes each, at the classifier's size.
        lambdas: Shares asked of the first image, each in [0, 1].
        seed: Of boxes, noise and coins.

    Returns:
        A row a mixer and lambda: ``mixer``, ``lambda``, ``pairs``, ``top1``, ``top2``, as fractions.

    Raises:
        InputError: A label that is no class, a pair of one class, fewer than three classes, or logits of another form.
    """
    a, b = _both(pairs, classes)
    rows = []
    for name in mixers.names:
        for lam in lambdas:
            first, second = [], []
            start = 0
            for number, part in enumerate(pairs.parts(BATCH)):
                told = logits(mixers.mix(name, part, lam, seed + number).images).double().cpu()
                _check(told, len(part), len(classes))
                mine = torch.stack([a[start : start + len(part)], b[start : start + len(part)]], 1)
                two = told.gather(1, mine)
                best_other = told.scatter(1, mine, -torch.inf).amax(1)
                first.append(two.amax(1) > best_other)
                second.append(two.amin(1) > best_other)
                start += len(part)
            top1, top2 = (float(torch.cat(hits).double().mean()) for hits in (first, second))
            rows.append({"mixer": name, "lambda": lam, "pairs": len(pairs), "top1": top1, "top2": top2})
    return pd.DataFrame(rows)


def _both(pairs: Pairs, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    if len(classes) < 3:
        raise InputError(f"accuracy on mixtures of two classes: expected at least 3 classes, got {len(classes)}.")
    codes = {name: code for code, name in enumerate(classes)}
    for one, other in pairs.labels:
        for label in (one, other):
            if label not in codes:
                raise InputError(
                    f"label {label!r} is none of the classifier's {len(classes)} classes."
                    f"{did_you_mean(label, classes) if len(classes) <= 20 else ''} Labels are the names of the folders "
                    "that images lie in, or those of the data set; the classes those of the run's training."
                )
        if one == other:
            raise InputError(f"a pair of one class, {one!r}: accuracy on mixtures is about two.")
    return torch.tensor([codes[one] for one, _ in pairs.labels]), torch.tensor([codes[two] for _, two in pairs.labels])


def _check(told: Tensor, count: int, classes: int) -> None:
    if told.shape != (count, classes):
        raise InputError(f"logits of shape {tuple(told.shape)}, expected {(count, classes)}: one a class.")
    if not bool(told.isfinite().all()):
        raise InputError("the classifier's logits hold NaN or infinite values; was the run trained to an end?")
