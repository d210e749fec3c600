"""What each metric says, in words for the reader of a page; the exact definition stands in docs/definitions.md."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The first pattern that fits a whole name counts; {0} is its first group.
_WORDS: tuple[tuple[str, str], ...] = (
    (r".*/optimistic", "The same where equal scores count for the query instead of against it."),
    (r"oracle/(.+)", "Best value of {0} over the epochs, chosen on the test split: too good, stated as papers do."),
    (r"median10/(.+)", "Median of {0} over the last ten epochs."),
    (r"last/(.+)", "{0} of the last epoch, whichever was selected."),
    (r"rerank/([^/]+)/(.+)", "{1} after re-ranking ({0}); its assumption stands in the definition."),
    (r"(?:.*/)?t2v/recall@(\d+)", "How many texts find their own video among the first {0}."),
    (r"(?:.*/)?v2t/recall@(\d+)", "How many videos find a text of their own among the first {0}."),
    (r"rsum", "All the recalls of both directions added up."),
    (r"(?:.*/)?recall@1", "How many queries find a picture of their own class first."),
    (r"(?:.*/)?recall@(\d+)", "How many queries find a picture of their own class among the first {0}."),
    (r"map@r", "Whether all pictures of a class come before the others: 100 % only if every single one does."),
    (r"map@(\d+)", "How early the pictures of the class come among the first {0} answers."),
    (r"r_precision", "Of as many answers as the class has other pictures, how many are of the class."),
    (r"precision@(\d+)", "Of the first {0} answers, how many are of the class."),
    (r"ndcg@(\d+)", "How early the pictures of the class come among the first {0}, later ones weighing less."),
    (r"mrr", "1 divided by the rank of the first right answer, on average."),
    (r"(?:.*/)?mean_rank", "At which place the first right answer stands, on average. Lower is better."),
    (r"(?:.*/)?median_rank", "At which place the first right answer stands for the middle query. Lower is better."),
    (r"top1", "How many pictures the classifier puts into their own class."),
    (r"top(\d+)", "How many have their class among the classifier's first {0} answers."),
    (r"nll", "How little the classifier believed in the right class, on average: 0 is never wrong and always sure."),
    (r"ece", "How far its probabilities are from how often it is right. 0 % is perfectly calibrated."),
    (r"(?:.*/)?knn@1", "How many pictures get their class by a vote of the most similar training pictures."),
    (r"(?:.*/)?knn@(\d+)", "How many have their class among the first {0} by that vote."),
    (r"(?:.*/)?linear@1", "How many pictures a linear classifier on the frozen features puts into their class."),
    (r"(?:.*/)?linear@(\d+)", "How many have their class among its first {0} answers."),
    (r"intra_class_similarity", "How similar pictures of one class are on average. 1 is all in one point."),
    (r"nmi|ami", "How well clusters found without labels agree with the classes."),
    (
        r"utilization",
        "How far a test picture lies from the nearest training picture. Low: what was trained on reaches where new "
        "classes fall.",
    ),
    (r"alignment", "How far pictures of one class lie from one another. Lower is tighter."),
    (r"uniformity", "How evenly pictures spread over the space. Lower is more even; 0 is all in one point."),
)
_COMPILED = [(re.compile(pattern), text) for pattern, text in _WORDS]

GEOMETRY: dict[str, str] = {
    "utilization": "Mean over test items of the squared distance to the nearest training item, unit rows, 0 to 4.",
    "alignment": "Mean squared distance over all pairs of different items of one class, unit rows, 0 to 4.",
    "uniformity": "log of the mean of exp(-2 |x - y|^2) over all pairs of different items, unit rows, -8 to 0.",
}
TOGETHER = (
    "Utilization, alignment and uniformity are distances, not shares, and are read together: a model that maps "
    "everything close to one point has low utilization and low alignment and is worth nothing. Compare them between "
    "runs of similar uniformity."
)


def in_words(name: str) -> str:
    """Return what a metric says in one or two short sentences, "" for a name that is not known."""
    for pattern, text in _COMPILED:
        found = pattern.fullmatch(name)
        if found:
            return text.format(*found.groups())
    return ""


def exact(names: list[str], definitions: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the definition of each name, and the sentence that they all end in, said once.

    Args:
        names: Metrics.
        definitions: Name to definition, from a result file.
    """
    found = {name: str(definitions.get(name) or GEOMETRY.get(name, "")) for name in names}
    given = [found[name] for name in names if name in definitions and not name.endswith("/optimistic")]
    ends = {text.rstrip().rsplit(". ", 1)[1] for text in given if ". " in text.rstrip()}
    shared = next((end for end in sorted(ends) if sum(text.endswith(". " + end) for text in given) > 1), "")
    return {name: text.removesuffix(" " + shared) if shared else text for name, text in found.items()}, shared
