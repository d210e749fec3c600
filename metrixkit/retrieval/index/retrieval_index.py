"""The index that people build, ship and search."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import check_distance
from metrixkit.retrieval.index import files, filtered, vectors
from metrixkit.retrieval.index.choice import choose_factory
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.factory import parse_factory
from metrixkit.retrieval.index.table import NO_MATCH, Filter, Table, check_count, read_new_ids, read_new_labels
from metrixkit.retrieval.index.threshold import Threshold, scores_within, threshold_from_scores, validation_scores


class RetrievalIndex:
    """Embeddings with ids, searched by faiss, kept in a folder. Made by :meth:`build` and :meth:`load`.

    Scores are higher for nearer items: the cosine, the dot product, or the negative squared distance. They are what the
    chosen factory computes; only Flat, IVF,Flat, HNSW and kinds with RFlat score by the float32 vectors themselves.

    Example:
        >>> index = RetrievalIndex.build([[1.0, 0.0], [0.0, 2.0]], ["east", "north"])
        >>> scores, ids = index.search([0.6, 0.8], k=2)
        >>> ids.tolist(), scores.round(2).tolist()
        (['north', 'east'], [0.800000011920929, 0.6000000238418579])
    """

    def __init__(self, engine: Engine, table: Table, record: files.Record) -> None:
        self._engine, self._table, self._record = engine, table, record

    @classmethod
    def build(
        cls,
        embeddings: Any,
        ids: Any,
        factory: str = "Flat",
        metric: str = "cosine",
        *,
        labels: Any = None,
        model_fingerprint: str | None = None,
        notes: Mapping[str, Any] | None = None,
        seed: int = 0,
        train_size: int | None = None,
        memory_budget: int | str | None = None,
        latency_budget_ms: float | None = None,
    ) -> RetrievalIndex:
        """Build an index in memory.

        Args:
            embeddings: (N, d) tensor, array or memory map as the model gave them; read in blocks, normalised in float64
                for "cosine", stored as float32 or coarser.
            ids: (N,) unique strings or integers, kept as text.
            factory: "auto", or one of the kinds in ``OFFERED`` with numbers of your own, such as
                "IVF1024,PQ32x4fs,RFlat"; "IVF" without a number takes one for N.
            metric: "cosine", "dot" (inner product) or "euclidean" (L2).
            labels: (N,) strings or integers kept beside the ids, or None.
            model_fingerprint: What tells the model that made the embeddings (``model.fingerprint``), or None.
            notes: JSON values to keep in the manifest.
            seed: Of the training sample and of k-means.
            train_size: Vectors to train on; None takes 64 a list, at least 65,536 for code books and SQ8.
            memory_budget: For "auto": bytes or text such as "2GB". See :func:`choose_factory`.
            latency_budget_ms: For "auto": milliseconds of one query on one thread.

        Raises:
            InputError: Rows with NaN, infinity or (cosine) zeros; no rows; ids that are missing, twice or do not fit;
                an unknown metric or factory, or one that N or d do not suit; a budget that nothing fits.
        """
        check_distance(metric)
        names = read_new_ids(ids, "ids")
        rows = vectors.read_rows(embeddings, "embeddings", metric, names)
        check_count(names, rows.count, "ids")
        kept_labels = read_new_labels(labels, "labels", rows.count)
        if factory == "auto":
            factory = choose_factory(rows.count, rows.dim, memory_budget, latency_budget_ms).factory
        elif memory_budget is not None or latency_budget_ms is not None:
            raise InputError(f"budgets choose a factory, and factory={factory!r} is chosen already; take 'auto'.")
        kind = parse_factory(factory, rows.dim, rows.count)
        engine = Engine.create(kind, rows.dim, metric)
        size = files.training_size(train_size, kind, rows.count)
        if kind.trains:
            chosen = np.sort(np.random.default_rng(seed).permutation(rows.count)[:size])
            engine.train(vectors.take(rows, chosen), seed)
        engine.reserve(rows.count)
        for block in vectors.blocks(rows):
            engine.add(block)
        engine.set_parameters(kind.defaults())
        record = files.Record(
            metric, model_fingerprint, files.json_notes(notes), seed, size if kind.trains else 0, files.now()
        )
        return cls(engine, Table(names, kept_labels), record)

    def __len__(self) -> int:
        """Return the number of items, tombstones left out."""
        return len(self._table)

    @property
    def ids(self) -> np.ndarray:
        """(N,) unicode ids, in the order masks and :attr:`labels` have."""
        return self._table.ids

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) unicode labels, or None where none were given."""
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
        """JSON values kept in the manifest; change them in place."""
        return self._record.notes

    @property
    def parameters(self) -> dict[str, int]:
        """Search parameters in force: "nprobe", "efSearch", "k_factor"; those that this kind has."""
        return self._engine.get_parameters()

    def search(
        self, queries: Any, k: int, filter: Filter | None = None, *, model_fingerprint: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest items of each query.

        Args:
            queries: (Q, d), or (d,) for one.
            k: How many.
            filter: Items that may be found: ids, a (N,) bool mask in the order of :attr:`ids`, or a function of an id
                (called once for every item). None for all.
            model_fingerprint: Of the model that made the queries; another than the index's is refused.

        Returns:
            scores (Q, k) float32, descending, and ids (Q, k) unicode; (k,) each for one query. -inf and "" where
            fewer were found: the index or the filter holds fewer, or (without a filter) the searched lists do.

        Raises:
            InputError: Rows with NaN, infinity or zeros, another dimension, k < 1, a bad filter, another model.
        """
        scores, found, single = self._search(queries, k, filter, model_fingerprint)
        ids = self._table.name(found)
        return (scores[0], ids[0]) if single else (scores, ids)

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
        scores, found, single = self._search(queries, 1, None, model_fingerprint)
        nearest = scores[:, 0]
        ids = np.where(nearest >= np.float32(threshold), self._table.name(found)[:, 0], NO_MATCH)
        return (float(nearest[0]), str(ids[0])) if single else (nearest, ids)

    def add(self, embeddings: Any, ids: Any, labels: Any = None, *, model_fingerprint: str | None = None) -> None:
        """Add items. What was learned from the first ones (lists, code books, ranges) stays as it is.

        Args:
            embeddings: (n, d).
            ids: (n,) ids that the index does not have.
            labels: (n,); needed if and only if the index has labels.
            model_fingerprint: As in :meth:`search`.

        Raises:
            InputError: As :meth:`build`; an id that is there already; another model. Nothing is added then.
        """
        rows, names, kept = self._incoming("add", embeddings, ids, labels, model_fingerprint)
        self._table.refuse_known(names, "add")
        self._append(rows, names, kept)

    def update(self, embeddings: Any, ids: Any, labels: Any = None, *, model_fingerprint: str | None = None) -> None:
        """Replace the vectors of items; arguments as :meth:`add`, of ids that the index has.

        They move to the end of :attr:`ids`. Without labels they keep theirs.

        Raises:
            InputError: As :meth:`add`; an id that is not there. Nothing is changed then.
        """
        names = read_new_ids(ids, "update: ids")
        old = self._table.positions(names, "update")
        if labels is None and self._table.all_labels is not None:
            labels = self._table.all_labels[old]
        rows, names, kept = self._incoming("update", embeddings, names, labels, model_fingerprint)
        self._append(rows, names, kept)
        self._take_out(old)

    def remove(self, ids: Any) -> None:
        """Remove items: at once where faiss can, as tombstones in HNSW and RFlat kinds (see :meth:`compact`).

        Raises:
            InputError: An id that is not there, or is named twice. Nothing is removed then.
        """
        names = read_new_ids(ids, "remove: ids")
        self._take_out(self._table.positions(names, "remove"))

    def compact(self) -> int:
        """Rebuild without tombstones and return how many there were. Takes as long as adding all items did."""
        buried = self._table.dead_count
        if buried:
            self._engine.keep_only(np.flatnonzero(~self._table.dead))
            self._table.delete(np.flatnonzero(self._table.dead))
        return buried

    def reconstruct(self, ids: Any) -> np.ndarray:
        """Return the (n, d) float32 vectors of (n,) ids as the index keeps them; (d,) for one string.

        Exact (normalised for "cosine") for Flat, IVF,Flat, HNSW and kinds with RFlat; what the codes say for others.

        Raises:
            InputError: An id that is not there.
        """
        rows = self._engine.reconstruct(self._table.positions(read_new_ids(ids, "reconstruct: ids"), "reconstruct"))
        return rows[0] if isinstance(ids, str) else rows

    def set_parameters(self, text: str = "", /, **values: int) -> None:
        """Set search parameters, as "nprobe=16,k_factor=4" or as keywords. Saved with the index.

        nprobe is the number of lists searched, efSearch the candidates an HNSW search keeps, k_factor how many times k
        are fetched before RFlat scores them again. More finds more and takes longer.

        Raises:
            InputError: A parameter this kind does not have, or a value below 1.
        """
        self._engine.set_parameters({**files.read_parameters(text), **values})

    def set_threshold(
        self,
        false_match_rate: float,
        *,
        impostor: Any = None,
        genuine: Any = None,
        strangers: Any = None,
        embeddings: Any = None,
        labels: Any = None,
        force: bool = False,
    ) -> Threshold:
        """Set the score that :meth:`match` asks for, from one of three things.

        Args:
            false_match_rate: Share in (0, 1) of queries without a counterpart that may be matched all the same.
            impostor: (n,) best scores of such queries. `genuine`: (m,) scores of queries with a counterpart, or None.
            genuine: See `impostor`.
            strangers: (n, d) validation embeddings of things that are not in the index. They are searched here, so the
                threshold fits this index, its size and its scores; the best way. Right answers are then `genuine`, or
                else what up to 1024 indexed items score with another one of their own label.
            embeddings: (n, d) validation embeddings, searched exactly among themselves; with `labels`. A stranger's
                score is the best with an item of another label. Too low for an index much larger than n.
            labels: (n,) labels of `embeddings`.
            force: Also keep one that rejects more than half of the right answers.

        Returns:
            The threshold, kept and saved with the index; its ``false_rejection_rate`` is the share of right answers
            that it rejects.

        Raises:
            InputError: Not exactly one source; fewer than 1 / `false_match_rate` queries; a rate outside (0, 1); most
                right answers rejected, without `force`.
        """
        if sum(source is not None for source in (impostor, strangers, embeddings)) != 1:
            raise InputError(
                "set_threshold: give one of impostor=SCORES, strangers=ROWS, or embeddings=ROWS with labels=."
            )
        if impostor is not None:
            found = threshold_from_scores(false_match_rate, impostor, genuine)
        elif strangers is not None:
            scores = self._search(strangers, 1, None, None)[0][:, 0]
            if genuine is None:
                there = np.flatnonzero(~self._table.dead)
                genuine = scores_within(
                    self.labels, lambda rows: self._engine.reconstruct(there[rows]), self.metric == "euclidean"
                )
            found = threshold_from_scores(false_match_rate, scores, genuine, "strangers", len(self))
        else:
            rows = vectors.read_rows(embeddings, "embeddings", self.metric, dim=self.dim)
            strange, mates = validation_scores(rows, labels, self.metric == "euclidean")
            found = threshold_from_scores(false_match_rate, strange, mates, "validation", rows.count)
        if not force:
            found.refuse_rejecting()
        self._record.threshold = found
        return found

    def to_gpu(self, device: int = 0) -> None:
        """Search on a CUDA device from now on; ids agree with the processor's up to ties.

        Changes, reconstruction and saving go on in memory, and the device's copy is made again when next searched.

        Raises:
            InputError: faiss sees no such device, or has no such index there (HNSW, PQ x4fs).
        """
        self._engine.search_on(device)

    def to_cpu(self) -> None:
        """Search on the processor again."""
        self._engine.search_on(None)

    def info(self) -> dict[str, Any]:
        """Return what there is to know, as JSON values.

        Among it: count, tombstones and their share, bytes_per_vector (of the vectors and what finds them, by
        calculation), whether vectors are mapped from a file, the threshold and how it was set, and the saved version.
        """
        return files.describe(self._engine, self._table, self._record)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write a new version into a folder, whole or not at all; the one before stays readable there.

        Args:
            folder: New, empty, or that of an index.

        Returns:
            The version's name, for example "v0003".

        Raises:
            InputError: The folder holds something else, or a version newer than the one this index was loaded from.
        """
        return files.save(Path(folder), self._engine, self._table, self._record)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        mmap: bool = True,
        expect_fingerprint: str | None = None,
        *,
        verify: bool = True,
        version: str | None = None,
    ) -> RetrievalIndex:
        """Load an index.

        Args:
            folder: What :meth:`save` wrote into.
            mmap: Whether to map the vectors and ids instead of reading them: processes share them, and they may be
                larger than memory. At the first change they are read into memory. PQ x4fs without lists is always read.
            expect_fingerprint: Of the model that will make the queries; an index of another one is refused.
            verify: Whether to compute the files' checksums (about a second a gigabyte); sizes are always checked.
            version: Which, for example "v0002"; None takes the current one.

        Raises:
            InputError: No index there, a newer format, files cut off or altered, another model.
        """
        engine, table, record = files.load(Path(folder), mmap, verify, version)
        index = cls(engine, table, record)
        index._same_model(expect_fingerprint, "load")
        return index

    def _search(
        self, queries: Any, k: int, chosen: Filter | None, fingerprint: str | None
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k={k}: ask for at least one item.")
        self._same_model(fingerprint, "search")
        queries = queries if isinstance(queries, Tensor | np.ndarray) else np.asarray(queries)
        single = queries.ndim == 1
        rows = vectors.read_queries(queries[None] if single else queries, "queries", self.metric, self.dim)
        scores, found = filtered.search(self._engine, rows, int(k), self._table.allowed(chosen))
        return scores, found, single

    def _incoming(
        self, verb: str, embeddings: Any, ids: Any, labels: Any, fingerprint: str | None
    ) -> tuple[Any, np.ndarray, np.ndarray | None]:
        self._same_model(fingerprint, verb)
        names = read_new_ids(ids, f"{verb}: ids")
        rows = vectors.read_rows(embeddings, f"{verb}: embeddings", self.metric, names, self.dim)
        check_count(names, rows.count, f"{verb}: ids")
        kept = read_new_labels(labels, f"{verb}: labels", rows.count)
        if (kept is None) != (self._table.all_labels is None):
            have = "has labels; give labels=" if kept is None else "has no labels; leave labels out"
            raise InputError(f"{verb}: the index {have}.")
        return rows, names, kept

    def _append(self, rows: Any, names: np.ndarray, labels: np.ndarray | None) -> None:
        for block in vectors.blocks(rows):
            self._engine.add(block)
        self._table.append(names, labels)

    def _take_out(self, positions: np.ndarray) -> None:
        if self._engine.factory.removes:
            self._engine.remove(positions)
            self._table.delete(positions)
        else:
            self._table.bury(positions)

    def _same_model(self, fingerprint: str | None, what: str) -> None:
        own = self.model_fingerprint
        if fingerprint is not None and own is not None and fingerprint != own:
            raise InputError(
                f"{what}: the vectors are of model {fingerprint[:12]} and the index is of model {own[:12]}. Vectors of "
                "two models cannot be compared: build an index with this model, or use the model it was built with."
            )
