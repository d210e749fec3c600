"""What a run is judged by: one evaluation a task, with its splits and protocols."""

from metrixkit.tasks.crossmodal import CrossModalTask
from metrixkit.tasks.missing_modalities import MissingModalities
from metrixkit.tasks.recommendation import Recommendation
from metrixkit.tasks.retrieval import Embedded, EvaluationSettings, Retrieval, file_under, judge

TASKS: dict[str, type] = {
    "retrieval": Retrieval,
    "recommendation": Recommendation,
    "crossmodal": CrossModalTask,
    "missing-modality": MissingModalities,
}
"""Name to the class that evaluates; its ``settings_type`` is what the section `evaluation` of a config holds."""

__all__ = [
    "TASKS",
    "CrossModalTask",
    "Embedded",
    "EvaluationSettings",
    "MissingModalities",
    "Recommendation",
    "Retrieval",
    "file_under",
    "judge",
]
