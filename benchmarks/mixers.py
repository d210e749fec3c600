"""Supervised classifiers with image mixers: each run by the door, each row written when it ends.

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/mixers.py [--epochs 30] [--runs DIR] [--only NAME]
    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/mixers.py --equal-compute [--epochs 30]
    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/mixers.py --unseen --weights FILE [--epochs 10]
    OMP_NUM_THREADS=1 python benchmarks/mixers.py --cost

The first fills ``benchmarks/tables/mixers.csv``: 20 classes of Tiny-ImageNet at 32 pixels at equal epochs, by the
recipe of ``configs/tiny_imagenet_20_mixers.yaml``, the epoch chosen by top-1 on held-out training images. The second
adds rows with as many epochs as take the compute of 30 without mixing (COST below); a row whose step costs no more
stands in both tables. The third fills ``mixers_unseen.csv``: CUB classes 1-25 are learned as classes and the pooled
features searched on classes 26-50, with MobileNetV2 (FILE as in ``configs/cub_first50.yaml``), the epoch chosen on
training classes held out. Beside a ``.csv`` a ``.md`` holds means and standard deviations over seeds. Rows that are
there are skipped, and a run that was cut off is continued. The last prints CPU-seconds of a step of each, and its ratio
to the step without mixing.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A row is what it adds to the recipe; alpha as in SAMix' comparison on Tiny-ImageNet.
ROWS: dict[str, list[str]] = {
    "vanilla": ["image_mixer=none"],
    "MixUp": ["image_mixer=mixup", "image_mixer.alpha=1"],
    "CutMix": ["image_mixer=cutmix", "image_mixer.alpha=1"],
    "ManifoldMix": ["image_mixer=manifoldmix", "image_mixer.alpha=0.2"],
    "FMix": ["image_mixer=fmix", "image_mixer.alpha=1"],
    "ResizeMix": ["image_mixer=resizemix", "image_mixer.alpha=1"],
    "SaliencyMix": ["image_mixer=saliencymix", "image_mixer.alpha=1"],
    "PuzzleMix": ["image_mixer=puzzlemix", "image_mixer.alpha=1"],
    "AutoMix": ["method=samix", "image_mixer=", "method.preset=automix"],
    "SAMix": ["method=samix", "image_mixer=", "method.mixer_options.gamma=1", "method.mixer_options.dropout=0"],
}
# MobileNetV2's bottlenecks end without a ReLU: benchmarks/samix_lambda.py --birds.
RECTIFIED = "SAMix, rectified"
ROWS[RECTIFIED] = [*ROWS["SAMix"], "method.mixer_options.att_norm=true", "method.mixer_options.rectify=true"]
LEARNED = ("AutoMix", "SAMix", RECTIFIED)  # what their steps cost: benchmarks/samix_cost.py
SEVERAL = ("vanilla", "MixUp", "CutMix", "SAMix", RECTIFIED)  # three seeds, the others one
PLAIN = ("cpu s", "nll")
# Steps of the small network at 32 pixels relative to one without mixing, as --cost and samix_cost.py --channels-last
# told them in RESULTS.md; those not named cost at most 1.06.
COST = {"PuzzleMix": 1.95, "AutoMix": 2.95, "SAMix": 3.03}


@dataclass(frozen=True)
class Table:
    """One table: its recipe and what it tells.

    Attributes:
        name: Of its files.
        config: The recipe.
        settings: What all rows add to it.
        metrics: Columns, of the selected epoch on the test split.
        before: The metric that is told before training, too.
        learned: What rows with a learned Mixer add: its stage, its rate, how fast the momentum network follows.
        without: Rows that it does not have.
    """

    name: str
    config: str
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    before: str
    learned: tuple[str, ...]
    without: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file of its rows."""
        return HERE / "tables" / f"{self.name}.csv"


SEEN = Table(
    "mixers",
    "configs/tiny_imagenet_20_mixers.yaml",
    (),
    ("top1", "top5", "nll", "ece", "last/top1", "median10/validation/top1", "recall@1", "map@r"),
    "top1",
    ("method.stage=2", "method.momentum=0.99", "method.mixer_lr=3", "method.mixer_minimum=0.01"),
    without=(RECTIFIED,),
)
UNSEEN = Table(
    "mixers_unseen",
    "configs/cub_first50.yaml",
    ("method=classification", "loss=", "sampler=shuffle", "sampler.batch_size=100", "model.normalize=false"),
    ("recall@1", "map@r", "utilization", "uniformity"),
    "recall@1",
    ("method.stage=13", "method.momentum=0.9", "method.mixer_lr=30", "method.mixer_minimum=0.05"),
)


def affordable(name: str, epochs: int) -> int:
    """Return for how many epochs of a row the compute of `epochs` without mixing lasts."""
    return max(1, round(epochs / COST.get(name, 1.0)))


