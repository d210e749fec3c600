"""What a command does not give: the number of an evaluation whose items are all of one class."""

from __future__ import annotations

from collections.abc import Iterable

from metrixkit.errors import InputError


def refuse_one_class(labels: Iterable[object], what: str) -> None:
    """Raise InputError where fewer than two classes are judged.

    A library call may ask about one class, and is told so; a result file and a page would be read as if they spoke of
    all of them, and a model that says one thing only can score 100 %.

    Args:
        labels: Of the items that count.
        what: What these are called, for messages ("evaluated queries").
    """
    classes = sorted({str(label) for label in labels})
    if len(classes) < 2:
        raise InputError(
            f"all {what} are of one class ({''.join(classes)!r}), and a number of one class says nothing of how well "
            "classes are told apart: 100 % would be easy to have. Evaluate items of two classes or more: see to the "
            "labels and the splits of the data (images of your own: data.split=photos holds out photos of every class)."
        )
