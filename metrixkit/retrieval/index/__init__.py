"""The faiss index that people ship: build, search, change, save."""

from metrixkit.retrieval.index.choice import Choice, choose_factory
from metrixkit.retrieval.index.factory import OFFERED
from metrixkit.retrieval.index.retrieval_index import RetrievalIndex
from metrixkit.retrieval.index.table import NO_MATCH
from metrixkit.retrieval.index.threshold import Threshold
from metrixkit.retrieval.index.tuning import sweep

__all__ = ["NO_MATCH", "OFFERED", "Choice", "RetrievalIndex", "Threshold", "choose_factory", "sweep"]
