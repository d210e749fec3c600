"""The tables of clean and mixed losses over three seeds: each run by the door, each row written when it ends.

    METRIXKIT_DATA=DIR python benchmarks/tables.py omniglot
    METRIXKIT_DATA=DIR python benchmarks/tables.py glyphs
    METRIXKIT_DATA=DIR python benchmarks/tables.py cub --weights FILE       # MobileNetV2, (rgb / 255 - 0.5) / 0.5

Rows go to ``benchmarks/tables/NAME.csv``, one for each setting and seed, and ``NAME.md`` holds their means and
standard deviations. Rows that are there are skipped and a run that was cut off is continued, so the same command goes
on after any stop. Every setting of a data set shares one recipe (its config in ``configs/``), chosen on validation
classes; what a row changes is its name.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
METRICS = ["recall@1", "recall@2", "recall@4", "recall@8", "map@r", "utilization"]
COLUMNS = ["row", "seed", *METRICS, "before recall@1", "last recall@1", "selected epoch", "wall s", "cpu s"]

MULTI_SIMILARITY = {
    "cub": ["beta=2", "gamma=40", "margin=0.5"],
    "omniglot": ["beta=18", "gamma=75", "margin=0.77"],
    "glyphs": ["beta=18", "gamma=75", "margin=0.77"],
}
CONFIGS = {"cub": "cub_first50", "omniglot": "omniglot_metrix", "glyphs": "glyphs_metrix"}
SHARED = {"cub": ["training.epochs=8"], "omniglot": [], "glyphs": ["training.epochs=8"]}


def rows(data: str) -> dict[str, list[str]]:
    """Return the overrides of each row of a table."""
    hyper = {
        "multi_similarity": MULTI_SIMILARITY[data],
        "contrastive": ["margin=0.5"],
        "proxy_anchor": ["beta=32", "delta=0.1"],
    }
    table = {"frozen": ["training.epochs=0"]} if data == "cub" else {}
    for loss, settings in hyper.items():
        table[loss] = [f"loss={loss}", *(f"loss.{s}" for s in settings)]
        # Losses that sum pairs without a logarithm average their mixtures: summed, these would swamp the clean term.
        mean = ["loss.reduction=mean"] if loss == "contrastive" else []
        inner = [f"loss.loss={loss}", *(f"loss.loss.{s}" for s in settings), *mean]
        for level in ("embed", "feature", "input"):
            table[f"{loss} + Metrix/{level}"] = [*inner, f"loss.level={level}"]
        if loss == "contrastive":
            for name, rival in (("i-Mix/input", "imix"), ("MoCHi/embed", "mochi")):
                table[f"{loss} + {name}"] = [
                    f"loss={rival}",
                    f"loss.loss={loss}",
                    *(f"loss.loss.{s}" for s in settings),
                ]
    if data == "glyphs":
        table |= ablations()
    return table


def ablations() -> dict[str, list[str]]:
    """Return what Glyphs varies about multi-similarity with Metrix at embedding level."""
    table = {
        f"pairs {kind}": [f"loss.pairs={kind}"] for kind in ("anchor-negative", "positive-anchor", "positive-positive")
    }
    table["pairs negative-negative"] = ["loss.pairs=negative-negative", "loss.hardest=20"]
    table |= {f"k {k}": [f"loss.hardest={k}"] for k in (1, 3, 20)}
    table |= {f"alpha {a}": [f"loss.alpha={a}"] for a in (0.5, 1.0, 4.0)}
    table |= {f"w {w}": [f"loss.weight={w}"] for w in (0.1, 0.2, 0.8)}
    table["reduction mean"] = ["loss.reduction=mean"]
    table["lambda per pair"] = ["loss.ratio_per=pair"]
    return table


def run(data: str, name: str, overrides: list[str], seed: int, folder: Path) -> dict[str, object]:
    """Run one setting with one seed and return its row."""
    command = [sys.executable, "-m", "metrixkit.train", f"configs/{CONFIGS[data]}.yaml", *SHARED[data], *overrides]
    command += [f"seed={seed}", "training.tensorboard=false", "--run", str(folder), "--resume"]
    if not (folder / "results.json").exists():
        subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    row: dict[str, object] = {"row": name, "seed": seed}
    row |= {metric: round(results["metrics"][metric], 5) for metric in METRICS}
    row["before recall@1"] = round(results["before"]["recall@1"], 5)
    row["last recall@1"] = round(results["last"]["recall@1"], 5)
    row["selected epoch"] = results["selected_epoch"]
    row["wall s"], row["cpu s"] = results["seconds"]["this_process"], results["seconds"]["this_process_cpu"]
    return row


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarise(data: str, found: list[dict[str, str]], path: Path) -> None:
    """Write means and standard deviations over seeds as Markdown."""
    lines = [
        f"Made by `python benchmarks/tables.py {data}` from `{data}.csv`: mean ± standard deviation over seeds.",
        "",
    ]
    lines += ["| row | n | " + " | ".join([*METRICS, "before recall@1", "wall s", "cpu s"]) + " |", "|---" * 11 + "|"]
    for name in rows(data):
        group = [row for row in found if row["row"] == name]
        if not group:
            continue
        cells = []
        for metric in [*METRICS, "before recall@1", "wall s", "cpu s"]:
            values = [float(row[metric]) for row in group]
            scale, digits = (1, 0) if metric.endswith(" s") else (1, 3) if metric == "utilization" else (100, 1)
            spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{scale * statistics.mean(values):.{digits}f}{spread}")
        lines.append(f"| {name} | {len(group)} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Fill one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=CONFIGS)
    parser.add_argument("--weights", help="weights file of the CUB table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where run folders go")
    options = parser.parse_args()
    if options.data == "cub" and not options.weights:
        parser.error("the CUB table needs --weights FILE")
    extra = [f"model.weights={options.weights}"] if options.data == "cub" else []
    path = HERE / "tables" / f"{options.data}.csv"
    path.parent.mkdir(exist_ok=True)
    # Seed by seed, so that a table that was stopped compares all its rows on the same seeds.
    for seed in range(options.seeds):
        for name, overrides in rows(options.data).items():
            found = read(path)
            if any(row["row"] == name and int(row["seed"]) == seed for row in found):
                continue
            folder = options.runs.resolve() / options.data / f"{name.replace('/', '-').replace(' ', '_')}-seed={seed}"
            row = run(options.data, name, [*extra, *overrides], seed, folder)
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if not found:
                    writer.writeheader()
                writer.writerow(row)
            summarise(options.data, read(path), path.with_suffix(".md"))
            print(f"{options.data}: {name}, seed {seed}: recall@1 {100 * float(str(row['recall@1'])):.1f}", flush=True)


if __name__ == "__main__":
    main()
