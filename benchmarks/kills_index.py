"""Index verbs killed (SIGKILL) at random moments: is the folder whole, the old version or the new one?

    OMP_NUM_THREADS=1 python benchmarks/kills_index.py [--kills 100] [--seed 0]

Each kill takes a copy of one saved index (2,000 x 16, IVF16,Flat or HNSW8, with labels and paths), forks a child that
runs one verb through the command line's own entry, kills it after a random share of the time the verb takes, and then
looks: the index must load with all checksums and hold exactly what it held before or what the verb makes of it, its
table of paths must cover its items, and the same verb run again (or, where the kill came after the end, another change)
must succeed and leave no more versions than the last two and one that was on its way. "build new" must leave no folder
or a whole one; `search --out` no results, or all of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import index
from metrixkit._faiss import load_faiss
from metrixkit.indexing import verbs  # imported before the fork, not in each child
from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import store

COUNT, DIM = 2000, 16
State = tuple[str, ...] | None


def written(folder: Path, name: str, count: int, seed: int, ids: Sequence[str]) -> list[str]:
    """Write embeddings and their table and return the options that name them."""
    np.save(folder / f"{name}.npy", np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32))
    table = pd.DataFrame({"id": ids, "label": [f"l{i % 7}" for i in range(count)], "path": [f"/p/{i}" for i in ids]})
    table.to_csv(folder / f"{name}.csv", index=False)
    return ["--embeddings", str(folder / f"{name}.npy"), "--table", str(folder / f"{name}.csv")]


def state(folder: Path) -> State:
    """Return all that an index says and answers, or None where there is none; raise where it is not whole."""
    if not folder.exists():
        return None
    found = RetrievalIndex.load(folder)
    known, ids = found.info(), found.ids
    items = pd.read_csv(folder / "items.csv", dtype=str)
    if not set(ids) <= set(items["id"]):
        raise ValueError("items.csv lacks items of the index")
    answers = found.search(np.random.default_rng(9).standard_normal((20, DIM)), 5)[1]
    labels = np.empty(0, "U1") if found.labels is None else found.labels
    parts = (ids, labels, answers.ravel(), found.reconstruct(ids).astype("f2").ravel().astype(str)[::37])
    told = str([known[name] for name in ("count", "factory", "parameters", "threshold", "tombstones")])
    return (told, *("\n".join(part.tolist()) for part in parts))


def start(words: Sequence[str]) -> int:
    """Run a verb in a forked child without a word; return its process id."""
    child = os.fork()
    if child:
        return child
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os._exit(index.main(list(words)))


def ended(child: int) -> bool:
    """Wait for a child and tell whether it ended by itself, without an error."""
    status = os.waitpid(child, 0)[1]
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def verbs_on(folder: Path, data: dict[str, list[str]], results: Path) -> dict[str, list[str]]:
    """Return the command line of each verb."""
    gone = ",".join(f"i{i}" for i in range(100, 300))
    return {
        "build new": ["build", "--out", str(folder), "--factory", "Flat", *data["whole"]],
        "build over": ["build", "--out", str(folder), "--factory", "SQ8", *data["other"]],
        "add": ["add", str(folder), *data["more"]],
        "add --replace": ["add", str(folder), "--replace", *data["again"]],
        "remove": ["remove", str(folder), "--ids", gone],
        "remove --compact": ["remove", str(folder), "--ids", gone, "--compact"],
        "tune --set": ["tune", str(folder), "--set", "PARAMETER"],
        "threshold": ["threshold", str(folder), "--false-match-rate", "0.01", "--force", *data["more"]],
        "search --out": ["search", str(folder), "--out", str(results), "-k", "3", *data["more"][:2]],
    }


def trial(
    verb: str, words: list[str], base: Path, work: Path, moment: float, known: dict[str, tuple[State, float]]
) -> str:
    """Kill one verb and return what was found: "old", "new", or what was wrong."""
    folder, results = work / "ix", work / "r.csv"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        results.unlink(missing_ok=True)
        if verb != "build new":
            shutil.copytree(base, folder)

    prepare()
    before = state(folder)
    key = f"{base.name} {verb}"
    if key not in known:  # once to the end, to know what it makes and how long it takes
        began = time.monotonic()
        if not ended(start(words)):
            return "fails without a kill"
        known[key] = state(folder), time.monotonic() - began
        if verb == "search --out":
            known[f"{base.name} results"] = (results.read_text(),), 0.0
        prepare()
    after, seconds = known[key]
    child = start(words)
    time.sleep(moment * seconds)
    os.kill(child, signal.SIGKILL)
    ended(child)
    try:
        found = state(folder)
    except Exception as error:
        return f"DAMAGED: {error}"
    if results.exists() and (results.read_text(),) != known[f"{base.name} results"][0]:
        return "DAMAGED: half the results"
    if found not in (before, after):
        return "DAMAGED: neither the old version nor the new one"
    # Whatever was left behind, work goes on.
    again = words if found == before else ["remove", str(folder), "--ids", "i1500"]
    if not ended(start(again)):
        return "DAMAGED: the next change fails"
    if found == before and state(folder) != after:
        return "DAMAGED: done again, it makes something else"
    if len(store.versions(folder)) > 3:
        return "DAMAGED: versions pile up"
    return "new" if found == after and before != after else "old"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    assert verbs.build  # loaded
    load_faiss().omp_set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    draw, counts = np.random.default_rng(options.seed), Counter[str]()
    known: dict[str, tuple[State, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        ids = [f"i{k}" for k in range(COUNT)]
        data = {
            "whole": written(work, "whole", COUNT, 1, ids),
            "other": written(work, "other", COUNT, 2, ids),
            "more": written(work, "more", 200, 3, [f"n{k}" for k in range(200)]),
            "again": written(work, "again", 200, 4, [*ids[:100], *(f"n{k}" for k in range(100))]),
        }
        bases = {}
        for kind, parameter in (("IVF16,Flat", "nprobe=9"), ("HNSW8", "efSearch=99")):
            bases[kind] = work / kind.replace(",", "-"), parameter
            if not ended(start(["build", "--out", str(bases[kind][0]), "--factory", kind, *data["whole"]])):
                raise SystemExit(f"{kind} cannot be built")
        lines = verbs_on(work / "ix", data, work / "r.csv")
        for number in range(options.kills):
            verb = list(lines)[number % len(lines)]
            base, parameter = bases[list(bases)[number // len(lines) % len(bases)]]
            words = [parameter if word == "PARAMETER" else word for word in lines[verb]]
            found = trial(verb, words, base, work, draw.uniform(0, 1.05), known)
            counts[found] += 1
            counts[f"{verb}: {found}"] += 1
            if found not in ("old", "new"):
                print(f"kill {number}, {verb} of {base.name}: {found}", flush=True)
    print({name: count for name, count in sorted(counts.items()) if ":" in name})
    whole = counts["old"] + counts["new"]
    print(f"{options.kills} kills: {whole} whole ({counts['old']} the old version, {counts['new']} the new one)")
    raise SystemExit(0 if whole == options.kills else 1)


if __name__ == "__main__":
    main()
