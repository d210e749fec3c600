"""The index that people build, ship and search."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit.errors import InputError
from metrixkit.retrieval.index import files, incoming, vectors
from metrixkit.retrieval.index.engine import Engine
from metrixkit.retrieval.index.making import make
from metrixkit.retrieval.index.searching import Searchable
from metrixkit.retrieval.index.table import Table, read_new_ids
from metrixkit.retrieval.index.threshold import Threshold, scores_within, threshold_from_scores, validation_scores


class RetrievalIndex(Searchable):
    """Embeddings with ids, searched by faiss, kept in a folder. Made by :meth:`build` and :meth:`load`.

    Scores are higher for nearer items: the cosine, the dot product, or the negative squared distance. They are what the
    chosen factory computes; only Flat, IVF,Flat, HNSW and kinds with RFlat score by the float32 vectors themselves.

    Threads may search, change and save one index at once: a change waits for the searches under way and keeps later
    ones waiting, so each search answers from the index before a change or after it.

    Example:
        >>> index = RetrievalIndex.build([[1.0, 0.0], [0.0, 2.0]], ["east", "north"])
        >>> scores, ids = index.search([0.6, 0.8], k=2)
        >>> ids.tolist(), scores.round(2).tolist()
        (['north', 'east'], [0.800000011920929, 0.6000000238418579])
    """

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
        return cls(
            *make(
                embeddings,
                ids,
                factory,
                metric,
                labels,
                model_fingerprint,
                notes,
                seed,
                train_size,
                memory_budget,
                latency_budget_ms,
            )
        )

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
        incoming.refuse_model(self.model_fingerprint, model_fingerprint, "add")
        rows, names, kept = incoming.read_items("add", embeddings, ids, labels, self.metric, self.dim, self._labelled)
        with self._lock.writing():
            self._table.refuse_known(names, "add")
            with self._changing():
                self._append(rows, names, kept)

    def update(self, embeddings: Any, ids: Any, labels: Any = None, *, model_fingerprint: str | None = None) -> None:
        """Replace the vectors of items; arguments as :meth:`add`, of ids that the index has.

        They move to the end of :attr:`ids`. Without labels they keep theirs.

        Raises:
            InputError: As :meth:`add`; an id that is not there. Nothing is changed then.
        """
        incoming.refuse_model(self.model_fingerprint, model_fingerprint, "update")
        names = read_new_ids(ids, "update: ids")
        with self._lock.writing():
            old = self._table.positions(names, "update")
            if labels is None and self._table.all_labels is not None:
                labels = self._table.all_labels[old]
            rows, names, kept = incoming.read_items(
                "update", embeddings, names, labels, self.metric, self.dim, self._labelled
            )
            with self._changing():
                self._append(rows, names, kept)
                self._take_out(old)

    def remove(self, ids: Any) -> None:
        """Remove items: at once where faiss can, as tombstones in HNSW and RFlat kinds (see :meth:`compact`).

        Raises:
            InputError: An id that is not there, or is named twice. Nothing is removed then.
        """
        names = read_new_ids(ids, "remove: ids")
        with self._lock.writing():
            positions = self._table.positions(names, "remove")
            with self._changing():
                self._take_out(positions)

    def compact(self) -> int:
        """Rebuild without tombstones and return how many there were. Takes as long as adding all items did."""
        with self._lock.writing(), self._changing():
            buried = self._table.dead_count
            if buried:
                self._engine.keep_only(np.flatnonzero(~self._table.dead))
                self._table.delete(np.flatnonzero(self._table.dead))
            return buried

    def set_parameters(self, text: str = "", /, **values: int) -> None:
        """Set search parameters, as "nprobe=16,k_factor=4" or as keywords. Saved with the index.

        nprobe is the number of lists searched, efSearch the candidates an HNSW search keeps, k_factor how many times k
        are fetched before RFlat scores them again. More finds more and takes longer.

        Raises:
            InputError: A parameter this kind does not have, or a value below 1.
        """
        wanted = {**files.read_parameters(text), **values}
        with self._lock.writing():
            self._engine.set_parameters(wanted)

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
            with self._searching():
                if not len(self._table):
                    raise InputError(
                        "set_threshold: the index is empty; add items before strangers are searched in it."
                    )
                scores = self._nearest(strangers, 1, None, None)[0][:, 0]
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
        with self._lock.writing():
            self._engine.search_on(device)

    def to_cpu(self) -> None:
        """Search on the processor again."""
        with self._lock.writing():
            self._engine.search_on(None)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write a new version into a folder, whole or not at all; the one before stays readable there.

        Searches go on meanwhile; changes wait until the vectors are written.

        Args:
            folder: New, empty, or that of an index.

        Returns:
            The version's name, for example "v0003".

        Raises:
            InputError: The folder holds something else, or a version newer than the one this index was loaded from.
        """
        with self._saving:
            return files.save(Path(folder), self._parts, self._record)

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
        incoming.refuse_model(record.model_fingerprint, expect_fingerprint, "load")
        return cls(engine, table, record)

    @contextmanager
    def _parts(self) -> Iterator[tuple[Engine, Table]]:
        """Keep changes out while vectors and ids are written, and searches only from what would go into the file."""
        while True:
            with self._searching(), self._engine.settled() as settled:
                if settled:
                    yield self._engine, self._table
                    return
            with self._lock.writing():
                self._engine.settle()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Remember a change that is cut off (Ctrl-C, no memory): vectors and ids may no longer belong together."""
        self._refuse_cut_off()
        self._cut_off = True
        yield
        self._cut_off = False

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
