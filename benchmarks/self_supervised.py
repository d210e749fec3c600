"""Self-supervised methods on classes of Tiny-ImageNet: each run by the door, each row written when it ends.

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/self_supervised.py [--runs DIR] [--epochs 20]

Rows go to ``benchmarks/tables/self_supervised.csv``, one for each setting and seed; ``self_supervised.md`` holds means
and standard deviations. Rows that are there are skipped and a run that was cut off is continued. All rows share the
recipe of ``configs/tiny_imagenet_20_moco.yaml``; the epoch is chosen by kNN on held-out training images, and the 50
published validation images of each class are looked at before training and after. Costs a step:
``benchmarks/self_supervised_cost.py``.
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
TABLE = HERE / "tables" / "self_supervised.csv"
METRICS = ["linear@1", "linear@5", "knn@1", "recall@1", "map@r", "intra_class_similarity"]
COLUMNS = ["row", "seed", "epochs", *METRICS, "before linear@1", "selected epoch", "wall s", "cpu s"]
# On 9,000 images: one cluster for 128 of them, the last batches of a queue of 2,048.
CLIM = ["method=clim", "mixer=", "method.queue_size=2048", "method.momentum=0.99", "method.groups=4"]
# The Mixer learns at a rate of its own; without dropout, as on small images in the release.
SAMIX = ["mixer=", "method.stage=2", "method.queue_size=2048", "method.momentum=0.99", "method.groups=4"]
SAMIX += ["method.mixer_lr=3", "method.mixer_options.gamma=1", "method.mixer_options.dropout=0"]
ROWS = {
    "MoCo v2": [],
    "MoCo v2 + MixCo": ["mixer=mixco"],
    "CLIM, centre-wise": [*CLIM],
    "MoCo v2 + i-Mix": ["mixer=imix"],
    "MoCo v2 + Un-Mix": ["mixer=unmix"],
    "MoCo v2 + MoCHi": ["mixer=mochi", "mixer.hardest=256", "mixer.synthetic=256", "mixer.harder=32"],
    "SimCLR": ["method=simclr"],
    "SimCLR + MixCo": ["method=simclr", "mixer=mixco"],
    "CLIM, kNN": [*CLIM, "method.rule=knn"],
    "CLIM, k-means": [*CLIM, "method.rule=k-means"],
    "CLIM, centre-wise, no CutMix": [*CLIM, "method.cut=false"],
    "CLIM, kNN, no CutMix": [*CLIM, "method.rule=knn", "method.cut=false"],
    "CLIM, k-means, no CutMix": [*CLIM, "method.rule=k-means", "method.cut=false"],
    "CLIM, centre-wise, 32 and 24 pixels": [*CLIM, "method.resolutions=[32,24]"],
    "MoCo v2 + cross-view MixUp": ["mixer=instance-mixup"],
    "MoCo v2 + cross-view CutMix": ["mixer=instance-mixup", "mixer.image=cutmix"],
    "SAMix-I": ["method=samix_i", *SAMIX],
    "SAMix-C": ["method=samix_c", "method.clusters=40", *SAMIX],
}
# Cost of a step relative to MoCo v2, rounded, as told by
# self_supervised_cost.py --rounds 9 --backbone small --size 32 --batch 128 --stage 2 (RESULTS.md).
STEP = {
    "MoCo v2": 1.0,
    "MoCo v2 + MixCo": 1.5,
    "MoCo v2 + i-Mix": 1.0,
    "MoCo v2 + Un-Mix": 1.8,
    "MoCo v2 + MoCHi": 1.1,
    "MoCo v2 + cross-view MixUp": 1.7,
    "MoCo v2 + cross-view CutMix": 1.7,
    "SimCLR": 1.4,
    "SimCLR + MixCo": 2.2,
    "CLIM, centre-wise, 32 and 24 pixels": 2.1,
    "SAMix-I": 2.8,
    "SAMix-C": 3.0,
    "CLIM": 1.3,  # any other
}
SEVERAL = ("MoCo v2", "MoCo v2 + MixCo", "CLIM, centre-wise")  # three seeds, the others one


def run(name: str, seed: int, epochs: int, folder: Path) -> dict[str, object]:
    """Run one setting with one seed and return its row."""
    command = [sys.executable, "-m", "metrixkit.train", "configs/tiny_imagenet_20_moco.yaml", *ROWS[name]]
    command += [f"seed={seed}", f"training.epochs={epochs}", "training.tensorboard=false", "--run", str(folder)]
    if not (folder / "results.json").exists():
        subprocess.run([*command, "--resume"], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    row: dict[str, object] = {"row": name, "seed": seed, "epochs": epochs}
    row |= {metric: round(results["metrics"][metric], 5) for metric in METRICS}
    row["before linear@1"] = round(results["before"]["linear@1"], 5)
    row["selected epoch"] = results["selected_epoch"]
    row["wall s"], row["cpu s"] = results["seconds"]["this_process"], results["seconds"]["this_process_cpu"]
    return row


def read() -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarise(found: list[dict[str, str]]) -> None:
    """Write means and standard deviations over seeds as Markdown."""
    shown = [*METRICS, "before linear@1"]
    about = "percent, mean ± standard deviation over seeds; what a step costs beside one of MoCo v2"
    lines = [f"Made by `python benchmarks/self_supervised.py`: {about}.", ""]
    lines += ["| row | epochs | n | " + " | ".join([*shown, "step"]) + " |", "|---" * (4 + len(shown)) + "|"]
    for name, epochs in {(row["row"], row["epochs"]): None for row in found}:
        group = [row for row in found if (row["row"], row["epochs"]) == (name, epochs)]
        cells = []
        for metric in shown:
            values = [float(row[metric]) for row in group]
            scale, digits = (1, 3) if metric == "intra_class_similarity" else (100, 1)
            spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{scale * statistics.mean(values):.{digits}f}{spread}")
        cost = STEP.get(name, STEP["CLIM"])
        lines.append(f"| {name} | {epochs} | {len(group)} | " + " | ".join([*cells, f"{cost}x"]) + " |")
    TABLE.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--runs", type=Path, default=Path("runs/self_supervised"), help="where run folders go")
    parser.add_argument("--only", help="rows whose name is this")
    options = parser.parse_args()
    TABLE.parent.mkdir(exist_ok=True)
    for seed in range(3):
        for name in ROWS:
            found = read()
            there = {(row["row"], int(row["seed"]), int(row["epochs"])) for row in found}
            skipped = (seed > 0 and name not in SEVERAL) or (options.only and options.only != name)
            if skipped or (name, seed, options.epochs) in there:
                continue
            folder = options.runs.resolve() / f"{name.replace(' ', '_').replace(',', '')}-seed={seed}-{options.epochs}"
            row = run(name, seed, options.epochs, folder)
            with TABLE.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if not found:
                    writer.writeheader()
                writer.writerow(row)
            summarise(read())
            print(f"{name}, seed {seed}: linear@1 {100 * float(str(row['linear@1'])):.1f}", flush=True)


if __name__ == "__main__":
    main()
