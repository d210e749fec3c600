"""Compiled comparison (numba, the extra `fast`) of a tile of text-video scores with all its thresholds at one look.

Imported only where it is used. The compiled code is kept on disk beside this file or in the user's cache folder.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def compare(
    scores: np.ndarray,
    sizes: np.ndarray,
    row_least: np.ndarray,
    row_most: np.ndarray,
    column_least: np.ndarray,
    column_most: np.ndarray,
    found: np.ndarray,
    ahead: np.ndarray,
    reached: np.ndarray,
    passed: np.ndarray,
) -> None:
    """Add to the counts of a (n, V) tile whose rows come in groups of `sizes`.

    Writes found[:, 0] and found[:, 1], how many scores of each row are >= row_least and > row_most, and adds to
    ahead[0] and ahead[1], for how many groups a column holds a score >= column_least and > column_most. `reached` and
    `passed` are (V,) int32 to work in.
    """
    width = scores.shape[1]
    row = 0
    for size in sizes:
        reached[:] = 0
        passed[:] = 0
        for i in range(row, row + size):
            least, most = row_least[i], row_most[i]
            better, above = np.int32(0), np.int32(0)
            for j in range(width):
                score = scores[i, j]
                better += np.int32(score >= least)
                above += np.int32(score > most)
                reached[j] |= np.int32(score >= column_least[j])
                passed[j] |= np.int32(score > column_most[j])
            found[i, 0] = better
            found[i, 1] = above
        for j in range(width):
            ahead[0, j] += reached[j]
            ahead[1, j] += passed[j]
        row += size