def run(table: Table, name: str, seed: int, epochs: int, folder: Path, more: list[str]) -> dict[str, object]:
    """Run one setting with one seed and return its row."""
    command = [sys.executable, "-m", "metrixkit.train", table.config, *table.settings, *ROWS[name], *more]
    command += table.learned if name in LEARNED else ()
    command += [f"seed={seed}", f"training.epochs={epochs}", "training.tensorboard=false", "--run", str(folder)]
    if not (folder / "results.json").exists():
        subprocess.run([*command, "--resume"], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    results = json.loads((folder / "results.json").read_text())
    row: dict[str, object] = {"row": name, "seed": seed, "epochs": epochs}
    row |= {metric: round(results["metrics"][metric], 5) for metric in table.metrics}
    row[f"before {table.before}"] = round(results["before"][table.before], 5)
    row["selected epoch"] = results["selected_epoch"]
    row["wall s"], row["cpu s"] = results["seconds"]["this_process"], results["seconds"]["this_process_cpu"]
    return row


def read(table: Table) -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not table.path.exists():
        return []
    with table.path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summarise(table: Table) -> None:
    """Write means and standard deviations over seeds as Markdown."""
    found = read(table)
    lines = ["Made by `python benchmarks/mixers.py`: percent, mean ± standard deviation over seeds."]
    most = max(int(row["epochs"]) for row in found)
    lines += ["", f"Equal epochs, {most}:", "", *_rows(table, [row for row in found if int(row["epochs"]) == most])]
    cheap = [row for row in found if int(row["epochs"]) == affordable(row["row"], most)]
    if any(int(row["epochs"]) < most for row in cheap):
        lines += ["", f"Equal compute, that of {most} epochs without mixing:", "", *_rows(table, cheap)]
    table.path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(table: Table, found: list[dict[str, str]]) -> list[str]:
    shown = [*table.metrics, f"before {table.before}", "cpu s"]
    lines = ["| row | epochs | n | " + " | ".join(shown) + " |", "|---" * (3 + len(shown)) + "|"]
    for name in [name for name in ROWS if any(row["row"] == name for row in found)]:
        group = [row for row in found if row["row"] == name]
        cells = []
        for metric in shown:
            values = [float(row[metric]) for row in group]
            share = metric not in (*PLAIN, "utilization", "uniformity")
            scale, digits = (100, 1) if share else (1, 0 if metric == "cpu s" else 3)
            spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{scale * statistics.mean(values):.{digits}f}{spread}")
        lines.append(f"| {name} | {group[0]['epochs']} | {len(group)} | " + " | ".join(cells) + " |")
    return lines


def fill(table: Table, most: int, runs: Path, only: str | None, more: list[str], equal_compute: bool = False) -> None:
    """Run what is missing, seed by seed."""
    table.path.parent.mkdir(exist_ok=True)
    columns = ["row", "seed", "epochs", *table.metrics, f"before {table.before}", "selected epoch", "wall s", "cpu s"]
    for seed in range(3):
        for name in ROWS:
            epochs = affordable(name, most) if equal_compute else most
            found = read(table)
            there = {(row["row"], int(row["seed"]), int(row["epochs"])) for row in found}
            skipped = (seed > 0 and name not in SEVERAL) or (only is not None and only != name)
            if skipped or name in table.without or (name, seed, epochs) in there:
                continue
            row = run(table, name, seed, epochs, runs.resolve() / f"{table.name}-{name}-seed={seed}-{epochs}", more)
            with table.path.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                if not found:
                    writer.writeheader()
                writer.writerow(row)
            summarise(table)
            print(f"{name}, seed {seed}: {table.before} {100 * float(str(row[table.before])):.1f}", flush=True)


def cost(repeats: int) -> None:
    """Print what a step costs on 100 images of 32 pixels and, of a ResNet-18, on 64 of 64, in turns."""
    import torch

    from metrixkit import config as configs
    from metrixkit.methods import Classification
    from metrixkit.models import ImageEncoder
    from metrixkit.seam import Batch

    torch.set_num_threads(1)
    for backbone, size, count in (("small", 32, 100), ("torchvision/resnet18", 64, 64)):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)
        batch = Batch(ids=[], labels=torch.arange(count) % 20, views=[images])
        seconds: dict[str, list[float]] = {name: [] for name in ROWS if name not in LEARNED}
        methods = {}
        for name in seconds:
            raw: dict[str, object] = {}
            for override in ROWS[name]:
                configs.apply_override(raw, override)
            mixer = configs.build(configs.resolve_sections(raw, ("image_mixer",)), "image_mixer")
            model = ImageEncoder(
                backbone, dim=None, normalize=False, pooling="avg", image_size=size, channels_last=True
            )
            method = Classification(model, 20, mixer)
            methods[name] = method, torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)
        for repeat in range(repeats + 1):
            for name, (method, optimizer) in methods.items():
                start = time.process_time()
                method(batch).losses["total"].backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if repeat:  # the first is not counted
                    seconds[name].append(time.process_time() - start)
        plain = statistics.median(seconds["vanilla"])
        print(f"{backbone}, {count} images of {size} pixels: vanilla {plain:.3f} s")
        for name, values in seconds.items():
            print(f"  {name:<12} {statistics.median(values) / plain:.2f}")


def main() -> None:
    """Fill a table, or tell what a step costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unseen", action="store_true", help="the table of recall on classes never trained on")
    parser.add_argument("--equal-compute", action="store_true", help="as many epochs as take the compute of --epochs")
    parser.add_argument("--weights", help="weights file of that table")
    parser.add_argument("--epochs", type=int, help="default 30, of the second table 10")
    parser.add_argument("--runs", type=Path, default=Path("runs/mixers"), help="where run folders go")
    parser.add_argument("--only", choices=list(ROWS), help="only this row")
    parser.add_argument("--cost", action="store_true", help="only tell what a step costs")
    parser.add_argument("--repeats", type=int, default=11, help="steps behind each cost")
    options = parser.parse_args()
    if options.cost:
        cost(options.repeats)
    elif options.unseen:
        if not options.weights:
            parser.error("--unseen needs --weights FILE, see configs/cub_first50.yaml")
        weights = f"model.weights={Path(options.weights).resolve()}"
        fill(UNSEEN, 10 if options.epochs is None else options.epochs, options.runs, options.only, [weights])
    else:
        epochs = 30 if options.epochs is None else options.epochs
        fill(SEEN, epochs, options.runs, options.only, [], options.equal_compute)


if __name__ == "__main__":
    main()
