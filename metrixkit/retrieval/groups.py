"""Ranking products instead of photos: gallery items in groups, each scored by the best of its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metrixkit.errors import InputError
from metrixkit.labels import read_labels
from metrixkit.retrieval.exact.dense import ranks_of_costs
from metrixkit.retrieval.exact.ranks import RankBlock
from metrixkit.retrieval.exact.setting import Labels, Pair

COSTS = 2**23  # costs held at once (64 MB): queries of a block times groups
QUERY_BLOCK, TILE = 1024, 2048


@dataclass(frozen=True)
class Groups:
    """The groups of a gallery.

    Attributes:
        codes: (N,) int64 in [0, G), the group of each gallery item.
        label_codes: (G,) int64, the label that all items of a group bear, in the codes of :class:`Labels`.
    """

    codes: np.ndarray
    label_codes: np.ndarray


def group_up(pair: Pair, labels: Labels, gallery_groups: Any) -> Groups:
    """Read the groups of a gallery.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        gallery_groups: (N,) integers or strings; in self-retrieval those of the queries.

    Raises:
        InputError: Wrong count, missing values, or a group whose items bear different labels.
    """
    names = read_labels(gallery_groups, "gallery_groups")
    if len(names) != pair.gallery.count:
        raise InputError(
            f"gallery_groups has {len(names)} values but the gallery has {pair.gallery.count} rows; each row needs "
            "exactly one."
        )
    unique, first, codes = np.unique(names, return_index=True, return_inverse=True)
    label_codes = labels.gallery_codes[first]
    mixed = labels.gallery_codes != label_codes[codes]
    if mixed.any():
        item = int(mixed.argmax())
        group = int(codes[item])
        raise InputError(
            f"group {str(unique[group])!r} holds items of label {str(labels.gallery[first[group]])!r} and of "
            f"label {str(labels.gallery[item])!r} ({len(np.unique(codes[mixed]))} such groups). A group is relevant or "
            "not as a whole, so its items need one label: mend the labels, or group by something finer."
        )
    return Groups(codes.astype(np.int64), label_codes)


def group_blocks(pair: Pair, labels: Labels, groups: Groups, depth: int | None = None) -> Iterator[RankBlock]:
    """Yield the exact ranks of the relevant groups of every query that has one, in blocks of queries.

    A group costs a query what its nearest item costs, the query itself left out; a group that only holds the query is
    not there for it. Relevant are the groups of the query's label. All pairs are computed in float64.

    Args:
        pair: Queries and gallery.
        labels: Their labels.
        groups: From :func:`group_up`.
        depth: Follow only this many relevant groups; None follows all.
    """
    device = pair.queries.device
    total = len(groups.label_codes)
    step = max(1, min(QUERY_BLOCK, COSTS // max(total, TILE)))
    codes = torch.from_numpy(groups.codes).to(device)
    group_labels = torch.from_numpy(groups.label_codes).to(device)
    query_labels = torch.from_numpy(labels.query_codes).to(device)
    for start in range(0, pair.queries.count, step):
        rows = np.arange(start, min(start + step, pair.queries.count))
        queries = pair.queries.take(rows)
        best = queries.new_full((len(rows), total), torch.inf)
        for tile in range(0, pair.gallery.count, TILE):
            costs = pair.costs(queries, pair.gallery.take(slice(tile, tile + TILE)))
            own = pair.own[rows] - tile
            inside = np.flatnonzero((own >= 0) & (own < costs.shape[1]))
            costs[torch.from_numpy(inside), torch.from_numpy(own[inside])] = torch.inf
            best.scatter_reduce_(1, codes[tile : tile + TILE].expand(len(rows), -1), costs, "amin")
        relevant = query_labels[start : start + len(rows), None] == group_labels
        yield ranks_of_costs(rows, best, relevant, pair.tie(rows), depth)
