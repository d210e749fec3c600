"""The first line of a page: what a run found, in one sentence for people who do not know the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.gain import in_words
from metrixkit.paired import read_answers
from metrixkit.report.text import format_change, format_value, is_share

LEVEL, RESAMPLES = 0.95, 10_000
Interval = tuple[float, float]

# What a picture does that counts for a metric of guessed classes.
_GUESSES = {
    "knn@1": "get their own class by the vote of the training pictures nearest to them",
    "linear@1": "get their own class from a linear classifier of the frozen features",
    "top1": "get their own class from the classifier",
}


def headline(results: Mapping[str, Any]) -> str | None:
    """Return the name of the metric that a result file is judged by: of retrieval its first recall@1, of other tasks
    the one that it names, else its first metric.
    """
    metrics = numbers(results, "metrics")
    if not is_retrieval(results) and results.get("headline") in metrics:
        return str(results["headline"])
    return next((name for name in metrics if name.endswith("recall@1")), next(iter(metrics), None))


def is_retrieval(results: Mapping[str, Any]) -> bool:
    """Return whether a result file is of image retrieval, as all were that do not name their task."""
    return results.get("task") in (None, "retrieval")


def numbers(results: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return the metrics under ``metrics``, ``before`` or ``last`` of a result file; {} where there are none."""
    found = results.get(key)
    found = found.get("metrics", found) if isinstance(found, Mapping) else {}
    return {name: float(v) for name, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def interval(name: str, results: Mapping[str, Any], predictions: Path) -> Interval | None:
    """Return the 95 % interval of a metric over queries, as fractions.

    Args:
        name: The metric.
        results: A result file; what stands under its ``intervals`` is taken.
        predictions: ``predictions.npz``, from which that of a share of queries (recall@k, linear@k, ...) is drawn
            where the results hold none: the percentile bootstrap, 10,000 resamples of the queries, seed 0.

    Returns:
        None where neither is there, where it has no width, or where the predictions give another share than the
        results.

    Raises:
        InputError: The predictions cannot be read.
    """
    kept = results.get("intervals")
    found = kept.get(name) if isinstance(kept, Mapping) else None
    if isinstance(found, Mapping):
        found = [found.get("low"), found.get("high")]
    if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(v, int | float) for v in found):
        return _with_width(float(found[0]), float(found[1]))
    if not predictions.is_file():
        return None
    hits = read_answers(predictions).hits(name)
    if hits is None or not len(hits) or abs(hits.mean() - numbers(results, "metrics").get(name, np.nan)) > 1e-6:
        return None
    # A resample of Q hits with replacement is Q draws at their share.
    shares = np.random.default_rng(0).binomial(len(hits), hits.mean(), RESAMPLES) / len(hits)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return _with_width(float(low), float(high))


def _with_width(low: float, high: float) -> Interval | None:
    """Return the interval; None where resampling cannot vary, as where all queries are right: it is not that sure."""
    return (low, high) if low < high else None


def plain_sentence(results: Mapping[str, Any], within: Interval | None) -> str:
    """Return "Of 100 pictures of classes never seen in training, 63 (61 to 65 with 95 % confidence) find another
    picture of the same class first; before training it was 41."; "" where there is no metric.

    Args:
        results: A result file.
        within: Interval of its headline.
    """
    metrics, before = numbers(results, "metrics"), numbers(results, "before")
    name = headline(results)
    if name is None:
        return ""
    value, was = metrics[name], before.get(name)
    cutoff = re.fullmatch(r"recall@(\d+)", name)
    does = f"find {_what(results, int(cutoff[1]))}" if cutoff else _GUESSES.get(name)
    if does is None or not 0 <= value <= 1:
        start = f"; before training it was {format_value(name, was)}" if was is not None else ""
        return f"{name} is {format_value(name, value)}{start}."
    near = [v for v in (value, was, *(within or ())) if v is not None]
    base = _base(near)
    found = f"{round(base * value):,}"
    if within is not None:
        found += f" ({round(base * within[0]):,} to {round(base * within[1]):,} with 95 % confidence)"
    sentence = f"Of {base:,} {_whose(results)}, {found} {does}"
    if was is None:
        return sentence + "."
    if was == value:
        return sentence + "; before training it was the same."
    verb = "only " if was < value / 2 else ""
    return sentence + f"; before training it was {verb}{round(base * was):,}."


