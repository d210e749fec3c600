"""How many mixtures a trained model's loss pulls towards their anchor, against lambda, beside the theoretical curve.

    python benchmarks/positivity.py RUN [RUN ...] [--batches 20] [--split train]

RUN is a finished run whose loss is in the generalised form, clean or in Metrix. Batches are drawn by the run's own
sampler out of a split's embeddings, with the evaluation transform. One run leaves its picture and table in
RUN/pictures/, several are drawn together into positivity.png of the working directory.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
import yaml

from metrixkit.config import build
from metrixkit.embedding.images import load_model
from metrixkit.inference import default_device
from metrixkit.jobs.images import make_task, read_data
from metrixkit.report.positivity import pool_positivity, positivity, positivity_plot


def measure(run: Path, batches: int, split: str) -> pd.DataFrame:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    manifest = read_data(config)
    model = load_model(run, default_device())
    classes = manifest.part("train").classes()
    loss = build(config, "loss", num_classes=len(classes), dim=model.embedding_dim, seed=config["seed"])
    restore_proxies(loss, run)
    part = manifest.part(split)
    codes = {name: i for i, name in enumerate(classes if split == "train" else part.classes())}
    labels = torch.tensor([codes[name] for name in part.labels])
    rows = torch.as_tensor(make_task(config, manifest, model.encoder).embed(model.encoder, split).vectors)
    sampler = build(config, "sampler", labels=labels.tolist(), seed=config["seed"], rank=0, world_size=1)
    tables: list[pd.DataFrame] = []
    while len(tables) < batches:
        sampler.set_epoch(sampler.epoch + 1)
        for draws in sampler:
            chosen = torch.tensor([draw.index for draw in draws])
            tables.append(positivity(loss, rows[chosen], labels[chosen]))
            if len(tables) == batches:
                break
    return pool_positivity(tables)


def restore_proxies(loss: torch.nn.Module, run: Path) -> None:
    """Load what the loss learned, from the weights that the run selected."""
    if not list(loss.parameters()):
        return
    best, last = run / "checkpoints" / "best.pt", run / "checkpoints" / "last.pt"
    if best.exists():
        state = torch.load(best, map_location="cpu", weights_only=True)
    else:
        state = torch.load(last, map_location="cpu", weights_only=True)["method"]
    loss.load_state_dict({k.removeprefix("loss."): v for k, v in state.items() if k.startswith("loss.")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--batches", type=int, default=20, help="batches that are pooled (default 20)")
    parser.add_argument("--split", default="train", help="split the batches come from (default train)")
    options = parser.parse_args()
    tables = {run.resolve().name: measure(run, options.batches, options.split) for run in options.runs}
    for name, table in tables.items():
        print(f"{name}\n{table.to_string(index=False, float_format='%.3f')}")
    only = len(tables) == 1
    folder = options.runs[0] / "pictures" if only else Path()
    for name, table in tables.items():
        table.to_csv(folder / ("positivity.csv" if only else f"positivity-{name}.csv"), index=False)
    print(positivity_plot(folder / "positivity.png", next(iter(tables.values())) if only else tables))


if __name__ == "__main__":
    main()
