"""CLIM's selection a second time: float64 loops over single items, ties by a distance rounded to 12 places, then by index."""

from __future__ import annotations

import numpy as np


def distance(a, b):
    return round(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)), 12)


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


def table(rows):
    return [[distance(a, b) for b in rows] for a in rows]


def nearest(row, own, k):
    """Return the k nearest of a row of distances, without item `own`."""
    return sorted((j for j in range(len(row)) if j != own), key=lambda j: (row[j], j))[:k]


def assigned(rows, centres):
    return [min(range(len(centres)), key=lambda c: (distance(x, centres[c]), c)) for x in rows]


def sets(rows, centres, k):
    """Return Omega_1, Omega_2 (ordered) and Omega_p of every item."""
    own = assigned(rows, centres)
    to_centre = [distance(x, centres[c]) for x, c in zip(rows, own, strict=True)]
    between = table(rows)
    found = []
    for i in range(len(rows)):
        one = {j for j in range(len(rows)) if own[j] == own[i] and j != i}
        two = nearest(between[i], i, k)
        found.append((one, two, {j for j in two if j in one and to_centre[j] <= to_centre[i]}))
    return found


def filled(two, local, count):
    """Return the pool of reading A where no draw is needed."""
    return set([*(j for j in two if j in local), *(j for j in two if j not in local)][:count])
