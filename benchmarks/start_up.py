"""What a command costs before it does anything: processor seconds of a process of its own, the least of several.

``python benchmarks/start_up.py [--repeats 3]``. Wall time on a shared machine says nothing; user and system seconds of
a process hardly move. The floors, an empty Python and ``import torch``, come first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/glyphs_metrix.yaml"


def seconds(words: list[str], repeats: int) -> float:
    """Return the least user + system seconds of a process over some starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    best = float("inf")
    for _ in range(repeats):
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, _, usage = os.wait4(process.pid, 0)
        best = min(best, usage.ru_utime + usage.ru_stime)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        draw = np.random.default_rng(0)
        np.save(place / "e.npy", draw.normal(size=(40, 8)).astype(np.float32))
        (place / "t.csv").write_text("label\n" + "".join(f"{row % 4}\n" for row in range(40)))
        files = ["--embeddings", str(place / "e.npy"), "--table", str(place / "t.csv")]
        measured = {
            "python, nothing": ["-c", ""],
            "import torch": ["-c", "import torch"],
            "import torch, pandas": ["-c", "import torch, pandas"],
            "from metrixkit.losses import Metrix": ["-c", "from metrixkit.losses import Metrix"],
            "from metrixkit.retrieval import evaluate": ["-c", "from metrixkit.retrieval import evaluate"],
            "metrixkit --help": ["-m", "metrixkit", "--help"],
            "metrixkit evaluate --help": ["-m", "metrixkit", "evaluate", "--help"],
            "metrixkit train --help": ["-m", "metrixkit", "train", "--help"],
            "metrixkit train CONFIG training.epoch=1 (a spelling mistake)": [
                *("-m", "metrixkit", "train", CONFIG, "training.epoch=1"),
            ],
            "metrixkit compare (no run there)": ["-m", "metrixkit", "compare", str(place)],
            "metrixkit evaluate (no run there)": ["-m", "metrixkit", "evaluate", str(place)],
            "metrixkit evaluate --embeddings --table, 40 rows": ["-m", "metrixkit", "evaluate", *files],
            "metrixkit index build --embeddings --table, 40 rows": [
                *("-m", "metrixkit", "index", "build", *files, "--out", str(place / "index")),
            ],
        }
        for what, words in measured.items():
            print(f"{what:62} {seconds(words, 1 if 'build' in what else repeats):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
