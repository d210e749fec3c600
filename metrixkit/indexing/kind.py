"""What kind of index to build."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """The choices of a build; see :meth:`metrixkit.retrieval.index.RetrievalIndex.build`.

    Attributes:
        factory: "auto" or a kind on offer.
        metric: "cosine", "dot" or "euclidean".
        memory_budget: For "auto", such as "2GB"; or None.
        latency_budget_ms: For "auto"; or None.
        seed: Of the training.
    """

    factory: str = "auto"
    metric: str = "cosine"
    memory_budget: str | None = None
    latency_budget_ms: float | None = None
    seed: int = 0
