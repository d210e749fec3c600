"""Labels on grids that make an energy small, by alpha-beta swap over minimum cuts.

The energy of a labelling is the sum of each place's cost for its label and of ``weight * distance(label, label')`` over
neighbours above, below, left and right. A swap takes two labels and lets every place that has one of them choose
between the two at once, which one minimum cut answers exactly (Boykov, Veksler and Zabih, 2001); swaps are repeated
until none lowers the energy. Minimum cuts are scipy's, all grids of a batch in one graph.

B grids of n x m places, L labels; costs are integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def swap_labels(costs: Integers, below: Integers, right: Integers, distance: Integers) -> Integers:
    """Return labels that no swap of two labels improves, beginning with label 0 everywhere.

    Args:
        costs: (B, n, m, L) >= 0.
        below: (B, n - 1, m) >= 0, weight between a place and the one below it.
        right: (B, n, m - 1) >= 0, weight between a place and the one to its right.
        distance: (L, L) symmetric, 0 on the diagonal.

    Returns:
        (B, n, m) in 0..L-1. Like the result of any swap it may miss the least energy.
    """
    labels = np.zeros(costs.shape[:3], dtype=np.int64)
    least = energy(labels, costs, below, right, distance)
    pairs = [(a, b) for a in range(costs.shape[3]) for b in range(costs.shape[3] - 1, a, -1)]
    moving = np.arange(len(costs))
    while len(moving):
        parts = costs[moving], below[moving], right[moving], distance
        now, before = labels[moving], least[moving]
        reached = before
        for first, second in pairs:
            swapped = _swap(now, first, second, *parts)
            energies = energy(swapped, *parts)
            now = np.where((energies < reached)[:, None, None], swapped, now)
            reached = np.minimum(energies, reached)
        labels[moving], least[moving] = now, reached
        moving = moving[reached < before]
    return labels


def energy(labels: Integers, costs: Integers, below: Integers, right: Integers, distance: Integers) -> Integers:
    """Return (B,) the energy of each grid's labelling; arguments as for :func:`swap_labels`."""
    own = np.take_along_axis(costs, labels[..., None], axis=3).sum((1, 2, 3))
    vertical = (below * distance[labels[:, :-1], labels[:, 1:]]).sum((1, 2))
    horizontal = (right * distance[labels[:, :, :-1], labels[:, :, 1:]]).sum((1, 2))
    return np.asarray(own + vertical + horizontal)


def _swap(
    labels: Integers, first: int, second: int, costs: Integers, below: Integers, right: Integers, distance: Integers
) -> Integers:
    """Return the best labelling in which places with one of two labels have one of the two, the others theirs."""
    active = (labels == first) | (labels == second)
    # What `second` costs more than `first`, in a place and towards neighbours that stand still.
    extra = costs[..., second] - costs[..., first]
    beside = np.where(active, 0, distance[labels, second] - distance[labels, first])
    extra[:, :-1] += below * beside[:, 1:]
    extra[:, 1:] += below * beside[:, :-1]
    extra[:, :, :-1] += right * beside[:, :, 1:]
    extra[:, :, 1:] += right * beside[:, :, :-1]
    step = distance[first, second]
    chosen = _binary_cut(
        np.where(active, extra, 0),
        step * below * (active[:, :-1] & active[:, 1:]),
        step * right * (active[:, :, :-1] & active[:, :, 1:]),
    )
    return np.where(active, np.where(chosen, second, first), labels)


def _binary_cut(extra: Integers, below: Integers, right: Integers) -> NDArray[np.bool_]:
    """Return (B, n, m) bool of least ``sum extra[chosen] + sum weight[one of two neighbours chosen]``."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    places = np.arange(extra.size).reshape(extra.shape)
    source, sink = extra.size, extra.size + 1
    flat = extra.ravel()
    dear, cheap = np.flatnonzero(flat > 0), np.flatnonzero(flat < 0)
    neighbours = [(places[:, :-1], places[:, 1:], below), (places[:, :, :-1], places[:, :, 1:], right)]
    edges = [(dear, np.full(len(dear), sink), flat[dear]), (np.full(len(cheap), source), cheap, -flat[cheap])]
    edges += [(a.ravel(), b.ravel(), weight.ravel()) for a, b, weight in neighbours]
    edges += [(b.ravel(), a.ravel(), weight.ravel()) for a, b, weight in neighbours]
    begin, end, capacity = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = csr_matrix((capacity.astype(np.int32), (begin, end)), shape=(extra.size + 2,) * 2)
    left_over = graph - maximum_flow(graph, source, sink).flow
    left_over.data[left_over.data < 0] = 0
    left_over.eliminate_zeros()
    chosen = np.zeros(extra.size + 2, dtype=bool)
    chosen[breadth_first_order(left_over, source, return_predecessors=False)] = True
    return chosen[: extra.size].reshape(extra.shape)
