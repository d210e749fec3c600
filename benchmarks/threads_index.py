"""Threads that search one index while another changes and saves it, for a while: errors and wrong answers are counted.

    OMP_NUM_THREADS=1 python benchmarks/threads_index.py [--seconds 60] [--threads 8] [--kinds Flat HNSW16 ...]

3,000 x 32 seeded rows. The first 1,000 items stay, and each asks for itself: with nprobe, efSearch and k_factor set to
find everything it must answer with its own id at the score 1, alone, in a batch, through a filter and within a radius.
A thread adds 40 items far away, updates 5 of them, removes them again with one that was there, and every tenth time
saves, loads and compares. The time is shared by the kinds.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from metrixkit._faiss import load_faiss
from metrixkit.retrieval import RetrievalIndex

KINDS = ("Flat", "SQ8", "HNSW16", "IVF32,Flat", "IVF32,SQ8", "IVF32,PQ16x4fs,RFlat")
COUNT, STAY, DIM = 3000, 1000, 32
THOROUGH = {"nprobe": 32, "efSearch": 400, "k_factor": 100}


class Trial:
    """One kind of index, searched and changed at once.

    Args:
        kind: The factory.
        folder: Where it is saved.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.rows = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
        self.ids = np.array([f"i{k}" for k in range(COUNT)])
        self.index = RetrievalIndex.build(self.rows, self.ids, kind)
        self.index.set_parameters(**{name: THOROUGH[name] for name in self.index.parameters})
        self.folder, self.done, self.told = folder, threading.Event(), Counter[str]()
        self.stays = set(self.ids[:STAY])

    def count(self, what: str, wrong: int = 0) -> None:
        """Count an event, and wrong answers in it."""
        self.told[what] += 1
        self.told["wrong"] += wrong

    def search(self, seed: int) -> None:
        """Ask items for themselves until all is done."""
        draw = np.random.default_rng(seed)
        while not self.done.is_set():
            some = draw.integers(STAY, size=20)
            asked, own = self.rows[some], self.ids[some]
            scores, found = self.index.search(asked, 3)
            self.count("batches", int((found[:, 0] != own).sum() + (np.abs(scores[:, 0] - 1) > 0.02).sum()))
            self.count("single", int(self.index.search(asked[0], 1)[1][0] != own[0]))
            found = self.index.search(asked[:3], 2, filter=lambda name: name in self.stays)[1]
            self.count("filtered", int((found[:, 0] != own[:3]).sum()))
            within = self.index.range_search(asked[:2], 0.98)[1]
            self.count("within a radius", sum(name not in near for name, near in zip(own, within, strict=False)))

    def change(self) -> None:
        """Add, update, remove, save and load until all is done."""
        draw, turn = np.random.default_rng(1), 0
        while not self.done.is_set():
            rows = draw.standard_normal((40, DIM)).astype(np.float32)
            names = [f"x{turn}/{j}" for j in range(40)]
            self.index.add(rows, names)
            self.index.update(rows[:5] + 1, names[:5])
            gone = [self.ids[STAY + turn]] if turn < COUNT - STAY - 500 else []
            self.index.remove([*names, *gone])
            self.count("changes")
            if turn % 10 == 0:
                self.index.save(self.folder)
                loaded = RetrievalIndex.load(self.folder)
                self.count("saves", int(len(loaded) != len(self.index)))
            if turn % 50 == 49:
                self.index.compact()
            turn += 1

    def guarded(self, work: object, *values: object) -> None:
        """Run a thread's work; an error is counted and ends the trial."""
        try:
            work(*values)  # type: ignore[operator]
        except Exception as error:
            self.told[f"{type(error).__name__}: {error}"] += 1
            self.told["errors"] += 1
            self.done.set()

    def run(self, threads: int, seconds: float) -> Counter[str]:
        """Run for so many seconds and return what was counted."""
        workers = [threading.Thread(target=self.guarded, args=(self.search, seed)) for seed in range(threads)]
        workers.append(threading.Thread(target=self.guarded, args=(self.change,)))
        for worker in workers:
            worker.start()
        self.done.wait(seconds)
        self.done.set()
        for worker in workers:
            worker.join()
        return self.told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = parser.parse_args()
    load_faiss().omp_set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    whole = Counter[str]()
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            start = time.monotonic()
            told = Trial(kind, Path(folder) / "index").run(options.threads, options.seconds / len(options.kinds))
        print(f"{kind}, {time.monotonic() - start:.0f} s: {dict(told)}", flush=True)
        whole += told
    print(f"errors {whole['errors']}, wrong answers {whole['wrong']}")
    raise SystemExit(1 if whole["errors"] or whole["wrong"] else 0)


if __name__ == "__main__":
    main()