def _base(values: list[float]) -> int:
    """Return how many pictures the sentence speaks of: enough that different numbers look different."""
    return next((base for base in (100, 1000) if len({round(base * v) for v in values}) == len(set(values))), 1000)


def _whose(results: Mapping[str, Any]) -> str:
    counts = results.get("counts")
    seen = counts.get("classes_seen_in_training") if isinstance(counts, Mapping) else None
    if "known-classes" in str(results.get("split", "")):
        return "new pictures of classes seen in training"
    # Runs of earlier versions did not count; the names of their splits tell.
    if seen == 0 or (seen is None and "zero-shot" in str(results.get("split", ""))):
        return "pictures of classes never seen in training"
    return "test pictures"


def _what(results: Mapping[str, Any], k: int) -> str:
    counts = results.get("counts")
    own = counts.get("in_own_gallery") if isinstance(counts, Mapping) else None
    what = "a picture of the same class in the gallery" if own == 0 else "another picture of the same class"
    return f"{what} first" if k == 1 else f"{what} among the first {k}"


def how_sure(results: Mapping[str, Any]) -> str:
    """Return " (+20.1 to +24.3 with 95 % confidence)" of the change by training, with "which may be chance" where an
    interval of it holds zero; "" where the result file has none.
    """
    gain, name = results.get("gain"), headline(results)
    if not isinstance(gain, Mapping) or name is None or gain.get("metric") != name:
        return ""
    told = in_words(gain, 100.0 if is_share(name) else 1.0)
    return f" ({told})" + (", which may be chance" if gain.get("may_be_chance") else "") if told else ""


def nothing_judged(results: Mapping[str, Any]) -> str:
    """Return what a run says that had no test split."""
    chosen = results.get("validation")
    by = ""
    if isinstance(chosen, Mapping) and isinstance(chosen.get("best"), int | float):
        name = str(chosen.get("metric"))
        by = (
            f" The epoch was selected by {name}, {format_value(name, float(chosen['best']))}, which is the best of "
            "several and so too good to be an estimate."
        )
    return (
        "nothing was judged. There is no test split, so no number here says how good this model is. Evaluate it on "
        "pictures that it was not trained on: metrixkit evaluate RUN data.root=FOLDER --split all." + by
    )


def verdict(results: Mapping[str, Any]) -> tuple[str, bool] | None:
    """Return whether training won or lost against the model before its first step, in figures, and whether that is
    good news; None where there is no metric.
    """
    chosen, before = numbers(results, "metrics"), numbers(results, "before")
    name = headline(results)
    if name is None:
        return None
    value = format_value(name, chosen[name])
    if name not in before:
        return f"{name}: {value}.", True
    change, was = chosen[name] - before[name], format_value(name, before[name])
    how = format_change(name, change) + (" points" if is_share(name) else "")
    sure = how_sure(results)
    if change < 0:
        return f"Training lost: {name} fell from {was} before the first step to {value} ({how}){sure}.", False
    if change == 0:
        return f"Training gained nothing: {name} is {value}, as before the first step{sure}.", False
    return f"{name} rose from {was} before training to {value} ({how}){sure}.", not sure.endswith("chance")


def read_interval(results: Mapping[str, Any], predictions: Path) -> Interval | None:
    """Return :func:`interval` of the headline, None where there is none.

    Raises:
        InputError: The predictions are there and cannot be read.
    """
    name = headline(results)
    try:
        return None if name is None else interval(name, results, predictions)
    except InputError as error:
        raise InputError(f"{error}. Delete it, or evaluate the run again.") from error
