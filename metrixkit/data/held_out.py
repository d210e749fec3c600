"""Held-out training images: selection where training and test share their classes."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError

# What readers write where a training image has no label: manifests hold no empty ones.
UNLABELLED = "unlabelled"


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
    training = manifest.part("train")
    classes: dict[str, list[str]] = {}
    for identity, label in zip(training.ids, training.labels, strict=True):
        if label != UNLABELLED:
            classes.setdefault(label, []).append(identity)
    moved: set[str] = set()
    for members in classes.values():
        if len(members) > 1:
            count = min(max(round(share * len(members)), 1), len(members) - 1)
            moved.update(sorted(members, key=lambda identity: _place(identity, seed))[:count])
    if not moved:
        raise InputError(
            f"{where}: not one class has two labelled training images, so none can be held out. Add images, or give "
            "the split yourself."
        )
    items = manifest.items.copy()
    items.loc[(items["split"] == "train") & items["id"].isin(moved), "split"] = "validation"
    # The published count of "train" no longer says anything about what is in it.
    return replace(manifest, items=items, expected={k: n for k, n in manifest.expected.items() if k != "train"})


def _place(identity: str, seed: int) -> tuple[bytes, str]:
    """Return where an image stands in the random order of its class."""
    return blake2b(f"{seed}\0{identity}".encode(), digest_size=8).digest(), identity
