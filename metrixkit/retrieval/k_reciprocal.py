"""k-reciprocal re-ranking: two items are near when their neighbourhoods, mutual ones only, overlap.

Legend of shapes: Q queries, N gallery items, M different items of both, b queries of a block.

Everything about neighbourhoods is sparse: M rows of a few dozen entries. Dense is one block of b x N distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from metrixkit.errors import InputError, did_you_mean
from metrixkit.retrieval.exact.nearest import neighbours
from metrixkit.retrieval.exact.setting import TIE, Pair, pair_up

if TYPE_CHECKING:
    from scipy import sparse  # imported where matrices are made: every evaluation reads this file, few re-rank

ENTRIES = 2**22  # distances of a block (32 MB)
PRODUCTS = 2**22  # numbers of a block of row products

Rule = Literal["released", "paper"]


def k_reciprocal(
    queries: Any,
    gallery: Any = None,
    query_ids: Any = None,
    gallery_ids: Any = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    rule: Rule = "released",
) -> np.ndarray:
    """Return the re-ranked distances between queries and gallery.

    With N(p, k) the item p itself and its k nearest among all items, queries and gallery together: R(p, k) holds the q
    of N(p, k) with p in N(q, k); R*(p) joins to R(p, k1) each R(q, k1/2) of its members q that shares more than two
    thirds of its items with R(p, k1). Row p of V holds exp(-d) to the members of R*(p), divided by their sum, and is
    then averaged over p and its k2 - 1 nearest. d_J = 1 - sum min(V_p, V_g) / sum max(V_p, V_g), and the result is
    (1 - weight) d_J + weight d, where d(p, g) is the squared distance of unit rows divided by the largest of p.

    "More than" is the authors' programme, which published numbers come from; equation 5 of their paper has "at least".
    Two thirds exactly is frequent among sets this small, so that the two rules seldom give the same distances.

    It assumes that all queries are at hand at once: queries take part in one another's neighbourhoods. A number made
    with it is not comparable with one made without, nor can a service that answers one query at a time reach it.

    Args:
        queries: (Q, d).
        gallery: (N, d); None searches each query among all the others.
        query_ids: (Q,) unique, or None.
        gallery_ids: (N,) unique; an id of both sides is one item.
        k1: Neighbours that may be reciprocal.
        k2: Rows that are averaged; 1 for none.
        weight: Of the original distance, in [0, 1]; 1 keeps the original order.
        rule: Who joins: "released", more than two thirds; or "paper", at least two thirds.

    Returns:
        (Q, N) float64 in [0, 1], lower is nearer; the distance of a query to itself is whatever it comes to, leave it
        out. For sizes where this matrix is too large use :func:`k_reciprocal_blocks`.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; k1 or k2 < 1; weight outside [0, 1]; another rule.

    Source:
        Zhong, Zheng, Cao and Li, Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, equations
        3 to 12; the scaling of d and of V's rows is that of the authors' programme, of which the paper says nothing.
        It computes V in half precision and sees an item that is query and gallery item twice; here it is one.
    """
    pair = pair_up(queries, gallery, query_ids, gallery_ids, "cosine")
    found = np.empty((pair.queries.count, pair.gallery.count))
    for rows, distances in k_reciprocal_blocks(pair, k1, k2, weight, rule):
        found[rows] = distances
    return found


@torch.no_grad()
def k_reciprocal_blocks(
    pair: Pair, k1: int = 20, k2: int = 6, weight: float = 0.3, rule: Rule = "released"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (b,) query positions and their (b, N) distances of :func:`k_reciprocal`."""
    if k1 < 1 or k2 < 1:
        raise InputError(f"k_reciprocal: k1={k1} and k2={k2} must be at least 1; 20 and 6 are the paper's.")
    if not 0 <= weight <= 1:
        raise InputError(f"k_reciprocal: weight={weight} must lie in [0, 1]; 0.3 is the paper's.")
    if rule not in get_args(Rule):
        raise InputError(f"k_reciprocal: rule={rule!r}.{did_you_mean(rule, get_args(Rule))} Known: released, paper.")
    # Every item once: a query that stands in the gallery is one item.
    extra = np.arange(0) if pair.gallery is pair.queries else np.setdiff1d(np.arange(pair.gallery.count), pair.own)
    items = pair.queries.take(slice(None))
    if len(extra):
        items = torch.cat([items, pair.gallery.take(extra)])
    place = np.empty(pair.gallery.count, dtype=np.int64)  # of each gallery item among the items
    shared = pair.own >= 0
    place[pair.own[shared]] = np.flatnonzero(shared)
    place[extra] = pair.queries.count + np.arange(len(extra))
    others = len(items) - 1
    index = neighbours(items, k=min(k1, others))[1]
    index = np.concatenate([np.arange(len(items))[:, None], index], axis=1)
    farthest = neighbours(-items, items, k=1)[0][:, 0]  # the nearest of the opposite
    longest = np.maximum(2 + 2 * farthest, TIE)
    encoded = _average(_encode(items, index, k1, longest, rule), index, k2)
    asked, there = encoded[: pair.queries.count], encoded[place].tocsc()
    searched = items if pair.gallery is pair.queries else items[place]
    step = max(1, ENTRIES // pair.gallery.count)
    for start in range(0, pair.queries.count, step):
        rows = np.arange(start, min(start + step, pair.queries.count))
        jaccard = _jaccard(asked[rows], there)
        if weight == 0:
            yield rows, jaccard
            continue
        cosines = items[rows] @ searched.T
        original = (2 - 2 * cosines).clamp_(min=0).cpu().numpy() / longest[rows, None]
        yield rows, (1 - weight) * jaccard + weight * original


def _encode(items: torch.Tensor, index: np.ndarray, k1: int, longest: np.ndarray, rule: Rule) -> sparse.csr_matrix:
    """Return V before averaging, (M, M)."""
    from scipy import sparse

    near = _reciprocal(index[:, : k1 + 1])
    half = _reciprocal(index[:, : round(k1 / 2) + 1])
    # Entry (p, q) counts what R(p, k1) shares with R(q, k1/2), for the q in R(p, k1). `half` is symmetric.
    common = near.multiply(near @ half).tocoo()
    sizes = half.getnnz(axis=1)
    shared, needed = 3 * common.data, 2 * sizes[common.col]
    joined = shared > needed if rule == "released" else shared >= needed
    chosen = sparse.csr_matrix((np.ones(joined.sum()), (common.row[joined], common.col[joined])), shape=near.shape)
    members = (near + chosen @ half).tocoo()
    cosines = np.empty(members.nnz)
    step = max(1, PRODUCTS // items.shape[1])
    for start in range(0, members.nnz, step):
        part = slice(start, start + step)
        cosines[part] = (items[members.row[part]] * items[members.col[part]]).sum(1).cpu().numpy()
    weights = np.exp(-np.maximum(2 - 2 * cosines, 0) / longest[members.row])
    encoded = sparse.csr_matrix((weights, (members.row, members.col)), shape=near.shape)
    return sparse.diags(1 / np.asarray(encoded.sum(axis=1)).ravel()) @ encoded


def _reciprocal(index: np.ndarray) -> sparse.csr_matrix:
    """Return (M, M), 1 where two items stand in each other's rows."""
    from scipy import sparse

    count, width = index.shape
    flat = (np.ones(count * width), (np.repeat(np.arange(count), width), index.ravel()))
    listed = sparse.csr_matrix(flat, shape=(count, count))
    return listed.multiply(listed.T).tocsr()


def _average(encoded: sparse.csr_matrix, index: np.ndarray, k2: int) -> sparse.csr_matrix:
    from scipy import sparse

    near = index[:, :k2]
    count, width = near.shape
    flat = (np.full(count * width, 1 / width), (np.repeat(np.arange(count), width), near.ravel()))
    return (sparse.csr_matrix(flat, shape=(count, count)) @ encoded).tocsr()


def _jaccard(asked: sparse.csr_matrix, there: sparse.csc_matrix) -> np.ndarray:
    """Return (b, N) 1 - sum min / sum max of rows that sum to one, from the columns that are not empty in both."""
    starts, lengths = there.indptr[asked.indices], np.diff(there.indptr)[asked.indices]
    before = np.cumsum(lengths) - lengths
    # Entry e of `asked` meets the column's entries starts[e] .. starts[e] + lengths[e].
    met = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    row = np.repeat(np.repeat(np.arange(asked.shape[0]), np.diff(asked.indptr)), lengths)
    smaller = np.minimum(np.repeat(asked.data, lengths), there.data[met])
    size = (asked.shape[0], there.shape[0])
    overlap = np.bincount(row * size[1] + there.indices[met], weights=smaller, minlength=size[0] * size[1])
    overlap = overlap.reshape(size)
    return 1 - overlap / (2 - overlap)
