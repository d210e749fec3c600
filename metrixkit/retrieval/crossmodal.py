"""Text-to-video and video-to-text retrieval, exact to the definitions of docs/definitions.md."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from metrixkit.errors import InputError, did_you_mean
from metrixkit.labels import read_labels
from metrixkit.retrieval.exact.crossranks import CrossRanks, cross_ranks
from metrixkit.retrieval.exact.crossscores import EmbeddingScores, MatrixScores, Scores
from metrixkit.retrieval.exact.rows import Rows
from metrixkit.retrieval.exact.setting import TIE, read_ids
from metrixkit.retrieval.result import Evaluation, QueryValues

TIES = "Ties count against the query (pessimistic rank)."
OPTIMISTIC = "The same with ties counted for the query; stands here because it differs."


@dataclass(frozen=True)
class CrossModal(Evaluation):
    """An :class:`Evaluation` of both directions; what its parts hold is told by :func:`crossmodal`."""

    def values_of(self, name: str) -> QueryValues:
        """Return the values of a metric query by query, of the queries of its direction; classes are the videos.

        The median is then the mean of two middle values, for `compat` too.

        Args:
            name: One of the metrics, or its ``NAME/optimistic``.

        Raises:
            InputError: A metric that is not there, or one of both directions.
        """
        plain = name.removesuffix("/optimistic")
        if plain not in self.metrics:
            raise InputError(f"interval: no metric {name!r} was computed.{did_you_mean(plain, self.metrics)}")
        direction, _, what = plain.partition("/")
        if not what:
            raise InputError(f"interval: {name!r} is no mean over queries, so drawing queries tells nothing of it.")
        asked = self.per_query[(self.per_query["direction"] == direction) & (self.per_query["relevant"] > 0)]
        ranks = asked["rank" if name == plain else "rank_optimistic"].to_numpy(dtype=np.float64)
        values = ranks <= int(what.partition("@")[2]) if "@" in what else 1 / ranks if what == "mrr" else ranks
        summary: Literal["mean", "median"] = "median" if "median" in what else "mean"
        return QueryValues(
            asked["id"].to_numpy(), asked["video"].to_numpy(), np.asarray(values, dtype=np.float64), summary
        )


@dataclass(frozen=True)
class _Names:
    """Ids of texts (T,) and videos (V,), and the position of the right video of each text (T,)."""

    texts: np.ndarray
    videos: np.ndarray
    video_of_text: np.ndarray


def crossmodal(
    text: Any = None,
    video: Any = None,
    video_of_text: Any = None,
    similarity: Any = None,
    recall_at: Sequence[int] = (1, 5, 10),
    compat: str | None = None,
    text_ids: Any = None,
    video_ids: Any = None,
    group_by: str | None = None,
) -> CrossModal:
    """Evaluate retrieval of videos by texts (t2v) and of texts by videos (v2t), exactly.

    Give the embeddings of both sides, which are compared by cosine, or the scores themselves. Each text has one right
    video, whose rank is 1 + the number of other videos that score better or equal. A video may have several texts; any
    of them counts: its rank is 1 + the number of other videos' texts that score better than or equal to its best one.
    Equal is: within 1e-12 in float64. Images and captions, or any other two kinds of things, work alike.

    Args:
        text: (T, d) embeddings: tensor, array or memory map, on CPU or GPU.
        video: (V, d) embeddings.
        video_of_text: (T,) the right video of each text: its id where `video_ids` are given, else its position. None
            takes the i-th text to belong to the i-th video.
        similarity: (T, V) scores instead of embeddings, higher is nearer; a tensor, array or memory map.
        recall_at: The k of recall@k.
        compat: "clip4clip" follows that repository: `group_by="video"`, and where a video has several texts the lower
            of two middle ranks as the median of t2v. Its values on data without ties; it counts ties and NaN wrongly.
        text_ids: (T,) unique strings or integers; positions where None.
        video_ids: (V,) likewise.
        group_by: "video" ranks, for v2t, the other videos by their best text, instead of all other texts. It is the
            easier task as soon as a video has several texts, so never compare one with the other.

    Returns:
        A :class:`CrossModal`, a mapping with, for both directions, ``t2v/recall@1``, ``t2v/median_rank``,
        ``t2v/mean_rank``, ``t2v/mrr``; shares are fractions, ranks start at 1. Its counts are texts, videos, most_texts
        (of one video), and for both directions evaluated, without_relevant (videos without text) and tied. Its
        per-query table holds both directions: direction ("t2v" or "v2t"), id, video (the right one or the query
        itself), relevant (number of right items), rank and rank_optimistic.

    Raises:
        InputError: Neither or both of embeddings and scores, only one side, wrong shapes or counts, NaN, infinite or
            zero rows or scores, repeated ids, a text whose video is not there, unknown names.

    Warns:
        UserWarning: A k of `recall_at` beyond what is searched; the recall is defined all the same.

    Source: the definitions of `compat` are those of CLIP4Clip (Luo et al., Neurocomputing 2022) as its metrics.py
        computes them.

    Example:
        >>> scores = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.2]]
        >>> result = crossmodal(similarity=scores, video_of_text=[0, 1, 1], recall_at=(1,))
        >>> result["t2v/recall@1"], result["v2t/recall@1"], result["t2v/mean_rank"]
        (0.6666666666666666, 1.0, 1.3333333333333333)
    """
    if compat not in (None, "clip4clip"):
        raise InputError(f"compat={compat!r} is not known.{did_you_mean(str(compat), ['clip4clip'])}")
    if group_by not in (None, "video"):
        raise InputError(f'group_by={group_by!r} is not known; "video" ranks videos by their best text.')
    cutoffs = _cutoffs(recall_at)
    scores, dimensions = _scores(text, video, similarity, text_ids, video_ids)
    names = _names(scores.shape, video_of_text, text_ids, video_ids)
    grouped = group_by == "video" or compat == "clip4clip"
    texts_of = np.bincount(names.video_of_text, minlength=scores.shape[1])
    ranks = cross_ranks(scores, names.video_of_text, grouped)
    _warn_beyond(cutoffs, {"t2v": scores.shape[1], "v2t": int((texts_of > 0).sum()) if grouped else scores.shape[0]})
    metrics: dict[str, float] = {}
    definitions: dict[str, str] = {}
    lower = compat == "clip4clip" and int(texts_of.max()) > 1
    for direction, found in (("t2v", ranks.texts), ("v2t", ranks.videos[texts_of > 0])):
        what = "texts" if direction == "t2v" else "videos"
        _summarise(metrics, definitions, direction, what, found, cutoffs, lower and direction == "t2v")
    definitions["convention"] = _convention(similarity is not None, grouped, compat)
    if (texts_of > 0).sum() < 2:
        definitions["convention"] += " All texts are of one video: whatever it finds is right, and nothing is told."
    return CrossModal(metrics, _counts(ranks, texts_of, dimensions), definitions, _table(names, ranks, texts_of))


def _cutoffs(recall_at: Sequence[int]) -> list[int]:
    cutoffs = list(dict.fromkeys([recall_at] if isinstance(recall_at, int) else recall_at))
    for k in cutoffs:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"recall_at holds {k!r}; expected whole numbers >= 1.")
    return cutoffs


def _scores(text: Any, video: Any, similarity: Any, text_ids: Any, video_ids: Any) -> tuple[Scores, int | None]:
    """Return the scores and, of embeddings, their dimension."""
    if similarity is not None:
        if text is not None or video is not None:
            raise InputError("both similarity and embeddings were given; give the scores or what to compute them from.")
        return MatrixScores(similarity), None
    if text is None or video is None:
        missing = "text and video are" if text is None and video is None else "text is" if text is None else "video is"
        raise InputError(
            f"{missing} missing: give the embeddings of both, text and video, or similarity=(T, V) scores."
        )
    texts = Rows(text, "text", None if text_ids is None else read_ids(text_ids, "text_ids"))
    videos = Rows(video, "video", None if video_ids is None else read_ids(video_ids, "video_ids"), device=texts.device)
    if texts.dim != videos.dim:
        raise InputError(f"text has {texts.dim} dimensions and video has {videos.dim}; they must agree.")
    return EmbeddingScores(texts, videos), texts.dim


def _names(shape: tuple[int, int], video_of_text: Any, text_ids: Any, video_ids: Any) -> _Names:
    texts, videos = shape
    text_names = np.arange(texts).astype(str) if text_ids is None else read_ids(text_ids, "text_ids")
    video_names = np.arange(videos).astype(str) if video_ids is None else read_ids(video_ids, "video_ids")
    for name, ids, count in (("text_ids", text_names, texts), ("video_ids", video_names, videos)):
        if len(ids) != count:
            what = name.removesuffix("_ids") + "s"
            raise InputError(f"{name} has {len(ids)} values but there are {count} {what}; each needs exactly one.")
    if video_of_text is None:
        if texts != videos:
            raise InputError(
                f"{texts} texts and {videos} videos: say by video_of_text, one value a text, which video is the right "
                "one. Only equal numbers go without (the i-th text belongs to the i-th video). Scores are (texts, "
                "videos)."
            )
        return _Names(text_names, video_names, np.arange(texts))
    given = read_labels(video_of_text, "video_of_text")
    if len(given) != texts:
        raise InputError(f"video_of_text has {len(given)} values but there are {texts} texts; each needs exactly one.")
    if video_ids is not None:
        place = {name: position for position, name in enumerate(video_names.tolist())}
        found = np.array([place.get(name, -1) for name in given.astype(str).tolist()], dtype=np.int64)
    elif given.dtype.kind == "i":
        found = np.where(given < videos, given, -1)
    else:
        raise InputError("video_of_text holds names; give video_ids too, or give positions (0 to V - 1).")
    if (found < 0).any():
        row, total = int((found < 0).argmax()), int((found < 0).sum())
        where = f"positions go from 0 to {videos - 1}" if video_ids is None else "it is not among video_ids"
        raise InputError(
            f"text {str(text_names[row])!r} (row {row}) belongs to video {str(given[row])!r}, but {where} ({total} "
            "such texts). Every text needs its video; leave out texts whose video is missing."
        )
    return _Names(text_names, video_names, found)


def _warn_beyond(cutoffs: list[int], searched: dict[str, int]) -> None:
    for direction, count in searched.items():
        if any(k > count for k in cutoffs):
            warnings.warn(
                f"{direction}/recall@{max(cutoffs)} asks for more than the {count} items that are searched; it is 1 by "
                "definition.",
                UserWarning,
                stacklevel=3,
            )


def _summarise(
    metrics: dict[str, float],
    definitions: dict[str, str],
    direction: str,
    what: str,
    ranks: np.ndarray,
    cutoffs: list[int],
    lower_median: bool,
) -> None:
    """Add the metrics of one direction from its (Q, 2) pessimistic and optimistic ranks."""

    def add(name: str, sentence: str, pessimistic: float, optimistic: float) -> None:
        name = f"{direction}/{name}"
        metrics[name], definitions[name] = float(pessimistic), f"{sentence} {TIES}"
        if optimistic != pessimistic:
            metrics[f"{name}/optimistic"], definitions[f"{name}/optimistic"] = float(optimistic), OPTIMISTIC

    first = "rank of its video" if direction == "t2v" else "rank of the first of its texts"
    for k in cutoffs:
        add(f"recall@{k}", f"Share of {what} with {first} <= {k}.", *(ranks <= k).mean(0))
    middle = "the lower of two middle values" if lower_median else "the mean of two middle values"
    method: Literal["lower", "linear"] = "lower" if lower_median else "linear"
    add("median_rank", f"Median over {what} of the {first}, {middle}.", *np.quantile(ranks, 0.5, axis=0, method=method))
    add("mean_rank", f"Mean over {what} of the {first}.", *ranks.mean(0))
    add("mrr", f"Mean over {what} of 1 / ({first}).", *(1.0 / ranks).mean(0))


def _convention(given: bool, grouped: bool, compat: str | None) -> str:
    return (
        f"Recalls and mrr are fractions in [0, 1], ranks start at 1; {'the given scores' if given else 'cosine'} in "
        f"float64, scores within {TIE:g} are equal; t2v: each text ranks all videos; v2t: each video ranks "
        + ("the videos by their best text (group_by=video)" if grouped else "all texts, and any of its own counts")
        + "; videos without a text are counted as v2t/without_relevant and left out of the means of v2t"
        + (", and of what v2t ranks" if grouped else "")
        + (f"; compat={compat}." if compat else ".")
    )


def _table(names: _Names, ranks: CrossRanks, texts_of: np.ndarray) -> pd.DataFrame:
    sides = [len(names.texts), len(names.videos)]
    video = np.concatenate([names.video_of_text, np.arange(sides[1])])
    found = np.concatenate([ranks.texts, ranks.videos])
    relevant = np.concatenate([np.ones(sides[0], dtype=np.int64), texts_of])
    return pd.DataFrame(
        {
            "direction": pd.Categorical.from_codes(np.repeat([0, 1], sides), pd.Index(["t2v", "v2t"])),
            "id": np.concatenate([names.texts, names.videos]),
            "video": pd.Categorical.from_codes(video, pd.Index(names.videos)),
            "relevant": relevant,
            "rank": pd.arrays.IntegerArray(found[:, 0].copy(), mask=relevant == 0),
            "rank_optimistic": pd.arrays.IntegerArray(found[:, 1].copy(), mask=relevant == 0),
        },
        copy=False,
    )


def _counts(ranks: CrossRanks, texts_of: np.ndarray, dimensions: int | None) -> dict[str, int]:
    counts = {"texts": len(ranks.texts), "videos": len(ranks.videos), "most_texts": int(texts_of.max())}
    for direction, found in (("t2v", ranks.texts), ("v2t", ranks.videos)):
        counts[f"{direction}/evaluated"] = int((found[:, 0] > 0).sum())
        counts[f"{direction}/without_relevant"] = int((found[:, 0] == 0).sum())
        counts[f"{direction}/tied"] = int((found[:, 0] != found[:, 1]).sum())
    return counts if dimensions is None else counts | {"dimensions": dimensions}
