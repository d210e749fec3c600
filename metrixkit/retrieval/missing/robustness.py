"""What a model is still worth where modalities are missing: every subset, and random rates, of anybody's encoder.

N items, M modalities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.evaluation import evaluate
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.missing.fill import Fill
from metrixkit.retrieval.missing.masks import Mask, Side, check_observed, subset_masks
from metrixkit.retrieval.missing.outcomes import (
    CLASSIFICATION,
    REGRESSION,
    classification_outcome,
    linear_probe,
    nearest_mean,
    regression_outcome,
    ridge_probe,
)
from metrixkit.retrieval.missing.patterns import Embeddings, Encode, ModalityItems
from metrixkit.retrieval.missing.robustness_result import Robustness

Task = Literal["retrieval", "nearest_mean", "linear_probe", "regression"]
FITS: dict[str, Callable[[Any, Any], Callable[[Any], NDArray]]] = {
    "nearest_mean": nearest_mean,
    "linear_probe": linear_probe,
    "regression": ridge_probe,
}
Score = Callable[["Observed", "Observed"], tuple[dict[str, float], int]]


@dataclass(frozen=True, eq=False)
class Observed:
    """Items as a mask leaves them: their embeddings, and which of them anything is known of."""

    vectors: Tensor
    present: NDArray[np.bool_]

    @property
    def known(self) -> NDArray[np.int64]:
        """Rows with at least one modality."""
        return np.flatnonzero(self.present.any(axis=1))


def robustness(
    encode: Encode,
    data: ModalityItems,
    masks: Sequence[Mask] | None = None,
    *,
    gallery: ModalityItems | None = None,
    train: ModalityItems | None = None,
    task: Task = "retrieval",
    predict: Callable[[Tensor], Any] | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    metrics: Sequence[str] = ("map@r",),
    distance: Distance = "cosine",
    fill: Fill = "mean",
    means: Tensor | None = None,
    batch_size: int = 256,
    allow_empty: bool = False,
) -> Robustness:
    """Evaluate an encoder under masks.

    Args:
        encode: Any callable, see :class:`.patterns.Embeddings`: ``encode(batch, present)`` answers
            (B, d) embeddings, or (B, M, d), which `fill` averages.
        data: The test items; for retrieval the queries.
        masks: What is observed: :func:`.masks.subset_masks`, ``rate_masks``, ``read_masks``, any
            mixture. None is the published protocol: every subset, on both sides. What an item lacks by nature stays
            missing under every mask, and a row with all that the items have always comes first.
        gallery: Of retrieval; None searches each query among the other items of `data`. A mask for one side leaves the
            other with all it has.
        train: Whose complete embeddings fit the classifier (or the ridge regression, where `predict` is None).
        task: "retrieval" of items of the same label; "nearest_mean" or "linear_probe" classification; "regression".
        predict: (N, d) embeddings to (N,) numbers, for regression.
        recall_at: For retrieval, as in :func:`~metrixkit.retrieval.evaluate`.
        metrics: The same.
        distance: The same.
        fill: How (B, M, d) answers are averaged.
        means: (M, d), for fill="mean_embedding".
        batch_size: Items of a call of `encode`.
        allow_empty: Accept drawn masks that leave nothing of an item; `encode` must then answer something for it. A
            subset that leaves nothing of items which lack something by nature leaves them out and counts them.

    Returns:
        A :class:`~metrixkit.retrieval.missing.robustness_result.Robustness`.

    Raises:
        InputError: No modality is observed; masks of other items; what `evaluate` refuses; settings that do not fit.

    Example:
        >>> import torch
        >>> x = torch.eye(4).repeat(2, 1)
        >>> items = ModalityItems.from_arrays({"a": x, "b": x}, [0, 1, 2, 3] * 2)
        >>> found = robustness(lambda batch, present: torch.stack([batch["a"], batch["b"]], 1), items, recall_at=(1,))
        >>> found.table()["recall@1"].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    if gallery is not None and (task != "retrieval" or gallery.modalities != data.modalities):
        raise InputError(
            f"gallery: of task 'retrieval' only, and of the same modalities {list(data.modalities)}, not "
            f"{list(gallery.modalities)} under task {task!r}."
        )
    for items in (data, *((gallery,) if gallery is not None else ())):
        check_observed(items.present, items.ids)
    embed = [Embeddings(encode, part, fill, means, batch_size) for part in (data, *((gallery,) if gallery else ()))]
    score, definitions = _score_of(task, data, gallery, train, predict, encode, embed[0], recall_at, metrics, distance)
    sides = (data, gallery if gallery is not None else data)
    if masks is None:
        masks = subset_masks(_all_ids(*sides), data.modalities)
    full = [Observed(e.under(e.items.present), e.items.present) for e in embed]
    values, _ = score(full[0], full[-1])
    rows = [_head("full", None) | {"missing": float(1 - data.present.mean())} | values]
    again: dict[tuple[object, ...], dict[str, object]] = {}
    for mask in masks:
        # What is the same for several masks is evaluated once: rate 0 of all seeds, a subset that is everything.
        observed = [_observed(mask, side, embed, full, allow_empty) for side in (0, 1)]
        key = tuple(o.present.tobytes() for o in observed)
        if key not in again:
            found, left_out = score(*observed)
            again[key] = {"left_out": left_out, **found}
        kind = "subset" if mask.subset else "given" if math.isnan(mask.rate) else "rate"
        rows.append(_head(kind, mask) | {"missing": _missing(mask, observed)} | again[key])
    table = pd.DataFrame(rows)
    counts = {
        "items": len(data),
        "gallery": len(sides[1]),
        "lacking": int((~data.present.all(axis=1)).sum()),
        "masks": len(masks),
    }
    names = tuple(name for name in table.columns if name in values and not name.endswith("/optimistic"))
    return Robustness(table, names, data.modalities, counts, definitions | {"protocol": _protocol(task, fill)})


