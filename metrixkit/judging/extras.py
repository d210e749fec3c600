"""What an evaluation adds when asked: products instead of photos, verification, re-ranking, recall through faiss."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from metrixkit.errors import InputError, did_you_mean
from metrixkit.judging.through_index import Encode, through_index
from metrixkit.report import format_value
from metrixkit.retrieval import OpenSet, Verification, open_set, verify
from metrixkit.retrieval.rerank import ASSUMPTIONS, METHODS, reranked
from metrixkit.tasks import Embedded, EvaluationSettings


@dataclass(frozen=True)
class Extras:
    """What was asked for. The constructor refuses what cannot be, before anything is embedded.

    Attributes:
        group_by: Column of the items; its groups are ranked instead of the items.
        verify: Also tell how well a threshold decides.
        rerank: Names of re-rankings, each a set of further rows.
        index: Folder of an index that is asked the same, or
        factory: kind of index that is built of the gallery and asked the same.

    Raises:
        InputError: An unknown re-ranking, a re-ranking or an index together with groups, or index and factory at once.
    """

    group_by: str | None = None
    verify: bool = False
    rerank: tuple[str, ...] = ()
    index: str | None = None
    factory: str | None = None

    def __post_init__(self) -> None:
        for name in self.rerank:
            if name not in METHODS:
                raise InputError(f"no re-ranking is called {name!r} (--rerank).{did_you_mean(name, METHODS)}")
        if self.rerank and self.group_by is not None:
            raise InputError("--rerank ranks items and --group-by ranks groups: ask for one of them at a time.")
        if self.index is not None and self.factory is not None:
            raise InputError("--index asks a saved index and --factory builds one: give one of them.")
        if self.through_faiss and self.group_by is not None:
            raise InputError("an index ranks items and --group-by ranks groups: ask for one of them at a time.")

    @property
    def through_faiss(self) -> bool:
        """Whether an index is to be asked."""
        return self.index is not None or self.factory is not None

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise InputError where the column of `group_by` is not among these."""
        if self.group_by is not None and self.group_by not in columns:
            raise InputError(
                f"the items have no column {self.group_by!r} (--group-by).{did_you_mean(self.group_by, columns)}"
            )


@dataclass(frozen=True)
class Added:
    """What :func:`added` computed.

    Attributes:
        metrics: Further metrics, named apart: verify/..., open_set/..., rerank/METHOD/..., faiss/....
        definitions: Of those.
        parts: Further parts of a result file: verification, open_set, index.
        lines: For people.
        verification: For its picture, or None.
    """

    metrics: dict[str, float]
    definitions: dict[str, str]
    parts: dict[str, Any]
    lines: list[str]
    verification: Verification | None = None


def added(
    settings: EvaluationSettings,
    queries: Embedded,
    gallery: Embedded | None,
    extras: Extras,
    exact: Mapping[str, float] | None = None,
    encode: Encode | None = None,
    fingerprint: str | None = None,
) -> Added:
    """Compute what was asked for besides the evaluation itself.

    Args:
        settings: Metrics and distance; re-ranking is by cosine whatever the distance.
        queries: Search `gallery`, or each other.
        gallery: None where the queries search each other.
        extras: What was asked for.
        exact: The evaluation itself, to stand beside what an index finds.
        encode: Embeds one image, to time a query with the encoder; or None.
        fingerprint: Of the model that made the embeddings, or None.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.verify`, :func:`~metrixkit.retrieval.open_set`,
            :func:`~metrixkit.retrieval.rerank.reranked` and :func:`~metrixkit.judging.through_index.through_index`.
    """
    found = Added({}, {}, {}, [])
    there: dict[str, Any] = {}
    if gallery is not None:
        there = {"gallery": gallery.vectors, "gallery_labels": gallery.labels, "gallery_ids": gallery.ids}
    ranked = [name for name in settings.metrics if name not in ("nmi", "ami")]
    for method in extras.rerank:
        result = reranked(
            method, queries.vectors, queries.labels, query_ids=queries.ids,
            recall_at=settings.recall_at, metrics=ranked, **there,
        )  # fmt: skip
        found.metrics.update(result)
        found.definitions.update(result.definitions)
        found.lines.append(f"rerank/{method}: {ASSUMPTIONS[method]}")
    if extras.through_faiss:
        through = through_index(
            queries, gallery, settings.recall_at, settings.distance, exact or {}, extras.index, extras.factory, encode,
            fingerprint,
        )  # fmt: skip
        found.metrics.update(through.metrics)
        found.definitions.update(through.definitions)
        found.parts.update(index=through.part)
        found.lines.extend(through.lines)
    if not extras.verify:
        return found
    pairs = verify(queries.vectors, queries.labels, ids=queries.ids, distance=settings.distance, **there)
    absent = gallery is not None and not set(queries.labels) <= set(gallery.labels)
    answers = open_set(
        queries.vectors, queries.labels, query_ids=queries.ids, distance=settings.distance,
        unknown="absent" if absent else "left-out", **there,
    )  # fmt: skip
    for part in (pairs, answers):
        found.metrics.update(part.metrics())
        found.definitions.update(part.definitions())
    found.parts.update(verification=pairs.to_dict(), open_set=answers.to_dict())
    found.lines.extend([*verification_lines(pairs), *open_set_lines(answers)])
    return replace(found, verification=pairs)


def verification_lines(found: Verification) -> list[str]:
    """Return the operating points as lines for the screen."""
    lines = [
        f"verification, {found.genuine:,} pairs of one class and {found.impostors:,} of two; a match scores >= the "
        "threshold",
        "  false matches   threshold   true accepts",
    ]
    for point in found.points:
        note = "" if point.enough else f"   (rests on {point.false_matches} false matches: chance)"
        lines.append(
            f"  {point.false_match_rate:<13g}   {point.threshold:9.4f}   {format_value('', point.true_accept_rate):>12}"
            f"{note}"
        )
    equal = format_value("", found.eer)
    lines.append(f"  equal error rate {equal} at {found.eer_threshold:.4f}; area under the ROC {found.auc:.4f}")
    return lines


def open_set_lines(found: OpenSet) -> list[str]:
    """Return the rejections as lines for the screen."""
    lines = [
        f"rejection of unknowns, {found.known:,} known and {found.unknown:,} unknown queries; {found.definition}; an "
        "answer scores >= the threshold",
        "  false alarms    threshold   identified",
    ]
    for point in found.points:
        note = "" if point.enough else f"   (rests on {point.false_alarms} false alarms: chance)"
        lines.append(
            f"  {point.false_alarm_rate:<13g}   {point.threshold:9.4f}   {format_value('', point.identified):>10}{note}"
        )
    return lines
