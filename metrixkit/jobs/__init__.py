"""What can be trained: one file a kind, each answering what :mod:`metrixkit.experiment` asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from metrixkit.jobs import images, modalities, pairs, ratings
from metrixkit.jobs.job import Job
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

JOBS: dict[str, Callable[[Mapping[str, Any], Fabric, RunFolder], Job]] = {
    "retrieval": images.assemble,
    "recommendation": ratings.assemble,
    "crossmodal": pairs.assemble,
    "missing-modality": modalities.assemble,
}
"""Name of the task to what builds its run; a task of one's own is an evaluation of images."""
