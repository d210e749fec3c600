"""How well a recommender finds the items that users liked: full ranking, exact, by the ranks of the contract.

Legend of shapes: U users, I items, b users of a block, k the longest list asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.exact.rows import Distance
from metrixkit.retrieval.exact.setting import TIE, Pair, pair_up
from metrixkit.retrieval.result import Evaluation

BLOCK = 2**22  # scores held at once
FAR = torch.inf

DEFINITIONS = {
    "item_recall": "Mean over users of the share of their liked test items at rank <= {k} (information retrieval's "
    "recall; not this toolkit's recall@k, which asks for any).",
    "hit_rate": "Share of users with any liked test item at rank <= {k}.",
    "ndcg": "Mean over users of the sum of 1 / log2(1 + rank) over liked test items at rank <= {k}, divided by the "
    "most that min({k}, number of liked test items) could reach.",
    "map": "Mean over users of the sum, over liked test items at rank r <= {k}, of (liked items down to r) / r, "
    "divided by min({k}, number of liked test items).",
    "map_by_hits": "As map, divided by the number of liked test items at rank <= {k} instead (the DMM release's MAP): "
    "finding fewer items does not lower it.",
}


@torch.no_grad()
def evaluate_recommendations(
    users: Any,
    items: Any,
    liked: np.ndarray,
    exclude: np.ndarray,
    at: Sequence[int] = (1, 5, 10),
    distance: Distance = "euclidean",
    without_liked: Literal["zero", "leave_out"] = "zero",
    user_ids: Any = None,
    item_ids: Any = None,
) -> Evaluation:
    """Rank all items for all users and see where the liked ones stand.

    Every item that a user has not been trained on is a candidate: nothing is sampled. The t-th liked item of a user has
    rank t plus the number of other candidates that score better or equal.

    Args:
        users: (U, d) user vectors.
        items: (I, d) item vectors.
        liked: (n, 2) integers, user and item index: what should be found.
        exclude: (m, 2) integers: what is no candidate, such as all training pairs; must not be liked as well.
        at: The lengths k of the list.
        distance: How users score items: "euclidean" (nearer is better), "dot" or "cosine".
        without_liked: Users with candidates but without a liked item count as 0 in every mean ("zero", as the DMM
            release does) or not at all.
        user_ids: (U,) unique names for the per-user table; None numbers them.
        item_ids: (I,) unique names, for messages.

    Returns:
        item_recall@k, ndcg@k, map@k, map_by_hits@k and hit_rate@k as an :class:`Evaluation`, in [0, 1]; ``per_query``
        has a row for each user that counts. Users whose items are all excluded have no candidates; they never count and
        are in ``counts["without_candidates"]``.

    Raises:
        InputError: Vectors that are not finite or do not fit, indices out of range, no liked item at all, k < 1.
    """
    lengths = _lengths(at)
    pair = pair_up(users, items, user_ids, item_ids, distance)
    count, total = pair.queries.count, pair.gallery.count
    liked = _pairs(liked, "liked", count, total)
    exclude = _pairs(exclude, "exclude", count, total)
    if not len(liked):
        raise InputError("nothing to find: `liked` has no pair of user and item.")
    both = np.intersect1d(_key(liked, total), _key(exclude, total))
    if len(both):
        user, item = divmod(int(both[0]), total)
        raise InputError(
            f"user {pair.query_ids[user]} and item {pair.gallery_ids[item]} stand in `liked` and in `exclude` "
            f"({len(both)} such pairs): an item that was trained on cannot be asked for."
        )
    excluded = np.bincount(np.unique(_key(exclude, total)) // total, minlength=count)
    wanted = np.bincount(liked[:, 0], minlength=count)
    longest = max(lengths)
    ranks = np.zeros((len(liked),), dtype=np.int64)
    liked = liked[np.lexsort((liked[:, 1], liked[:, 0]))]
    exclude = exclude[np.argsort(exclude[:, 0], kind="stable")]
    asking = np.flatnonzero(wanted)
    step = max(1, BLOCK // total)
    done = 0
    for start in range(0, len(asking), step):
        rows = asking[start : start + step]
        found = _block(pair, rows, _of(liked, rows), _of(exclude, rows), longest)
        ranks[done : done + len(found)] = found
        done += len(found)
    counting = (excluded < total) & ((wanted > 0) | (without_liked == "zero"))
    table = _per_user(liked[:, 0], ranks, wanted, lengths)[counting]
    table.insert(0, "id", pair.query_ids[counting])
    metrics, definitions = {}, {}
    for name, text in DEFINITIONS.items():
        for k in lengths:
            metrics[f"{name}@{k}"] = float(table[f"{name}@{k}"].mean())
            definitions[f"{name}@{k}"] = text.format(k=k)
    definitions["convention"] = (
        f"Fractions in [0, 1]; every item outside the training pairs is ranked for every user; {distance} on float64 "
        f"vectors, scores within {TIE:g} (or their rounding, if wider) are equal and count against the liked item; "
        "users without a liked test item "
        + ("count as 0 in every mean." if without_liked == "zero" else "are left out of every mean.")
    )
    counts = {
        "queries": count,
        "gallery": total,
        "evaluated": int(counting.sum()),
        "without_relevant": int((wanted == 0).sum()),
        "without_candidates": int((excluded >= total).sum()),
        "liked": len(liked),
        "dimensions": pair.queries.dim,
    }
    return Evaluation(metrics, counts, definitions, table.reset_index(drop=True))


def popularity(liked: np.ndarray, users: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (U, 1) and (I, 1) vectors whose dot product is how often an item is liked in training.

    The baseline that every recommender must beat: the same list for everybody. Items liked equally often tie, and ties
    count against.
    """
    times = np.bincount(np.asarray(liked)[:, 1], minlength=items).astype(np.float64)
    return np.ones((users, 1)), times[:, None]


