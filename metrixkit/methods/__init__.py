"""Training recipes, one file each; they compose models, mixing and losses behind the seam."""

from __future__ import annotations

from metrixkit.methods.metric import MetricLearning

METHODS: dict[str, type] = {"metric": MetricLearning}

__all__ = ["METHODS", "MetricLearning"]
