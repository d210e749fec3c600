"""Glyphs with words and motion, embedded: a character moves, and a sentence tells which, in which face, and how.

These are drawings, not videos, and no number on them is a published result.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import PIL
from PIL import features

from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.sets.drawn import drawn_once
from metrixkit.data.sets.glyph_images import Faces
from metrixkit.data.sets.glyph_motion import MOTIONS, clip, style_of
from metrixkit.data.sets.glyph_outlines import Outlines
from metrixkit.data.sets.glyphs import Glyphs
from metrixkit.errors import InputError

# Raise it when the drawing changes: caches of older versions are then left alone.
_FORMAT = 1
_OUTLINE_POINTS = 64
_WORDINGS = ("{name}, {style}, {motion}", "{motion}: a {style} {name}", "the {style} character {name} is {motion}")


class GlyphsVideoText:
    """Characters in motion with captions: "latin small letter a, bold italic serif, moving right".

    An item is a character in a face; it has a clip ("video", 8 frames of 32 pixels), the still picture of
    :class:`Glyphs` ("image"), its outline ("outline", 64 points (x, y, begins a contour)) and its Unicode name ("name",
    text). The column ``label`` is the character, ``face``, ``style`` and ``motion`` tell the rest. Drawn in seconds,
    cached below ``$METRIXKIT_CACHE`` or ``~/.cache/metrixkit``.

    Args:
        characters: How many of the characters of :class:`Glyphs` to take.
        split: "clips" tests on clips whose character is in training too, in other faces; "characters" on characters
            that are not.
        test_share: Share of the clips or of the characters for the test split, in (0, 1).
        captions: Captions of a clip, in 1 to 3 wordings.
        frames: Frames of a clip, 2 to 64.
        size: Side of the frames in pixels, 8 to 256.
        seed: Seed of the choice, the motions and the small changes. What is drawn of a character depends on it, the
            face and the character only.
    """

    def __init__(
        self,
        characters: int = 300,
        split: Literal["clips", "characters"] = "clips",
        test_share: float = 0.25,
        captions: int = 1,
        frames: int = 8,
        size: int = 32,
        seed: int = 0,
    ) -> None:
        limits = (("captions", captions, 1, len(_WORDINGS)), ("frames", frames, 2, 64), ("size", size, 8, 256))
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise InputError(f"glyphs_video_text: {name} must lie between {low} and {high}, it is {value}.")
        if characters < 2 or seed < 0 or not 0.0 < test_share < 1.0:
            raise InputError(
                f"glyphs_video_text: characters={characters} must be 2 or more, seed={seed} 0 or more, "
                f"test_share={test_share} between 0 and 1 (both excluded)."
            )
        self.characters, self.split, self.test_share, self.captions = characters, split, test_share, captions
        self.frames, self.size, self.seed = frames, size, seed

    def read(self) -> PairManifest:
        """Return the manifest; draws clips and outlines if they are not in the cache.

        Raises:
            InputError: More characters were asked for than there are, or the cache cannot be written.
        """
        still = Glyphs(size=self.size, seed=self.seed).read()
        labels = still.classes()
        if self.characters > len(labels):
            raise InputError(
                f"glyphs_video_text: {self.characters} characters were asked for, there are {len(labels)}."
            )
        generator = np.random.default_rng([self.seed, 2])
        order = [labels[i] for i in generator.permutation(len(labels))[: self.characters]]
        items = still.items[still.items["label"].isin(order)]
        # A few faces draw a merged character (A in Latin, Greek, Cyrillic) by another of its code points only.
        faces = Faces()
        drawn = [faces.has(face, ord(c)) for face, c in zip(items["face"], items["character"], strict=True)]
        items = items[drawn].reset_index(drop=True)
        items = items.rename(columns={"path": "image"}).assign(name=items["name"].str.lower())
        items["style"] = [style_of(face) for face in items["face"]]
        items["motion"] = [self._motion(label, face) for label, face in zip(items["label"], items["face"], strict=True)]
        items["split"] = self._splits(items, order, generator)
        folder = drawn_once("glyphs-video-text", self._key(), lambda place: self._draw(place, items, faces))
        items["video"] = [f"{folder / 'clips.npy'}#{row}" for row in range(len(items))]
        items["outline"] = [f"{folder / 'outlines.npy'}#{row}" for row in range(len(items))]
        texts = [
            (f"{row.id}#{number}", wording.format(name=row.name, style=row.style, motion=row.motion), row.id, row.split)
            for row in items.itertuples(index=False)
            for number, wording in enumerate(_WORDINGS[: self.captions])
        ]
        return PairManifest(
            "glyphs_video_text",
            self._split_name(),
            items.astype("str"),
            pd.DataFrame(texts, columns=["id", "caption", "item", "split"], dtype="str"),
            {"video": "video", "image": "image", "outline": "features", "name": "text"},
            folder,
        )

    def _motion(self, label: str, face: str) -> str:
        draw = np.random.default_rng([self.seed, zlib.crc32(label.encode()), zlib.crc32(face.encode()), 3])
        return MOTIONS[int(draw.integers(len(MOTIONS)))]

    def _splits(self, items: pd.DataFrame, order: list[str], generator: np.random.Generator) -> list[str]:
        if self.split == "characters":
            test = set(order[: min(max(round(self.test_share * len(order)), 1), len(order) - 1)])
            return ["test" if label in test else "train" for label in items["label"]]
        chosen: set[int] = set()
        left = items["label"].value_counts().to_dict()
        for row in generator.permutation(len(items)).tolist():
            label = items["label"][row]
            # Every test clip's character stays in training with two clips or more.
            if len(chosen) < round(self.test_share * len(items)) and left[label] > 2:
                chosen.add(row)
                left[label] -= 1
        return ["test" if row in chosen else "train" for row in range(len(items))]

    def _split_name(self) -> str:
        usual = GlyphsVideoText()
        changed = [f"{key}={value}" for key, value in vars(self).items() if value != getattr(usual, key)]
        return "-".join([self.split, *(entry for entry in changed if not entry.startswith("split="))])

    def _key(self) -> dict[str, object]:
        import matplotlib

        return {
            "format": _FORMAT,
            "characters": self.characters,
            "frames": self.frames,
            "size": self.size,
            "seed": self.seed,
            "matplotlib": matplotlib.__version__,
            "pillow": PIL.__version__,
            "freetype": features.version("freetype2"),
        }

    def _draw(self, folder: Path, items: pd.DataFrame, faces: Faces) -> None:
        outlines = Outlines(faces.files, _OUTLINE_POINTS)
        clips, paths = [], []
        for face, character, motion in zip(items["face"], items["character"], items["motion"], strict=True):
            point = ord(character)
            clips.append(clip(faces, face, point, motion, self.size, self.frames, self.seed))
            paths.append(outlines.outline(face, point))
        np.save(folder / "clips.npy", np.stack(clips))
        np.save(folder / "outlines.npy", np.stack(paths))
