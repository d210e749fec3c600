"""How well a k-means clustering of embeddings agrees with their classes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.labels import read_labels
from metrixkit.retrieval.exact.rows import Distance, Rows, check_distance

ITERATIONS = 50
PLUS_PLUS_UP_TO = 1000  # clusters; k-means++ seeding beyond would cost more than the clustering itself


def nmi_ami(embeddings: Any, labels: Any, seed: int = 0, distance: Distance = "cosine") -> dict[str, float]:
    """Return {"nmi", "ami"} between the classes and a k-means clustering into as many clusters.

    The clustering is scikit-learn's KMeans with one seeded start, whether or not faiss is installed, so that every
    machine computes the same thing. One iteration costs items x classes x d multiply-adds: CUB's size (5,924 x 100 x
    512) took 1.5 s in all on one core; Stanford Online Products (60,502 x 11,316 x 512) has 1,000 times as many for
    each iteration and was not measured: expect many minutes.

    Args:
        embeddings: (N, d) rows; normalised in float64 for "cosine", as they are otherwise.
        labels: (N,) integers or strings.
        seed: Of the start.
        distance: "cosine", "euclidean" or "dot" (clustered as they are).

    Returns:
        Values in [0, 1] (ami may fall slightly below 0); higher is better. NMI grows with the number of clusters
        alone, AMI corrects for that: prefer it (Vinh et al., Information theoretic measures for clusterings
        comparison, JMLR 2010).

    Raises:
        InputError: As :func:`~metrixkit.retrieval.evaluate`; fewer than two classes.
    """
    check_distance(distance)
    rows = Rows(embeddings, "embeddings", None, distance == "cosine")
    values = read_labels(labels, "labels")
    if len(values) != rows.count:
        raise InputError(
            f"labels has {len(values)} values but embeddings has {rows.count} rows; each row needs exactly one."
        )
    return clustering_scores(rows.take(slice(None)), np.unique(values, return_inverse=True)[1], seed)[0]


def clustering_scores(rows: Tensor, codes: np.ndarray, seed: int) -> tuple[dict[str, float], str]:
    """Return NMI and AMI of (N, d) rows and (N,) class codes, and how they were computed, in words."""
    # Imported here: scikit-learn takes a second to load and most evaluations do not cluster.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

    classes = len(np.unique(codes))
    if classes < 2:
        raise InputError("nmi and ami compare clusters with classes; there is only one class.")
    start = "k-means++" if classes <= PLUS_PLUS_UP_TO else "random"
    means = KMeans(classes, init=start, n_init=1, max_iter=ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: a collapsed model. The low score says it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = means.fit_predict(rows.float().cpu().numpy())
    scores = {
        "nmi": float(normalized_mutual_info_score(codes, found)),
        "ami": float(adjusted_mutual_info_score(codes, found)),
    }
    return (
        scores,
        f"scikit-learn KMeans, {classes} clusters, {start} start, one run, at most {ITERATIONS} iterations, seed "
        f"{seed}.",
    )
