"""What a run is judged by: one evaluation a task, with its splits and protocols."""

from metrixkit.tasks.classification import Classification, ClassificationSettings
from metrixkit.tasks.crossmodal import CrossModalTask
from metrixkit.tasks.missing_modalities import MissingModalities
from metrixkit.tasks.recommendation import Recommendation
from metrixkit.tasks.retrieval import Embedded, EvaluationSettings, Retrieval, file_under, judge
from metrixkit.tasks.self_supervised import SelfSupervised, SelfSupervisedSettings

TASKS: dict[str, type] = {
    "retrieval": Retrieval,
    "classification": Classification,
    "recommendation": Recommendation,
    "crossmodal": CrossModalTask,
    "missing-modality": MissingModalities,
    "self-supervised": SelfSupervised,
}
"""Name to the class that evaluates.

Its ``settings_type`` is what the section `evaluation` of a config holds; ``unread`` names sections and settings that
its runs never read, so that a config which changes them is refused; ``reads_frames`` says that `frames` is its section.
"""

__all__ = [
    "TASKS",
    "Classification",
    "ClassificationSettings",
    "CrossModalTask",
    "Embedded",
    "EvaluationSettings",
    "MissingModalities",
    "Recommendation",
    "Retrieval",
    "SelfSupervised",
    "SelfSupervisedSettings",
    "file_under",
    "judge",
]
