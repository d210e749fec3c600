"""Recommenders over three seeds: popularity, BPR, CML, CML with DMM, and DMM as released; a row when each run ends.

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/recommender.py amazon
    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/recommender.py movielens

Twenty epochs of 256 steps each; the epoch is chosen on a tenth of the liked training pairs, the test pairs are looked
at once. `--protocol paper` instead trains on all pairs and files the best of the test epochs, as published tables do.
Rows go to ``benchmarks/tables/recommender_NAME.csv`` and are skipped if they are there.
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
PATHS = {"amazon": "amazon_digital_music/train.csv", "movielens": "ml-latest-small/ratings.csv"}
ROWS = {
    "BPR": ["loss=bpr", "sampler.negatives=1"],
    "CML": ["loss=cml_min_triplet", "loss.margin=1.5"],
    "CML, margin 0.5": ["loss=cml_min_triplet", "loss.margin=0.5"],
    "CML + DMM": ["loss.loss.margin=1.5"],
    "CML + DMM, margin 0.5": ["loss.loss.margin=0.5"],
    "CML + DMM as released": ["loss.loss.margin=1.5", "loss.official=true"],
}
METRICS = ["ndcg@10", "item_recall@10", "map@10", "hit_rate@10"]


def run(data: str, name: str, overrides: list[str], seed: int, protocol: str, epochs: int, runs: Path) -> dict:
    """Run one setting with one seed and return its row."""
    folder = runs / f"{data}-{protocol}-{name.replace(' ', '_').replace(',', '')}-seed={seed}"
    command = [sys.executable, "-m", "metrixkit.train", "configs/amazon_music_dmm.yaml", f"data.path={PATHS[data]}"]
    # The rows that are there were made with this decay, which the release and the config do not have.
    command += [
        "optimizer.weight_decay=1e-4",
        *overrides,
        f"seed={seed}",
        f"evaluation.protocol={protocol}",
        f"training.epochs={epochs}",
    ]
    command += ["training.tensorboard=false", "--run", str(folder), "--resume"]
    if not (folder / "results.json").exists():
        subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    metrics = results["metrics"]
    row = {"row": name, "protocol": protocol, "seed": seed, "epochs": epochs}
    row |= {metric: round(metrics[metric], 5) for metric in METRICS}
    row["oracle ndcg@10"] = round(metrics.get("oracle/ndcg@10", float("nan")), 5)
    row["popularity ndcg@10"] = round(metrics["popularity/ndcg@10"], 5)
    row["popularity item_recall@10"] = round(metrics["popularity/item_recall@10"], 5)
    row["selected epoch"], row["cpu s"] = results["selected_epoch"], results["seconds"]["this_process_cpu"]
    return row


def main() -> None:
    """Fill one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=PATHS)
    parser.add_argument("--protocol", choices=("validation", "paper"), default="validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", help="one row")
    parser.add_argument("--runs", type=Path, default=Path("runs/recommender"))
    options = parser.parse_args()
    path = HERE / "tables" / f"recommender_{options.data}.csv"
    for seed in range(options.seeds):
        for name, overrides in ROWS.items():
            found = read(path)
            key = (name, options.protocol, str(seed))
            if any((r["row"], r["protocol"], r["seed"]) == key for r in found) or options.only not in (None, name):
                continue
            row = run(options.data, name, overrides, seed, options.protocol, options.epochs, options.runs.resolve())
            with path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row))
                if not found:
                    writer.writeheader()
                writer.writerow(row)
            print(row, flush=True)
            summarise(options.data, read(path), path.with_suffix(".md"))


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarise(data: str, found: list[dict[str, str]], path: Path) -> None:
    """Write means and standard deviations over seeds, in percent."""
    columns = [*METRICS, "oracle ndcg@10", "selected epoch", "cpu s"]
    lines = [f"Made by `python benchmarks/recommender.py {data}`; percent, mean ± standard deviation over seeds.", ""]
    lines += ["| row | protocol | n | " + " | ".join(columns) + " |", "|---" * (len(columns) + 3) + "|"]
    popular = [f"{100 * float(found[0][f'popularity {m}']):.2f}" if m in METRICS[:2] else "" for m in columns]
    lines.append("| popularity | | | " + " | ".join(popular) + " |")
    for protocol in ("validation", "paper"):
        for name in ROWS:
            group = [row for row in found if (row["row"], row["protocol"]) == (name, protocol)]
            if not group:
                continue
            cells = []
            for column in columns:
                values = [float(row[column]) for row in group]
                scale, digits = (1, 0) if column in ("selected epoch", "cpu s") else (100, 2)
                if values[0] != values[0]:
                    cells.append("")
                    continue
                spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{scale * statistics.mean(values):.{digits}f}{spread}")
            lines.append(f"| {name} | {protocol} | {len(group)} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