def _all_ids(queries: ModalityItems, gallery: ModalityItems) -> list[str]:
    return list(dict.fromkeys([*queries.ids, *gallery.ids]))


def _head(kind: str, mask: Mask | None) -> dict[str, object]:
    subset, side, rate, seed = (
        ("", "both", float("nan"), -1) if mask is None else (mask.subset, mask.side, mask.rate, mask.seed)
    )
    names = ("run", "kind", "subset", "side", "rate", "seed", "missing", "left_out")
    return dict(zip(names, ("", kind, subset, side, rate, seed, 0.0, 0), strict=True))


def _observed(
    mask: Mask, side: int, embed: Sequence[Embeddings], full: Sequence[Observed], allow_empty: bool
) -> Observed:
    """Return queries (side 0) or gallery (side 1) as the mask leaves them."""
    which = min(side, len(embed) - 1)
    if mask.side != "both" and mask.side != ("query", "gallery")[side]:
        return full[which]
    items = embed[which].items
    present: NDArray[np.bool_] = np.asarray(items.present & mask.of(items.ids, items.modalities))
    if not mask.subset and not allow_empty:
        check_observed(present, items.ids)
    known: NDArray[np.bool_] = np.asarray(present.any(axis=1))
    if not mask.subset or known.all():
        return Observed(embed[which].under(present), present)
    if not known.any():
        raise InputError(f"the subset {mask.subset} leaves nothing of any item: all {len(items):,} lack it.")
    # Rows of which nothing is known borrow their full embedding; they are left out before anything is computed.
    return Observed(embed[which].under(np.where(known[:, None], present, items.present)), present)


def _missing(mask: Mask, observed: Sequence[Observed]) -> float:
    shares = [float(1 - o.present.mean()) for o in observed]
    return float(np.mean(shares)) if mask.side == "both" else shares[1 if mask.side == "gallery" else 0]


def _score_of(
    task: str,
    data: ModalityItems,
    gallery: ModalityItems | None,
    train: ModalityItems | None,
    predict: Callable[[Tensor], Any] | None,
    encode: Encode,
    embed: Embeddings,
    recall_at: Sequence[int],
    metrics: Sequence[str],
    distance: Distance,
) -> tuple[Score, dict[str, str]]:
    tasks = ("retrieval", "nearest_mean", "linear_probe", "regression")
    if task == "retrieval":
        definitions: dict[str, str] = {}

        def search(queries: Observed, searched: Observed) -> tuple[dict[str, float], int]:
            rows, others = queries.known, searched.known
            kept = gallery if gallery is not None else data
            found = evaluate(
                queries.vectors[torch.from_numpy(rows)],
                data.targets[rows],
                gallery=searched.vectors[torch.from_numpy(others)],
                gallery_labels=kept.targets[others],
                query_ids=[data.ids[row] for row in rows],
                gallery_ids=[kept.ids[row] for row in others],
                recall_at=recall_at,
                metrics=metrics,
                distance=distance,
            )
            definitions.update(found.definitions)
            return dict(found), len(data) - len(rows)

        return search, definitions
    if task not in tasks:
        raise InputError(f"no task is called {task!r}.{did_you_mean(task, tasks)}")
    if train is None and (task != "regression" or predict is None):
        raise InputError(f"task={task!r} needs train=..., the items that it is fitted on" + _or_predict(task))
    if train is not None and train.modalities != data.modalities:
        raise InputError(f"train has modalities {list(train.modalities)}, data {list(data.modalities)}.")
    if train is not None and (task != "regression" or predict is None):
        check_observed(train.present, train.ids)
        known = Embeddings(encode, train, embed.fill, embed.means, embed.batch_size).under(train.present).numpy()
        fitted = FITS[task](known, train.targets)
        answer: Callable[[Tensor], Any] = lambda rows: fitted(rows.numpy())  # noqa: E731 - one line a case
    else:
        answer = cast(Callable[[Tensor], Any], predict)
    outcome = regression_outcome if task == "regression" else classification_outcome

    def judge(queries: Observed, _: Observed) -> tuple[dict[str, float], int]:
        rows = queries.known
        with torch.no_grad():
            told = answer(queries.vectors[torch.from_numpy(rows)])
        found = told.detach().cpu().numpy() if isinstance(told, Tensor) else told
        return outcome(found, data.targets[rows]), len(data) - len(rows)

    return judge, dict(REGRESSION if task == "regression" else CLASSIFICATION)


def _or_predict(task: str) -> str:
    return ", or predict=..., which gives numbers." if task == "regression" else "."


def _protocol(task: str, fill: str) -> str:
    return (
        f"{task}; subset: the same modalities for all items of both sides; rate: each modality of each item missing by "
        "itself with that probability, at least one staying, on the side that is named; full: all that the items have. "
        f"Answers with one embedding a modality are fused by {fill!r}."
    )


__all__ = ["ModalityItems", "Observed", "Side", "Task", "robustness"]
