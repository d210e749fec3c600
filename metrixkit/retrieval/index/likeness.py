"""Whether the file of an index holds what its manifest says: else calls for lists or graphs would end the process."""

from __future__ import annotations

from typing import Any

from metrixkit.errors import InputError
from metrixkit.retrieval.index.factory import Factory
from metrixkit.retrieval.index.library import faiss_library

_CODECS = {"Flat": "Flat", "SQ8": "ScalarQuantizer", "SQfp16": "ScalarQuantizer", "PQ": "PQ"}
Layer = tuple[str, int, int, int]  # faiss's name of it, dimension, lists, bytes a vector; 0 where it has none


def check_kind(index: Any, factory: Factory, dim: int, metric: str, where: str) -> None:
    """Raise InputError unless a faiss index is of a kind, dimension and metric.

    Args:
        index: As faiss reads it.
        factory: The kind that was told.
        dim: Dimension of the vectors, likewise.
        metric: "cosine", "dot" or "euclidean", likewise.
        where: The file, for the message.
    """
    faiss = faiss_library()
    kind = faiss.METRIC_L2 if metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
    found, told = _layers(index), _told(factory, dim)
    if found != told or index.metric_type != kind or not index.is_trained:
        raise InputError(
            f"{where} does not hold what the manifest beside it says, {factory} of {dim} dimensions by {metric}; it "
            f"holds {' in '.join(f'{name} of {size}' for name, size, *_ in found)}. Files of different indexes were "
            "mixed; build it again."
        )


def _layers(index: Any) -> list[Layer]:
    faiss = faiss_library()
    whole, found = index, []  # what is taken from it lives as long as it does
    index = faiss.downcast_index(whole)
    while True:
        name = "IndexFlat" if isinstance(index, faiss.IndexFlat) else type(index).__name__
        found.append((name, int(index.d), int(getattr(index, "nlist", 0)), int(getattr(index, "code_size", 0))))
        if isinstance(index, faiss.IndexRefine):
            found += _layers(index.refine_index)
            index = faiss.downcast_index(index.base_index)
        elif isinstance(index, faiss.IndexPreTransform):
            index = faiss.downcast_index(index.index)
        elif isinstance(index, faiss.IndexHNSW):
            return found + _layers(index.storage)
        else:
            return found


def _told(factory: Factory, dim: int) -> list[Layer]:
    space, layers = factory.reduced or dim, []
    codec = _CODECS[factory.codec] + ("FastScan" if factory.fast else "")
    if factory.refine:
        layers += [("IndexRefineFlat", dim, 0, 0), ("IndexFlat", dim, 0, 4 * dim)]
    if factory.rotate:
        layers.append(("IndexPreTransform", dim, 0, 0))
    if factory.graph:
        layers.append((f"IndexHNSW{'SQ' if factory.codec == 'SQ8' else 'Flat'}", dim, 0, 0))
    name = f"IndexIVF{codec}" if factory.lists else f"Index{codec}"
    return [*layers, (name, space, factory.lists, factory.code_bytes(space))]
