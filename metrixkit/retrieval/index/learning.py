"""What an index learns before it takes vectors: centres of lists, code books, rotations; seeded, without a print."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from metrixkit.retrieval.index.factory import PER_LIST, Factory
from metrixkit.retrieval.index.library import faiss_library


def train(index: Any, factory: Factory, sample: np.ndarray, seed: int) -> None:
    """Train a faiss index of a kind.

    Args:
        index: Fresh from faiss's ``index_factory``.
        factory: Its kind.
        sample: (n, d) float32 rows.
        seed: Of every k-means.
    """
    if not factory.trains:
        return
    faiss = faiss_library()
    wanted = PER_LIST * factory.least_training()
    if (factory.lists or factory.parts) and len(sample) < wanted:
        warnings.warn(
            f"{factory} is trained on {len(sample)} vectors and wants {wanted} (39 a centre); fewer lists, or Flat, "
            "would serve better.",
            UserWarning,
            stacklevel=4,
        )
    rotation, inner = innermost(faiss, index)
    clusterings = [inner.cp] if factory.lists else []
    if factory.parts:
        clusterings.append(inner.pq.cp)
        if not factory.fast:
            inner.do_polysemous_training = False  # minutes of renumbering codes for a search that is not on offer
    books = None
    if rotation is not None:
        books = faiss.ProductQuantizer(rotation.d_out, rotation.M, 4 if factory.fast else 8)
        rotation.pq = books
        clusterings.append(books.cp)
    for clustering in clusterings:
        # Too few rows are warned of above; faiss would print.
        clustering.seed, clustering.min_points_per_centroid = seed, 1
    if factory.lists:
        # The rows are a sample already. (Code books go on drawing 256 a centre from it: more gain nothing.)
        inner.cp.max_points_per_centroid = max(256, len(sample))
    index.train(sample)
    if rotation is not None:
        rotation.pq = None  # it points to `books`, which goes with this call


def innermost(faiss: Any, index: Any) -> tuple[Any, Any]:
    """Return the rotation, or None, and the index that holds lists and code books."""
    rotation, index = None, faiss.downcast_index(index)
    while isinstance(index, faiss.IndexRefine | faiss.IndexPreTransform):
        if isinstance(index, faiss.IndexRefine):
            index = faiss.downcast_index(index.base_index)
        else:
            rotation = faiss.downcast_VectorTransform(index.chain.at(0))
            index = faiss.downcast_index(index.index)
    return rotation, index
