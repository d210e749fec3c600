"""Who is asked for what: queries beside their gallery, names, labels, and which gallery item a query itself is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.labels import read_labels, refuse_two_forms
from metrixkit.retrieval.exact.rows import Distance, Rows, check_distance

TIE = 1e-12  # scores this near are equal


@dataclass(frozen=True)
class Pair:
    """Queries and their gallery.

    Attributes:
        queries: The query rows.
        gallery: The gallery rows; the same object as `queries` in self-retrieval.
        query_ids: (Q,) unicode.
        gallery_ids: (N,) unicode.
        own: (Q,) int64, position in the gallery of the query itself, -1 where it is not there.
        distance: "cosine", "euclidean" or "dot".
    """

    queries: Rows
    gallery: Rows
    query_ids: np.ndarray
    gallery_ids: np.ndarray
    own: np.ndarray
    distance: Distance

    def tie(self, index: slice | np.ndarray) -> Tensor:
        """Return (n,) how far apart two scores of each query may lie and still be equal.

        1e-12, and for un-normalised rows no less than what rounding can make of two equal scores: d eps |q| max|x| for
        "dot" and 4 (d + 2) eps max(|q|, max|x|)^2 for "euclidean" (eps = 2^-52, d dimensions). Otherwise equal items
        with long rows would no longer tie, and which of them came first would be chance.
        """
        lengths = self.queries.lengths[index]
        longest, eps = self.gallery.lengths.max(), 2.0**-52
        if self.distance == "cosine":
            rounding = torch.zeros_like(lengths)
        elif self.distance == "dot":
            rounding = self.queries.dim * eps * lengths * longest
        else:
            rounding = 4 * (self.queries.dim + 2) * eps * torch.maximum(lengths, longest).square()
        return rounding.clamp(min=TIE).to(self.queries.device)

    def costs(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """Return the (..., n, m) costs between rows of :meth:`Rows.take`: lower is nearer.

        The negative cosine or dot product, or the squared Euclidean distance; float64 in, float64 out.
        """
        products = queries @ gallery.mT
        if self.distance != "euclidean":
            return products.neg_()
        products.mul_(-2).add_(gallery.square().sum(-1).unsqueeze(-2)).add_(queries.square().sum(-1, keepdim=True))
        return products.clamp_(min=0.0)

    def costs_of(self, queries: np.ndarray, gallery: np.ndarray, compiled: bool = False) -> Tensor:
        """Return the (n,) float64 costs of single pairs, given by their positions; rows are read in portions.

        `compiled` lets numba compute the products where both sides are plain arrays.
        """
        costs = torch.empty(len(queries), dtype=torch.float64, device=self.queries.device)
        left, right = self.queries.plain(), self.gallery.plain()
        if left is not None and right is not None and self.distance != "euclidean":
            _dots(left, right, queries, gallery, costs.numpy(), compiled)
            if self.distance == "cosine":
                costs /= self.queries.lengths[queries] * self.gallery.lengths[gallery]
            return costs.neg_()
        step = max(1, (2**18 if costs.device.type == "cpu" else 2**25) // self.queries.dim)
        for a in range(0, len(queries), step):
            some, others = self.queries.take(queries[a : a + step]), self.gallery.take(gallery[a : a + step])
            if self.distance == "euclidean":
                costs[a : a + step] = some.sub_(others).square_().sum(1)
            else:
                costs[a : a + step] = some.mul_(others).sum(1).neg_()
        return costs


def _dots(
    queries: np.ndarray, gallery: np.ndarray, query: np.ndarray, item: np.ndarray, out: np.ndarray, compiled: bool
) -> None:
    """Write the float64 dot of each pair of rows into `out`."""
    if compiled:
        from metrixkit.retrieval.exact._kernels import pair_dots

        pair_dots(queries, gallery, query, item, out)
        return
    step = max(1, 2**18 // queries.shape[1])
    for a in range(0, len(query), step):
        left = queries[query[a : a + step]].astype(np.float64)
        right = gallery[item[a : a + step]].astype(np.float64)
        np.einsum("ij,ij->i", left, right, out=out[a : a + step])


def pair_up(queries: Any, gallery: Any, query_ids: Any, gallery_ids: Any, distance: str) -> Pair:
    """Check queries and gallery and settle which gallery item is the query itself.

    Without a gallery each query leaves by position. With one, a query leaves where its id stands among `gallery_ids`;
    without both lists of ids queries and gallery are taken to be different items.

    Raises:
        InputError: See :class:`.rows.Rows`; also unequal dimensions, repeated ids, wrong counts.
    """
    check_distance(distance)
    normalise = distance == "cosine"
    if gallery is None and gallery_ids is not None:
        raise InputError("gallery_ids were given without a gallery; leave them out, or give the gallery they name.")
    named = None if query_ids is None else read_ids(query_ids, "query_ids")
    query_rows = Rows(queries, "queries", named, normalise)
    ids = _ids_or_positions(named, query_rows.count, "query_ids", "queries")
    if gallery is None:
        return Pair(query_rows, query_rows, ids, ids, np.arange(query_rows.count), distance)  # type: ignore[arg-type]
    both_named = query_ids is not None and gallery_ids is not None
    if gallery is queries and not both_named:
        raise InputError(
            "gallery is the same object as queries and there are no ids, so every query would find itself. "
            "Leave gallery out (each item is then searched among all others), or give query_ids and gallery_ids."
        )
    named = None if gallery_ids is None else read_ids(gallery_ids, "gallery_ids")
    gallery_rows = Rows(gallery, "gallery", named, normalise, query_rows.device)
    if gallery_rows.dim != query_rows.dim:
        raise InputError(
            f"queries have {query_rows.dim} dimensions and the gallery has {gallery_rows.dim}; they must agree."
        )
    others = _ids_or_positions(named, gallery_rows.count, "gallery_ids", "gallery")
    own = np.full(query_rows.count, -1, dtype=np.int64)
    if both_named:
        place = {name: position for position, name in enumerate(others.tolist())}
        own = np.array([place.get(name, -1) for name in ids.tolist()], dtype=np.int64)
        # An id in another Unicode form would leave the query in its own gallery, as its nearest neighbour.
        refuse_two_forms((*ids[own < 0].tolist(), *place), "query_ids and gallery_ids")
    return Pair(query_rows, gallery_rows, ids, others, own, distance)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Labels:
    """Labels as given and as shared codes.

    Attributes:
        queries: (Q,) integers or unicode, as given.
        gallery: (N,) likewise.
        query_codes: (Q,) int64 in [0, classes).
        gallery_codes: (N,) int64, the same codes.
    """

    queries: np.ndarray
    gallery: np.ndarray
    query_codes: np.ndarray
    gallery_codes: np.ndarray


def label_up(pair: Pair, query_labels: Any, gallery_labels: Any) -> Labels:
    """Read the labels of a pair and give equal labels equal codes.

    Raises:
        InputError: Wrong counts, missing values, labels of the gallery without one or the other way round, or one id
            with two labels.
    """
    alone = pair.gallery is pair.queries
    if alone and gallery_labels is not None:
        raise InputError("gallery_labels were given without a gallery; leave them out, or give the gallery.")
    if not alone and gallery_labels is None:
        raise InputError("a gallery was given without gallery_labels; both are needed to know what is relevant.")
    asked = read_labels(query_labels, "query_labels")
    _check_count(asked, pair.queries.count, "query_labels", "queries")
    if alone:
        names, codes = np.unique(asked, return_inverse=True)
        _refuse_lookalikes(names, "query_labels")
        return Labels(asked, asked, codes.astype(np.int64), codes.astype(np.int64))
    there = read_labels(gallery_labels, "gallery_labels")
    _check_count(there, pair.gallery.count, "gallery_labels", "gallery")
    if asked.dtype.kind != there.dtype.kind:  # 7 from a tensor and "7" from a table are one class
        asked, there = asked.astype(str), there.astype(str)
    names, codes = np.unique(np.concatenate([asked, there]), return_inverse=True)
    _refuse_lookalikes(names, "query_labels and gallery_labels")
    query_codes, gallery_codes = codes[: len(asked)].astype(np.int64), codes[len(asked) :].astype(np.int64)
    clash = (pair.own >= 0) & (gallery_codes[pair.own] != query_codes)
    if clash.any():
        row = int(clash.argmax())
        raise InputError(
            f"id {str(pair.query_ids[row])!r} has label {asked[row]!r} among the queries and {there[pair.own[row]]!r} "
            f"in the gallery ({int(clash.sum())} such ids). One id is one item: mend the labels, or give the items "
            "different ids."
        )
    return Labels(asked, there, query_codes, gallery_codes)


def _refuse_lookalikes(labels: np.ndarray, what: str) -> None:
    if labels.dtype.kind == "U":
        refuse_two_forms(labels.tolist(), what)


def read_ids(values: Any, name: str) -> np.ndarray:
    """Return `values` as a (n,) unicode array; InputError where an id stands twice."""
    ids = read_labels(values, name).astype(str)
    unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1][first[counts > 1].argmin()]
        places = np.flatnonzero(ids == twice)
        raise InputError(
            f"{name}: {str(twice)!r} stands at positions {places[0]} and {places[1]} ({int((counts > 1).sum())} ids "
            "stand more than once). A query leaves its gallery by id, so ids must be unique."
        )
    return ids


def _ids_or_positions(ids: np.ndarray | None, count: int, name: str, owner: str) -> np.ndarray:
    if ids is None:
        return np.arange(count).astype(f"U{len(str(count - 1))}")
    _check_count(ids, count, name, owner)
    return ids


def _check_count(values: np.ndarray, count: int, name: str, owner: str) -> None:
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} values but {owner} has {count} rows; each row needs exactly one.")
