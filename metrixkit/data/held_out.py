"""What is held out of training to select a model by: whole classes, or images of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import pandas as pd

from metrixkit.data.manifest import Manifest, divisible, split_classes
from metrixkit.errors import InputError

# What readers write where a training image has no label: manifests hold no empty ones.
UNLABELLED = "unlabelled"


def with_validation(manifest: Manifest, share: float, seed: int) -> Manifest:
    """Hold out what selects a model that is judged by retrieval, as the split "validation".

    Whole training classes, at least two of them and not all but one, so that selection is by classes never trained on.
    Where fewer than four training classes have two images, and where the test split is of new images of known classes,
    a share of each class's images, which then search those that are left in training. Where not even that leaves two
    classes to tell apart, nothing: the split is absent, and the last epoch is kept.

    A manifest that has validation items already stays as it is, as does every one when `share` is 0.

    Args:
        manifest: Its split "train" is divided.
        share: Share of the training classes (or of each class's images) to move, in [0, 1).
        seed: What is moved is a pure function of the training items, `share` and `seed`.

    Returns:
        The manifest with the split "validation", or as it was; the order of the items is kept. Its ``held_out`` tells
        which.

    Raises:
        InputError: `share` lies outside [0, 1), or there is no split "train".
    """
    if "validation" in manifest.splits or share == 0:
        return manifest
    where = f"validation classes of {manifest.name!r}"
    if not 0.0 < share < 1.0:
        raise InputError(f"{where}: the share must lie between 0 and 1 (1 excluded), it is {share}.")
    labels = manifest.part("train").labels
    if divisible(labels) and "train" not in manifest.galleries("test"):
        moved = split_classes(labels, share, seed, where=where)
        items = manifest.items.copy()
        items.loc[(items["split"] == "train") & items["label"].isin(moved), "split"] = "validation"
        return _with(manifest, items, "classes")
    if sum(1 for label, n in Counter(labels).items() if n > 1 and label != UNLABELLED) < 2:
        return manifest
    held = with_held_out(manifest, share, seed)
    return replace(held, searches={**held.searches, "validation": ("train",)})


def with_held_out(manifest: Manifest, share: float, seed: int) -> Manifest:
    """Move a share of each class's training images to the split "validation", for model selection.

    A manifest that has validation items already stays as it is, as does every one when `share` is 0. Images labelled
    "unlabelled" stay in training; so do those of a class with a single one.

    Args:
        manifest: Its split "train" is divided.
        share: Share of each class to move, in [0, 1): rounded to whole images, at least one, never all.
        seed: Whether an image is moved is a pure function of its id, the ids of its class, `share` and `seed`.

    Returns:
        The manifest with the split "validation"; the order of the items is kept.

    Raises:
        InputError: `share` lies outside [0, 1), there is no split "train", or no class has two training images.
    """
    if "validation" in manifest.splits or share == 0:
        return manifest
    where = f"held-out images of {manifest.name!r}"
    if not 0.0 < share < 1.0:
        raise InputError(f"{where}: the share must lie between 0 and 1 (1 excluded), it is {share}.")
    training = manifest.part("train").items
    known = training[training["label"] != UNLABELLED]
    moved = share_of_each_class(known["id"].tolist(), known["label"].tolist(), share, seed)
    if not moved:
        raise InputError(
            f"{where}: not one class has two labelled training images, so none can be held out. Add images, or give "
            "the split yourself."
        )
    items = manifest.items.copy()
    items.loc[(items["split"] == "train") & items["id"].isin(moved), "split"] = "validation"
    return _with(manifest, items, "images")


def share_of_each_class(ids: Sequence[str], labels: Sequence[str], share: float, seed: int) -> set[str]:
    """Return the ids of about `share` of the items of each class: at least one, never all, none of a class of one.

    Args:
        ids: (N,) unique.
        labels: (N,).
        share: In (0, 1).
        seed: Whether an item is chosen is a pure function of its id, the ids of its class, `share` and `seed`.
    """
    classes: dict[str, list[str]] = {}
    for identity, label in zip(ids, labels, strict=True):
        classes.setdefault(label, []).append(identity)
    chosen: set[str] = set()
    for members in classes.values():
        if len(members) > 1:
            count = min(max(round(share * len(members)), 1), len(members) - 1)
            chosen.update(sorted(members, key=lambda identity: _place(identity, seed))[:count])
    return chosen


def _with(manifest: Manifest, items: pd.DataFrame, held_out: str) -> Manifest:
    # The published count of "train" no longer says anything about what is in it.
    expected = {k: n for k, n in manifest.expected.items() if k != "train"}
    return replace(manifest, items=items, expected=expected, held_out=held_out)


def _place(identity: str, seed: int) -> tuple[bytes, str]:
    """Return where an image stands in the random order of its class."""
    return blake2b(f"{seed}\0{identity}".encode(), digest_size=8).digest(), identity
