"""What the numbers of this room mean, as result files say it."""

from __future__ import annotations

from metrixkit.probing.labels import TOP
from metrixkit.probing.linear import FeatureProbe

INTRA_CLASS = {
    "intra_class_similarity": "Mean over classes of the mean cosine over pairs of different items of the class, -1 to "
    "1; 1 for a collapsed model."
}


def knn_definitions(k: int, temperature: float) -> dict[str, str]:
    """Return the definitions of ``knn@1`` and ``knn@5``."""
    return {
        f"knn@{top}": f"Share of items whose class is {_place(top)} that their {k:,} nearest labelled training items "
        f"(all, where there are fewer) vote for, each with weight exp(cosine / {temperature:g})."
        for top in TOP
    }


def feature_definitions(probe: FeatureProbe) -> dict[str, str]:
    """Return the definitions of ``linear@1`` and ``linear@5`` where features are at hand."""
    return {
        f"linear@{top}": f"Share of items whose class is {_place(top)} of a logistic regression on the standardised "
        f"features of one view of each labelled training item; regularisation {probe.strength:g} chosen on held-out "
        "training items, never on those judged."
        for top in TOP
    }


def trained_definitions(prefix: str, how: str) -> dict[str, str]:
    """Return the definitions of ``PREFIX@1``, ``PREFIX@5`` and ``oracle/PREFIX@1`` of a trained classifier.

    Args:
        prefix: "linear" or "semi".
        how: What was trained on what, in words.
    """
    found = {
        f"{prefix}@{top}": f"Share of items whose class is {_place(top)} of {how}; last epoch. Ties count against the "
        "item."
        for top in TOP
    }
    found[f"oracle/{prefix}@1"] = (
        f"The best {prefix}@1 over the epochs, chosen on the very items it is judged on: too good, stated as papers do."
    )
    return found


def _place(top: int) -> str:
    return "the first" if top == 1 else f"among the first {top}"
