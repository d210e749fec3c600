"""The tables of clean and mixed losses over three seeds: each run by the door, each row written when it ends.

    METRIXKIT_DATA=DIR python benchmarks/tables.py omniglot
    METRIXKIT_DATA=DIR python benchmarks/tables.py omniglot_long            # six times the epochs, fewer rows
    python benchmarks/tables.py glyphs
    METRIXKIT_DATA=DIR python benchmarks/tables.py cub --weights FILE       # MobileNetV2, (rgb / 255 - 0.5) / 0.5
    python benchmarks/tables.py cub --summary                               # NAME.md alone, anew

Rows go to ``benchmarks/tables/NAME.csv``, one for each setting and seed. ``NAME.md`` holds their means and standard
deviations, and what mixing changes, paired by seed. Rows that are there are skipped and a run that was cut off is
continued, so the same command goes on after any stop; ``--seed`` and ``--row`` share the work out over processes.
Every setting of a data set shares one recipe (its config in ``configs/``), chosen on validation classes; what a row
changes is its name.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
METRICS = ["recall@1", "recall@2", "recall@4", "recall@8", "map@r", "utilization"]
COLUMNS = ["row", "seed", *METRICS, "before recall@1", "last recall@1", "selected epoch", "wall s", "cpu s"]

MULTI_SIMILARITY = {
    "cub": ["beta=2", "gamma=40", "margin=0.5"],
    "omniglot": ["beta=18", "gamma=75", "margin=0.77"],
    "omniglot_long": ["beta=18", "gamma=75", "margin=0.77"],
    "glyphs": ["beta=18", "gamma=75", "margin=0.77"],
}
CONFIGS = {
    "cub": "cub_first50",
    "omniglot": "omniglot_metrix",
    "omniglot_long": "omniglot_metrix",
    "glyphs": "glyphs_metrix",
}
SHARED = {
    "cub": ["training.epochs=8"],
    "omniglot": [],
    "omniglot_long": ["training.epochs=72", "evaluation.every=3"],
    "glyphs": ["training.epochs=8"],
}
# Of the long table, which asks whether mixing only learns more slowly.
LONG = [f"{loss}{mixed}" for loss in ("multi_similarity", "proxy_anchor") for mixed in ("", " + Metrix/embed")]


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
            # At 20 x 5 inputs mixed for each positive are four more passes, and 20 GB on CUB: there it is one an image.
            few = level == "input" and data == "cub"
            name = f"{loss} + Metrix/{level}{', one an image' if few else ''}"
            table[name] = [*inner, f"loss.level={level}", *(["loss.positives=1", "loss.hardest=1"] if few else [])]
        if loss == "contrastive":
            for name, rival in (("i-Mix/input", "imix"), ("MoCHi/embed", "mochi")):
                table[f"{loss} + {name}"] = [
                    f"loss={rival}",
                    f"loss.loss={loss}",
                    *(f"loss.loss.{s}" for s in settings),
                ]
    if data == "glyphs":
        table |= ablations()
    if data == "omniglot_long":
        table = {name: table[name] for name in LONG}
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


def references(name: str, names: list[str]) -> list[str]:
    """Return the rows that a row is held against: its clean loss; of an ablation, the setting it departs from, too."""
    clean, plus, _ = name.partition(" + ")
    ablated = ["multi_similarity", "multi_similarity + Metrix/embed"] if name in ablations() else []
    return [reference for reference in ([clean] if plus else ablated) if reference in names]


def cell(values: pd.Series, name: str, signed: bool = False) -> str:
    """Return mean ± standard deviation: seconds and utilization as they are, shares in percent."""
    scale, digits = (1, 0) if name.endswith(" s") else (1, 3) if name == "utilization" else (100, 1)
    sign = "+" if signed else ""
    spread = f" ± {scale * values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{scale * values.mean():{sign}.{digits}f}{spread}"


def summarise(data: str, path: Path) -> None:
    """Write means over seeds, and differences paired by seed, as Markdown beside the rows."""
    found = pd.read_csv(path).set_index(["row", "seed"])
    names = [name for name in rows(data) if name in found.index.get_level_values("row")]
    shown = [*METRICS, "before recall@1", "wall s", "cpu s"]
    lines = [
        f"Made by `python benchmarks/tables.py {data}` from `{data}.csv`: mean ± standard deviation over n seeds.",
        "",
        "| row | n | " + " | ".join(shown) + " |",
        "|---" * (2 + len(shown)) + "|",
    ]
    for name in names:
        group = found.loc[name]
        lines.append(f"| {name} | {len(group)} | " + " | ".join(cell(group[column], column) for column in shown) + " |")
    lines += [
        "",
        "Differences, paired by seed: mean ± standard deviation over the n seeds that both rows have.",
        "",
        "| row | n | " + " | ".join(METRICS) + " |",
        "|---" * (2 + len(METRICS)) + "|",
    ]
    for name in names:
        for reference in references(name, names):
            gap = (found.loc[name, METRICS] - found.loc[reference, METRICS]).dropna()
            if gap.empty:
                continue
            cells = [cell(gap[metric], metric, signed=True) for metric in METRICS]
            lines.append(f"| {name} less {reference} | {len(gap)} | " + " | ".join(cells) + " |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Fill one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=CONFIGS)
    parser.add_argument("--weights", help="weights file of the CUB table")
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2], help="only these (default 0 1 2)")
    parser.add_argument("--row", nargs="+", help="only these rows")
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"), help="where run folders go")
    parser.add_argument("--summary", action="store_true", help="only write NAME.md from the rows that are there")
    options = parser.parse_args()
    path = HERE / "tables" / f"{options.data}.csv"
    path.parent.mkdir(exist_ok=True)
    if options.summary:
        if not path.exists():
            parser.error(f"there are no rows yet: {path} is missing")
        summarise(options.data, path)
        return
    if options.data == "cub" and not options.weights:
        parser.error("the CUB table needs --weights FILE")
    extra = [f"model.weights={options.weights}"] if options.data == "cub" else []
    # Seed by seed, so that a table that was stopped compares all its rows on the same seeds.
    for seed in options.seed:
        for name, overrides in rows(options.data).items():
            if options.row and name not in options.row:
                continue
            if any(row["row"] == name and int(row["seed"]) == seed for row in read(path)):
                continue
            folder = options.runs.resolve() / options.data / f"{name.replace('/', '-').replace(' ', '_')}-seed={seed}"
            row = run(options.data, name, [*extra, *overrides], seed, folder)
            new = not path.exists()
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if new:
                    writer.writeheader()
                writer.writerow(row)
            summarise(options.data, path)
            print(f"{options.data}: {name}, seed {seed}: recall@1 {100 * float(str(row['recall@1'])):.1f}", flush=True)


if __name__ == "__main__":
    main()
