"""What can be asked of an index, by many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.index import files, filtered, incoming, scan
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.lock import ReadersWriter
from metrixkit.retrieval.index.table import NO_MATCH, Filter, Table, read_new_ids
from metrixkit.retrieval.index.threshold import Threshold


class Searchable:
    """An index as those see it who do not change it; see :class:`RetrievalIndex`.

    Args:
        engine: The vectors.
        table: Their ids and labels.
        record: What else is known.
    """

    def __init__(self, engine: Engine, table: Table, record: files.Record) -> None:
        self._engine, self._table, self._record = engine, table, record
        self._lock, self._saving = ReadersWriter(), threading.Lock()
        self._cut_off = False  # whether a change ended in its middle

    def __len__(self) -> int:
        """Return the number of items, tombstones left out."""
        with self._lock.reading():
            return len(self._table)

    @property
    def ids(self) -> np.ndarray:
        """(N,) unicode ids, in the order masks and :attr:`labels` have."""
        with self._lock.reading():
            return self._table.ids

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) unicode labels, or None where none were given."""
        with self._lock.reading():
            return self._table.labels

    @property
    def dim(self) -> int:
        """Dimension of the embeddings."""
        return self._engine.dim

    @property
    def metric(self) -> str:
        """The metric: "cosine", "dot" or "euclidean"."""
        return self._record.metric

    @property
    def factory(self) -> str:
        """The kind of index, as faiss writes it."""
        return str(self._engine.factory)

    @property
    def threshold(self) -> Threshold | None:
        """What :meth:`set_threshold` found, or None."""
        return self._record.threshold

    @property
    def model_fingerprint(self) -> str | None:
        """What tells the model whose embeddings these are, or None."""
        return self._record.model_fingerprint

    @property
    def notes(self) -> dict[str, Any]:
        """JSON values kept in the manifest; change them in place (in one thread)."""
        return self._record.notes

    @property
    def parameters(self) -> dict[str, int]:
        """Search parameters in force: "nprobe", "efSearch", "k_factor"; those that this kind has."""
        with self._lock.reading():
            return self._engine.get_parameters()

    def search(
        self, queries: Any, k: int, filter: Filter | None = None, *, model_fingerprint: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest items of each query.

        Args:
            queries: (Q, d), or (d,) for one; no queries give no answers, (0, k).
            k: How many; more than there are items gives all of them.
            filter: Items that may be found: ids, a (N,) mask (bool, or 0 and 1) in the order of :attr:`ids`, or a
                function of an id (called once for every item). None for all. What is found is as good as without.
            model_fingerprint: Of the model that made the queries; another than the index's is refused.

        Returns:
            scores (Q, k) float32, descending, and ids (Q, k) unicode; (k,) each for one query; k is at most the number
            of items. -inf and "" where fewer were found: the filter holds fewer, or (without a filter) the searched
            lists do.

        Raises:
            InputError: Rows with NaN, infinity or zeros, another dimension, k < 1, a bad filter, another model.
        """
        scores, ids, single = self._nearest(queries, incoming.read_k(k), filter, model_fingerprint)
        return (scores[0], ids[0]) if single else (scores, ids)

    def range_search(
        self, queries: Any, radius: float, filter: Filter | None = None, *, model_fingerprint: str | None = None
    ) -> tuple[Any, Any]:
        """Return all items within a radius of each query. Every item is looked at, whatever nprobe or efSearch say.

        Args:
            queries: (Q, d), or (d,) for one.
            radius: For "cosine" and "dot" the score that an item must reach; for "euclidean" the distance, not squared,
                that it may have. What is off by a millionth, as float32 is, counts as within.
            filter: As in :meth:`search`.
            model_fingerprint: As in :meth:`search`.

        Returns:
            scores and ids, lists of Q arrays (n,) float32, descending, and (n,) unicode; two arrays for one query.

        Raises:
            InputError: As :meth:`search`; a radius that this metric cannot have; more than ten million results.
        """
        least = incoming.read_radius(radius, self.metric)
        incoming.refuse_model(self.model_fingerprint, model_fingerprint, "range_search")
        rows, single = incoming.read_asked(queries, self.metric, self.dim)
        with self._searching():
            allowed = self._table.allowed(filter)
            chosen = np.arange(self._engine.count) if allowed is None else np.flatnonzero(allowed)
            counts, points, positions = scan.within(self._engine, rows, least, chosen)
            names = self._table.name(positions)
        ends = np.cumsum(counts)[:-1]
        scores, ids = np.split(points, ends), np.split(names, ends)
        return (scores[0], ids[0]) if single else (scores[: len(rows)], ids[: len(rows)])

    def match(
        self, queries: Any, threshold: float | None = None, *, model_fingerprint: str | None = None
    ) -> tuple[Any, Any]:
        """Return the nearest item of each query, or "no match" where its score is below the threshold.

        Args:
            queries: (Q, d), or (d,) for one.
            threshold: A score; None takes the one of :meth:`set_threshold`.
            model_fingerprint: As in :meth:`search`.

        Returns:
            scores (Q,) float32 and ids (Q,) unicode; a float and a str for one query. The score is that of the nearest
            item also where the answer is "no match".

        Raises:
            InputError: No threshold is set; see also :meth:`search`.
        """
        if threshold is None:
            if self.threshold is None:
                raise InputError("match: no threshold is set. Call set_threshold, or give threshold=SCORE.")
            threshold = self.threshold.value
        scores, ids, single = self._nearest(queries, 1, None, model_fingerprint)
        if scores.shape[1] == 0:  # an empty index
            scores, ids = np.full((len(scores), 1), -np.inf, np.float32), np.full((len(ids), 1), NO_MATCH)
        nearest = scores[:, 0]
        matched = np.where(nearest >= np.float32(threshold), ids[:, 0], NO_MATCH)
        return (float(nearest[0]), str(matched[0])) if single else (nearest, matched)

    def reconstruct(self, ids: Any) -> np.ndarray:
        """Return the (n, d) float32 vectors of (n,) ids as the index keeps them; (d,) for one string.

        Exact (normalised for "cosine") for Flat, IVF,Flat, HNSW and kinds with RFlat; what the codes say for others.

        Raises:
            InputError: An id that is not there.
        """
        names = read_new_ids(ids, "reconstruct: ids")
        with self._searching():
            rows = self._engine.reconstruct(self._table.positions(names, "reconstruct"))
        return rows[0] if isinstance(ids, str) else rows

    def info(self) -> dict[str, Any]:
        """Return what there is to know, as JSON values.

        Among it: count, tombstones and their share, bytes_per_vector (of the vectors and what finds them, by
        calculation), whether vectors are mapped from a file, the threshold and how it was set, and the saved version.
        """
        with self._lock.reading():
            return files.describe(self._engine, self._table, self._record)

    @property
    def _labelled(self) -> bool:
        return self._table.all_labels is not None

    def _nearest(
        self, queries: Any, k: int, chosen: Filter | None, fingerprint: str | None
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        incoming.refuse_model(self.model_fingerprint, fingerprint, "search")
        rows, single = incoming.read_asked(queries, self.metric, self.dim)
        with self._searching():
            allowed, k = self._table.allowed(chosen), min(k, len(self._table))
            if not k or not len(rows):
                nothing = np.full((len(rows), k), -np.inf, dtype=np.float32)
                return nothing, np.full((len(rows), k), "", dtype="<U1"), single
            scores, found = filtered.search(self._engine, rows, k, allowed)
            return scores, self._table.name(found), single

    @contextmanager
    def _searching(self) -> Iterator[None]:
        with self._lock.reading():
            self._refuse_cut_off()
            yield

    def _refuse_cut_off(self) -> None:
        if self._cut_off:
            raise InputError(
                "a change of this index was cut off in its middle, and its answers could be wrong. Load it again, or "
                "build it again."
            )
