"""What the index asks of faiss: make, train, search, take out, give back, read and write. Numbers only, no names.

A vector's label in faiss is always its position, 0 to count - 1. Inverted lists would leave gaps when vectors go; they
are renumbered at once, so that every kind of index counts alike.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.index.factory import Factory
from metrixkit.retrieval.index.learning import innermost, train
from metrixkit.retrieval.index.library import faiss_library
from metrixkit.retrieval.index.selection import passing
from metrixkit.visible import visible

SCAN = 2**16  # vectors given back at a time
GPU_MOST = 2048  # neighbours a GPU search can give


def reason(error: Exception) -> str:
    """Return the reason at the end of faiss's message, which opens with a C++ signature."""
    return " ".join(str(error).split("Error: ")[-1].split())[:200]


def _not_utf8(path: str | os.PathLike[str]) -> InputError:
    return InputError(
        f"{visible(os.fspath(path))}: the path is not UTF-8, and faiss takes no other. Give another folder."
    )


class Engine:
    """A faiss index of one of the kinds on offer.

    Args:
        index: The faiss index.
        factory: Its kind.
        metric: "cosine", "dot" or "euclidean"; with "cosine" rows are expected at unit length.
        mapped: The file its vectors are mapped from, or None. At the first change they are read into memory.
    """

    def __init__(self, index: Any, factory: Factory, metric: str, mapped: str | None = None) -> None:
        self._faiss = faiss_library()
        self.index, self.factory, self.metric, self.mapped = index, factory, metric, mapped
        self.gpu: int | None = None
        self._on_gpu: tuple[Any, Any] | None = None  # copy for searching, made when asked for, and its resources
        # Once known: (count,) the inverted list of each vector, and (lists,) how many each holds.
        self._list_of, self._sizes = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        self._making = threading.Lock()  # searches in several threads make such things once

    @classmethod
    def create(cls, factory: Factory, dim: int, metric: str) -> Engine:
        """Return an empty, untrained index."""
        faiss = faiss_library()
        kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        return cls(faiss.index_factory(dim, str(factory), kind), factory, metric)

    @classmethod
    def read(cls, path: str | os.PathLike[str], factory: Factory, metric: str, mmap: bool) -> Engine:
        """Read an index file.

        Args:
            path: What :meth:`write` wrote.
            factory: Its kind.
            metric: Its metric.
            mmap: Whether to map the vectors instead of reading them. faiss maps every kind on offer but PQ x4fs
                without lists; before 1.11, inverted lists other than x4fs only. What it cannot map it reads.

        Raises:
            InputError: faiss cannot read it.
        """
        faiss = faiss_library()
        flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) if mmap else 0
        try:
            index = faiss.read_index(os.fspath(path), flags)
        except RuntimeError as error:
            raise InputError(f"{path}: faiss cannot read it ({reason(error)}); the file is damaged.") from error
        except TypeError as error:
            raise _not_utf8(path) from error
        engine = cls(index, factory, metric, mapped=os.fspath(path) if mmap else None)
        engine._remind()
        return engine

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file; where other threads search, while it is :meth:`settled`.

        Raises:
            OSError: The disk is full, or the folder does not take files.
        """
        try:
            self._faiss.write_index(self.index, os.fspath(path))
        except RuntimeError as error:
            raise OSError(f"{path}: faiss cannot write the index ({reason(error)})") from error
        except TypeError as error:
            raise _not_utf8(path) from error

    @contextmanager
    def settled(self) -> Iterator[bool]:
        """Keep searches from making what would be written into a file, and tell whether there is none of it now."""
        with self._making:
            lists = self._lists()
            yield lists is None or bool(lists.direct_map.no())

    def settle(self) -> None:
        """Drop the table that finds a vector's list by its position; it is made again when asked for."""
        lists = self._lists()
        if lists is not None and not lists.direct_map.no():
            lists.make_direct_map(False)
            self._list_of = np.empty(0, dtype=np.int32)

    @property
    def count(self) -> int:
        """Vectors held, tombstones too."""
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return int(self.index.d)

    def train(self, sample: np.ndarray, seed: int) -> None:
        """Learn from (n, d) float32 rows; the same rows, seed and thread count give the same index."""
        train(self.index, self.factory, sample, seed)

    def reserve(self, count: int) -> None:
        """Make room for `count` more vectors, where they lie in one piece that would be copied each time it grows."""
        faiss, index = self._faiss, self._down(self.index)
        if isinstance(index, faiss.IndexRefine):
            index = self._down(index.refine_index)
        elif isinstance(index, faiss.IndexHNSW):
            index = self._down(index.storage)
        if isinstance(index, faiss.IndexFlatCodes) and self.mapped is None:
            size = index.codes.size()
            index.codes.resize(size + count * index.code_size)
            index.codes.resize(size)

    def add(self, rows: np.ndarray) -> None:
        """Append (n, d) float32 rows."""
        self._before_change()
        self.index.add(rows)

    def remove(self, positions: np.ndarray) -> None:
        """Take vectors out; those behind move up. Only where ``factory.removes``."""
        self._before_change()
        count = self.count
        bits = np.zeros(count, dtype=bool)
        bits[positions] = True
        self.index.remove_ids(self._faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little")))
        lists = self._lists()
        if lists is None:
            return
        renumbered = np.cumsum(~bits) - 1
        for number in range(lists.nlist):
            size = lists.invlists.list_size(number)
            if size:
                held = self._faiss.rev_swig_ptr(lists.invlists.get_ids(number), size)
                held[:] = renumbered[held]

    def keep_only(self, positions: np.ndarray) -> None:
        """Build the index again from (n,) of its positions, in their order, with what it learned."""
        self._before_change()
        fresh = self._faiss.clone_index(self.index)
        fresh.reset()
        for start in range(0, len(positions), SCAN):
            fresh.add(self.reconstruct(positions[start : start + SCAN]))
        parameters = self.get_parameters()
        self.index = fresh
        self.set_parameters(parameters)

    def reconstruct(self, positions: np.ndarray) -> np.ndarray:
        """Return the (n, d) float32 vectors at (n,) positions, as exact as they are kept."""
        if self.factory.lists and not self.factory.refine:
            self._know_places()
        return self.index.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, candidates: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest of each query that faiss finds.

        Args:
            queries: (Q, d) float32.
            k: How many.
            allowed: (count,) bool, vectors that are not passed over, or None for all; only where ``factory.filters``.
            candidates: efSearch of a graph for this search alone; only with `allowed`.

        Returns:
            scores (Q, k) float32, higher is nearer, -inf where there is none; positions (Q, k) int64, -1 there.
        """
        if allowed is None:
            scores, found = (self._searcher() if k <= GPU_MOST else self.index).search(queries, k)
        else:
            kept: list[Any] = []  # faiss holds plain pointers to what is nested
            parameters = passing(self.index, self._selector(allowed), kept, candidates)
            # faiss.contrib.torch_utils, which pytorch-metric-learning imports, puts a search without `params` in place
            # of faiss's own and keeps that beside it.
            search = getattr(self.index, "search_numpy", self.index.search)
            scores, found = search(queries, k, params=parameters)
        return self._as_scores(scores, found)

    def list_sizes(self, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (lists,) int64, how many vectors each inverted list holds, and how many of them are allowed."""
        self._know_places()
        lists, sizes = self._list_of, self._sizes
        if 2 * int(allowed.sum()) < len(allowed):
            return sizes, np.bincount(lists[allowed], minlength=self.factory.lists)
        return sizes, sizes - np.bincount(lists[~allowed], minlength=self.factory.lists)

    def nearest_lists(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the (Q, count) int64 inverted lists nearest to each query, and what faiss calls their distances."""
        costs, order = self._lists().quantizer.search(self._rotated(queries), count)
        return order, costs

    def search_lists(
        self, queries: np.ndarray, k: int, probed: np.ndarray, costs: np.ndarray, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search chosen inverted lists.

        Args:
            queries: (Q, d) float32.
            k: How many.
            probed: (Q, n) int64 lists of each query, -1 for none.
            costs: (Q, n) float32, the lists' distances as :meth:`nearest_lists` gives them.
            allowed: (count,) bool, vectors that are not passed over.

        Returns:
            As :meth:`search`.
        """
        faiss, lists, rows = self._faiss, self._lists(), self._rotated(queries)
        wide = k * self.get_parameters()["k_factor"] if self.factory.refine else k
        scores = np.empty((len(rows), wide), dtype=np.float32)
        found = np.empty((len(rows), wide), dtype=np.int64)
        probed, costs = np.ascontiguousarray(probed), np.ascontiguousarray(costs)
        # The wrapped call takes no parameters, and with them no selector.
        parameters = faiss.SearchParametersIVF(sel=self._selector(allowed), nprobe=probed.shape[1])
        lists.search_preassigned_c(
            len(rows), faiss.swig_ptr(rows), wide, faiss.swig_ptr(probed), faiss.swig_ptr(costs),
            faiss.swig_ptr(scores), faiss.swig_ptr(found), False, parameters,
        )  # fmt: skip
        if self.factory.refine:
            vectors = self._down(self._down(self.index).refine_index)
            vectors.compute_distance_subset(
                len(rows), faiss.swig_ptr(queries), wide, faiss.swig_ptr(scores), faiss.swig_ptr(found)
            )
            scores, found = self._as_scores(scores, found)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, order, axis=1), np.take_along_axis(found, order, axis=1)
        return self._as_scores(scores, found)

    def set_parameters(self, values: Mapping[str, int]) -> None:
        """Set "nprobe", "efSearch" or "k_factor".

        Raises:
            InputError: This kind has no such parameter, or the value is below 1.
        """
        known = self.factory.parameters
        for name, value in values.items():
            if name not in known:
                has = f"{did_you_mean(name, known)}" if known else " It has none: every search sees every vector."
                raise InputError(f"{self.factory} has no search parameter {name!r}.{has}")
            if value < 1:
                raise InputError(f"{name}={value}: expected at least 1.")
        self._on_gpu = None
        for name, value in values.items():
            if name == "nprobe":
                self._lists().nprobe = min(value, self.factory.lists)
            elif name == "efSearch":
                self._down(self.index).hnsw.efSearch = value
            else:
                self._down(self.index).k_factor = float(value)

    def get_parameters(self) -> dict[str, int]:
        """Return what :meth:`set_parameters` sets."""
        read = {
            "nprobe": lambda: self._lists().nprobe,
            "efSearch": lambda: self._down(self.index).hnsw.efSearch,
            "k_factor": lambda: self._down(self.index).k_factor,
        }
        return {name: int(read[name]()) for name in self.factory.parameters}

    def search_on(self, gpu: int | None) -> None:
        """Search on a CUDA device from now on, or on the processor again (None). What is changed stays in memory.

        Raises:
            InputError: This faiss sees no such GPU, or has no such index there.
        """
        if gpu is not None and (not hasattr(self._faiss, "StandardGpuResources") or self._faiss.get_num_gpus() <= gpu):
            raise InputError(
                f"to_gpu({gpu}): this faiss sees no such GPU. It takes a machine with one and metrixkit[gpu] or [cuvs] "
                "in place of [cpu]."
            )
        self.gpu, self._on_gpu = gpu, None
        if gpu is not None:
            self._searcher()

    def _searcher(self) -> Any:
        if self.gpu is None:
            return self.index
        with self._making:
            if self._on_gpu is None:
                resources = self._faiss.StandardGpuResources()
                try:
                    copy = self._faiss.index_cpu_to_gpu(resources, self.gpu, self.index)
                except RuntimeError as error:
                    self.gpu = None
                    raise InputError(
                        f"{self.factory} does not go to a GPU ({reason(error)}); Flat, IVF,Flat, IVF,SQ8 and IVF,PQ do."
                    ) from error
                self._on_gpu = copy, resources
            return self._on_gpu[0]

    def _before_change(self) -> None:
        self.settle()
        self._on_gpu = None
        if self.mapped is None:
            return
        parameters = self.get_parameters()
        try:
            self.index = self._faiss.read_index(self.mapped)
        except RuntimeError as error:
            raise InputError(
                f"the index is mapped from {self.mapped}, which cannot be read any more ({reason(error)}); newer "
                "versions replaced it. Load the index again, then change it."
            ) from error
        self.mapped = None
        self._remind()
        self.set_parameters(parameters)

    def _remind(self) -> None:
        """Tell 4-bit lists of their code books: faiss (1.15) forgets on reading, and dies when asked for a vector."""
        if self.factory.lists and self.factory.fast:
            scanned = innermost(self._faiss, self.index)[1]
            if scanned.fine_quantizer is None:
                scanned.fine_quantizer = scanned.pq

    def _as_scores(self, scores: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.metric == "euclidean":
            np.negative(scores, out=scores)
        missing = found < 0
        if missing.any():
            scores[missing] = -np.inf
        return scores, found

    def _selector(self, allowed: np.ndarray) -> Any:
        return self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))

    def _rotated(self, queries: np.ndarray) -> np.ndarray:
        """Return queries as the inverted lists see them."""
        rotation = innermost(self._faiss, self.index)[0]
        return np.ascontiguousarray(queries if rotation is None else rotation.apply(queries), dtype=np.float32)

    def _know_places(self) -> None:
        """Have the table that finds a vector's list, and its place there, by its position."""
        with self._making:
            lists = self._lists()
            if lists.direct_map.no():
                lists.make_direct_map(True)
                held = lists.direct_map.array
                self._list_of = (self._faiss.rev_swig_ptr(held.data(), held.size()) >> 32).astype(np.int32)
                self._sizes = np.bincount(self._list_of, minlength=self.factory.lists)

    def _down(self, index: Any) -> Any:
        return self._faiss.downcast_index(index)

    def _lists(self) -> Any:
        return self._faiss.try_extract_index_ivf(self.index) if self.factory.lists else None
