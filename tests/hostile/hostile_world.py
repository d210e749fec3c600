"""What hostile input is tried on: one tiny run, an index, embeddings with their table, photos, captions."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from metrixkit.__main__ import main

ROWS, DIM, CLASSES = 24, 6, 4
SETTINGS = [
    "model.backbone=small", "model.weights=none", "model.image_size=16", "model.dim=8", "model.freeze_batch_norm=false",
    "sampler.batch_size=8", "sampler.m=4", "training.epochs=1", "training.accelerator=cpu", "training.tensorboard=false",
    "loader.workers=0", "evaluation.recall_at=[1,2]",
]  # fmt: skip


@dataclass(frozen=True, repr=False)
class Answer:
    """What a command said.

    Attributes:
        status: Its exit status.
        out: Standard output.
        err: Standard error.
    """

    status: int
    out: str
    err: str

    def __repr__(self) -> str:
        return f"<status {self.status}; out ...{self.out[-300:]!r}; err {self.err[:600]!r}>"


def ask(*words: str | Path) -> Answer:
    """Run ``metrixkit WORDS`` in this process; an exception of it goes through, but for argparse's exit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's answer to what it cannot read
            status = stop.code if isinstance(stop.code, int) else 1
    return Answer(status, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class World:
    """Where things lie; nothing in it is changed, tests copy what they damage."""

    folder: Path
    config: Path

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def index(self) -> Path:
        return self.folder / "index"

    @property
    def embeddings(self) -> Path:
        return self.folder / "e.npy"

    @property
    def table(self) -> Path:
        return self.folder / "t.csv"

    def copy(self, part: str, place: Path) -> Path:
        """Return a fresh copy of a file or folder of the world, below `place`."""
        target = place / part
        if target.is_dir():
            shutil.rmtree(target)
        source = self.folder / part
        if source.is_dir():
            return Path(shutil.copytree(source, target))
        return Path(shutil.copy2(source, target))


def make(folder: Path, repository: Path) -> World:
    """Build the world."""
    world = World(folder, repository / "configs/own_images.yaml")
    draw = np.random.default_rng(0)
    for label in range(8):
        (world.photos / f"class{label}").mkdir(parents=True)
        colour = draw.integers(0, 255, 3)
        for number in range(4):
            pixels = np.clip(colour + draw.integers(-40, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(world.photos / f"class{label}" / f"{number}.png")
    labels = [f"c{row % CLASSES}" for row in range(ROWS)]
    centres = draw.normal(size=(CLASSES, DIM))
    vectors = np.stack([centres[row % CLASSES] for row in range(ROWS)]) + 0.3 * draw.normal(size=(ROWS, DIM))
    np.save(world.embeddings, vectors.astype(np.float32))
    world.table.write_text("id,label\n" + "".join(f"i{row},{label}\n" for row, label in enumerate(labels)))
    np.save(folder / "text.npy", vectors[:10].astype(np.float32))
    np.save(folder / "video.npy", vectors[10:20].astype(np.float32))
    (folder / "pairs.csv").write_text("video\n" + "".join(f"{row}\n" for row in range(10)))
    (folder / "captions.csv").write_text("video,caption\n" + "".join(f"v{row},a clip of {row}\n" for row in range(6)))
    (folder / "captions.json").write_text(json.dumps([{"video": "v0", "caption": "a clip"}]))
    for words in (
        ["train", world.config, f"data.root={world.photos}", *SETTINGS, "--run", world.run],
        ["index", "build", "--embeddings", world.embeddings, "--table", world.table, "--factory", "Flat", "--out", world.index],
    ):  # fmt: skip
        answer = ask(*words)
        assert answer.status == 0, answer
    return world