def _lengths(at: Sequence[int]) -> list[int]:
    lengths = list(dict.fromkeys(at))
    if not lengths or any(isinstance(k, bool) or int(k) != k or k < 1 for k in lengths):
        raise InputError(f"at={list(at)!r}: expected list lengths, whole numbers >= 1.")
    return [int(k) for k in lengths]


def _pairs(values: Any, name: str, users: int, items: int) -> np.ndarray:
    pairs = np.asarray(values)
    if pairs.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise InputError(f"{name}: expected (n, 2) integers, user and item, found {pairs.shape} of {pairs.dtype}.")
    if pairs.min() < 0 or pairs[:, 0].max() >= users or pairs[:, 1].max() >= items:
        raise InputError(f"{name}: an index lies outside the {users} users and {items} items.")
    pairs = pairs.astype(np.int64)
    if name == "liked" and len(np.unique(_key(pairs, items))) < len(pairs):
        raise InputError("liked: a pair of user and item stands twice.")
    return pairs


def _key(pairs: np.ndarray, items: int) -> np.ndarray:
    return pairs[:, 0] * items + pairs[:, 1]


def _of(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the pairs of the users `rows` (ascending), users renumbered by their place in it."""
    inside = pairs[np.searchsorted(pairs[:, 0], rows[0]) : np.searchsorted(pairs[:, 0], rows[-1], "right")]
    place = np.searchsorted(rows, inside[:, 0])
    here = rows[np.minimum(place, len(rows) - 1)] == inside[:, 0]
    return np.stack([place[here], inside[here, 1]], axis=1)


def _block(pair: Pair, rows: np.ndarray, liked: np.ndarray, exclude: np.ndarray, longest: int) -> np.ndarray:
    """Return the rank of each liked pair, in the order of `liked`; beyond `longest` some number above it."""
    costs = pair.costs(pair.queries.take(rows), pair.gallery.take(slice(None)))
    user, item = torch.from_numpy(liked.T.copy()).to(costs.device)
    out, gone = torch.from_numpy(exclude.T.copy()).to(costs.device)
    own = costs[user, item]
    costs[user, item] = FAR
    costs[out, gone] = FAR
    ahead = costs.topk(min(longest, costs.shape[1]), dim=1, largest=False, sorted=True).values
    tie = pair.tie(rows)[user]
    # The nearest others are enough: whoever has `longest` of them in front is beyond the list.
    others = torch.searchsorted(ahead[user], (own + tie)[:, None], right=True)[:, 0]
    others = torch.minimum(others, ahead[user].isfinite().sum(1))
    return (others + _place(user, own)).cpu().numpy()  # type: ignore[no-any-return]


def _place(user: Tensor, cost: Tensor) -> Tensor:
    """Return the 1-based place of each liked item among those of its user, by cost; users ascend."""
    order = cost.argsort(stable=True)
    order = order[user[order].argsort(stable=True)]
    starts = torch.searchsorted(user, user)
    place = torch.empty_like(user)
    place[order] = torch.arange(len(user), device=user.device)
    return place - starts + 1


def _per_user(user: np.ndarray, ranks: np.ndarray, wanted: np.ndarray, lengths: list[int]) -> pd.DataFrame:
    """Return the value of every metric for every user, 0 where nothing was found."""
    order = np.lexsort((ranks, user))
    user, ranks = user[order], ranks[order]
    place = np.arange(len(user)) - np.searchsorted(user, user) + 1
    count = len(wanted)
    columns: dict[str, np.ndarray] = {"relevant": wanted}
    for k in lengths:
        inside = ranks <= k

        def total(values: np.ndarray, inside: np.ndarray = inside) -> np.ndarray:
            return np.bincount(user[inside], weights=values[inside], minlength=count)

        hits = total(np.ones(len(user)))
        possible = np.minimum(wanted, k)
        best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
        gain, precision = total(1 / np.log2(ranks + 1)), total(place / ranks)
        columns[f"item_recall@{k}"] = hits / np.maximum(wanted, 1)
        columns[f"hit_rate@{k}"] = (hits > 0).astype(np.float64)
        columns[f"ndcg@{k}"] = gain / np.where(possible > 0, best[possible], 1)
        columns[f"map@{k}"] = precision / np.maximum(possible, 1)
        columns[f"map_by_hits@{k}"] = precision / np.maximum(hits, 1)
    return pd.DataFrame(columns)
