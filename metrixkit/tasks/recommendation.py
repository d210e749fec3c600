"""The task of recommending: ratings divided for training and evaluation, and how the vectors are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from metrixkit.data.sets.ratings import RatingSplit
from metrixkit.errors import InputError, did_you_mean
from metrixkit.models.factors import Factors
from metrixkit.retrieval import Evaluation
from metrixkit.retrieval.recommendation import DEFINITIONS, evaluate_recommendations, popularity


@dataclass
class RecommendationSettings:
    """How a recommender is judged.

    Attributes:
        protocol: ``validation`` holds out liked training pairs and selects on them. ``paper`` trains on all of them and
            looks at the test pairs after each evaluated epoch; the best is filed as ``oracle/...``, the median of the
            last ten as ``median10/...``.
        validation: Share of the liked training pairs held out under ``validation``; 0 keeps the last epoch.
        at: Lengths of the list, k.
        select_by: The metric that selects, higher being better.
        every: Epochs between evaluations.
        score: How users score items: by Euclidean distance or by dot product; ``auto`` takes what the loss trains (dot
            for BPR, distance for CML; the DMM release evaluates BPR by distance, too).
        without_liked: Users with nothing to find count as 0 (``zero``, the release's protocol) or not at all.
    """

    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.1
    at: list[int] = field(default_factory=lambda: [1, 5, 10])
    select_by: str = "ndcg@10"
    every: int = 1
    score: Literal["auto", "euclidean", "dot"] = "auto"
    without_liked: Literal["zero", "leave_out"] = "zero"


@dataclass
class Recommendation:
    """Full ranking of all items for all users.

    Attributes:
        split: All ratings, divided.
        settings: Protocol and metrics.
        score: "euclidean" or "dot".
        train: (n, 2) liked pairs that are trained on.
        validation: (m, 2) liked pairs held out for selection; empty for none.
    """

    settings_type: ClassVar[type] = RecommendationSettings
    unread: ClassVar[tuple[str, ...]] = ("transform", "loader", "training.compile")

    split: RatingSplit
    settings: RecommendationSettings
    score: Literal["euclidean", "dot"]
    train: np.ndarray
    validation: np.ndarray

    def __post_init__(self) -> None:
        offered = [f"{name}@{k}" for name in DEFINITIONS for k in self.settings.at]
        if self.settings.select_by not in offered:
            raise InputError(
                f"evaluation.select_by={self.settings.select_by!r} is not "
                f"computed.{did_you_mean(self.settings.select_by, offered)} Its lengths come from evaluation.at."
            )

    @property
    def selects(self) -> str | None:
        """Name of the watched metric that selects the best epoch; None where the last one is kept."""
        return f"validation/{self.settings.select_by}" if len(self.validation) else None

    def test(self, model: Factors) -> Evaluation:
        """Rank the items that a user has not rated in training, and look for the liked test items."""
        return self._evaluate(*model.vectors(), self.split.held_out, self.split.seen, self.score)

    def popularity(self) -> Evaluation:
        """The same for the list of the most liked items, which is everybody's."""
        users, items = popularity(self.split.liked, len(self.split.ratings.user_ids), len(self.split.ratings.item_ids))
        return self._evaluate(users, items, self.split.held_out, self.split.seen, "dot")

    def watch(self, model: Factors) -> dict[str, float]:
        """Return the watched metrics: on the validation pairs, or under ``paper`` on the test pairs."""
        if self.settings.protocol == "paper":
            if not len(self.split.held_out):
                return {}
            return {f"test/{name}": value for name, value in self.test(model).items()}
        if not len(self.validation):
            return {}
        # What is held out for the test stays among the candidates: nothing may tell that it is liked.
        count = len(self.split.ratings.item_ids)
        keys, held = (pairs[:, 0] * count + pairs[:, 1] for pairs in (self.split.seen, self.validation))
        exclude = self.split.seen[~np.isin(keys, held)]
        found = self._evaluate(*model.vectors(), self.validation, exclude, self.score)
        return {f"validation/{name}": value for name, value in found.items()}

    def _evaluate(
        self, users: object, items: object, liked: np.ndarray, exclude: np.ndarray, score: Literal["euclidean", "dot"]
    ) -> Evaluation:
        settings = self.settings
        return evaluate_recommendations(
            users,
            items,
            liked,
            exclude,
            settings.at,
            score,
            settings.without_liked,
            self.split.ratings.user_ids,
            self.split.ratings.item_ids,
        )


def hold_out(split: RatingSplit, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the liked training pairs without, and those of, a random share.

    Raises:
        InputError: A share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"evaluation.validation={share}: expected a share of the liked training pairs, 0 <= x < 1.")
    moved = np.zeros(len(split.liked), dtype=bool)
    rng = np.random.default_rng(seed)
    moved[rng.permutation(len(moved))[: round(share * len(moved))]] = True
    return split.liked[~moved], split.liked[moved]
