"""Glyphs, the embedded data set: characters in the faces that matplotlib ships, so that every door opens at once.

Class = character, instance = face x a seeded small affine change, zero-shot split by character. These are drawings,
not photographs, and no number on them is a published result.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import PIL
from PIL import features

from metrixkit.data.manifest import Manifest
from metrixkit.data.sets.drawn import drawn_once
from metrixkit.data.sets.glyph_images import ROTATION, SCALE, SHEAR, SHIFT, Faces, merge_alike
from metrixkit.errors import InputError

# Raise it when the drawing changes: caches of older versions are then left alone.
_FORMAT = 1


class Glyphs:
    """Characters as small pictures, drawn once and cached below ``$METRIXKIT_CACHE`` or ``~/.cache/metrixkit``.

    Characters that render alike (A in Latin, Greek and Cyrillic) are one class. At the defaults there are about 2,160
    classes and 29,400 pictures, drawn in seconds; raw pixels (cosine) find the right class first for 70 to 73 % of the
    pictures of the 400 test characters, depending on the seed.

    Args:
        size: Side of the pictures in pixels, 8 to 256.
        min_faces: Faces that must draw a character, 2 or more.
        test_classes: Characters kept for the test split.
        train_classes: Characters to train on; None takes all the others.
        seed: Seed of the affine changes and of the choice of characters. A picture depends on it, on its face and on
            its character only, so fewer classes give a subset of the same pictures.
    """

    def __init__(
        self,
        size: int = 32,
        min_faces: int = 12,
        test_classes: int = 400,
        train_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        for name, value, low, high in (("size", size, 8, 256), ("min_faces", min_faces, 2, 32)):
            if not low <= value <= high:
                raise InputError(f"glyphs: {name} must lie between {low} and {high}, it is {value}.")
        for name, count in (("test_classes", test_classes), ("train_classes", train_classes), ("seed", seed)):
            if count is not None and count < (0 if name == "seed" else 1):
                raise InputError(f"glyphs: {name} must be positive, it is {count}.")
        self.size, self.min_faces, self.seed = size, min_faces, seed
        self.test_classes, self.train_classes = test_classes, train_classes

    def read(self) -> Manifest:
        """Return the manifest; draws the pictures if they are not in the cache.

        Beside the usual columns the items have ``face``, ``character`` and ``name`` (its Unicode name). Labels are
        code points ("U+0041"), ids code point and face ("U+0041/DejaVuSans"), paths rows of one uint8 array.

        Raises:
            InputError: More characters were asked for than there are, or the cache cannot be written.
        """
        folder = self._cached()
        items = pd.read_csv(folder / "items.csv", dtype=str, keep_default_na=False, encoding="utf-8")
        classes = sorted(set(items["label"]))
        most = len(classes) - self.test_classes
        wanted = most if self.train_classes is None else self.train_classes
        if most < 1 or wanted > most:
            raise InputError(
                f"glyphs: {self.test_classes} test and {max(wanted, 1)} training characters were asked for, "
                f"{len(classes)} are drawn by {self.min_faces} faces or more; lower data.test_classes, "
                "data.train_classes or data.min_faces."
            )
        order = np.random.default_rng(self.seed).permutation(len(classes))
        split = {classes[i]: "test" for i in order[: self.test_classes]}
        split |= {classes[i]: "train" for i in order[self.test_classes : self.test_classes + wanted]}
        items = items[items["label"].isin(split)].reset_index()
        items["split"] = items["label"].map(split).astype("str")
        items["path"] = [f"{folder / 'images.npy'}#{row}" for row in items["index"]]
        return Manifest("glyphs", self._split_name(), items.drop(columns="index"), folder)

    def _split_name(self) -> str:
        usual = Glyphs()
        changed = [f"{key}={value}" for key, value in vars(self).items() if value != getattr(usual, key)]
        return "-".join(["zero-shot", *changed])

    def _cached(self) -> Path:
        """Return the folder with ``items.csv`` and ``images.npy``, made if need be."""
        import matplotlib

        key = {
            "format": _FORMAT,
            "size": self.size,
            "min_faces": self.min_faces,
            "seed": self.seed,
            "affine": [ROTATION, SCALE, SHEAR, SHIFT],
            # The fonts come with matplotlib, the rasters from Pillow and its FreeType.
            "matplotlib": matplotlib.__version__,
            "pillow": PIL.__version__,
            "freetype": features.version("freetype2"),
            "byteorder": sys.byteorder,
        }
        return drawn_once("glyphs", key, self._draw)

    def _draw(self, folder: Path) -> None:
        faces = Faces()
        characters = faces.characters(self.min_faces)
        rows, pictures = [], []
        for group in merge_alike(faces, characters):
            label = f"U+{group[0]:04X}"
            for name in faces.files:
                point = next((point for point in group if name in characters[point]), None)
                if point is None:
                    continue
                pictures.append(faces.picture(name, point, self.size, self.seed))
                title = unicodedata.name(chr(group[0]), label)
                rows.append((f"{label}/{name}", label, name, chr(group[0]), title))
        table = pd.DataFrame(rows, columns=["id", "label", "face", "character", "name"])
        table.to_csv(folder / "items.csv", index=False, encoding="utf-8")
        np.save(folder / "images.npy", np.stack(pictures))
