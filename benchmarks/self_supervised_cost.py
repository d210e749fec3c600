"""What a step of each self-supervised method costs beside MoCo v2, in CPU-seconds of one thread.

    python benchmarks/self_supervised_cost.py [--rounds 8] [--backbone torchvision/resnet18] [--size 64] [--stage 3]

A step is forward, backward and update on views that are at hand (augmenting is not in it). `passes` counts what the
method must do, a forward pass of the batch being 1 and forward with backward 3: MoCo 4, MixCo 5.5 and so on; the
relative cost should be within a tenth of it. SAMix' rows count neither the Mixer nor the stages that make its maps,
which are those of `--stage` and before. Steps of all rows are interleaved, and medians of their ratios told.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from metrixkit.methods import BYOL, CLIM, MIXERS, MoCo, SAMixC, SAMixI, SimCLR
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

# Row: passes, and what makes the method of a model (and the stage that a Mixer reads).
COUNT = 1280  # images of the data set that methods are told of
QUEUE = {"queue_size": 4096, "groups": 4}
ROWS = {
    "MoCo v2": (4.0, lambda m, s: MoCo(m, **QUEUE)),
    "MoCo v2 + MixCo": (5.5, lambda m, s: MoCo(m, MIXERS["mixco"](), **QUEUE)),
    "MoCo v2 + i-Mix": (4.0, lambda m, s: MoCo(m, MIXERS["imix"](), **QUEUE)),
    "MoCo v2 + Un-Mix": (7.0, lambda m, s: MoCo(m, MIXERS["unmix"](), **QUEUE)),
    "MoCo v2 + cross-view mixup": (7.0, lambda m, s: MoCo(m, MIXERS["instance-mixup"](), **QUEUE)),
    "MoCo v2 + MoCHi": (4.0, lambda m, s: MoCo(m, MIXERS["mochi"](1024, 1024, 128, warmup_epochs=0), **QUEUE)),
    "CLIM": (5.0, lambda m, s: CLIM(m, count=COUNT, **QUEUE)),
    "CLIM, two resolutions": (None, lambda m, s: CLIM(m, count=COUNT, **QUEUE)),
    "SimCLR": (6.0, lambda m, s: SimCLR(m)),
    "SimCLR + MixCo": (9.0, lambda m, s: SimCLR(m, MIXERS["mixco"]())),
    "BYOL": (8.0, lambda m, s: BYOL(m, hidden=512)),
    "SAMix-I": (9.0, lambda m, s: SAMixI(m, stage=s, **QUEUE)),
    "SAMix-C": (10.0, lambda m, s: SAMixC(m, stage=s, count=COUNT, clusters=20, **QUEUE)),
}


def batch_of(method: nn.Module, size: int, count: int, smaller: int) -> Batch:
    """Return random views of the sizes that a method asks for."""
    needs = method.needs()
    sizes = [size, smaller] if len(needs.resolutions) == 2 else [size]
    draw = torch.Generator().manual_seed(0)

    def views() -> list[torch.Tensor]:
        shape = [(count, 3, side, side) for _ in range(needs.views) for side in sizes]
        return [torch.randint(0, 256, s, dtype=torch.uint8, generator=draw) for s in shape]

    ids = [str(i) for i in range(count)]
    partners = views() if needs.partners else []
    return Batch(ids=ids, views=views(), partner_views=partners, index=torch.arange(count))


def main() -> None:
    """Time the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--stage", type=int, default=3, help="of the maps that SAMix' Mixer reads")
    parser.add_argument("--only", help="rows whose name holds this, beside MoCo v2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    smaller = round(options.size * 160 / 224)
    rows = {n: row for n, row in ROWS.items() if n == "MoCo v2" or not options.only or options.only in n}
    methods, batches, optimizers = {}, {}, {}
    for name, (_, build) in rows.items():
        torch.manual_seed(0)
        model = ImageEncoder(options.backbone, pooling="avg", dim=None, normalize=False, image_size=options.size)
        method = build(model, options.stage)
        method.before_epoch(0, lambda: torch.randn(COUNT, 128))  # which makes the clusters of SAMix-C
        if "two resolutions" in name:
            method.resolutions = (options.size, smaller)
        methods[name], batches[name] = method.train(), batch_of(method, options.size, options.batch, smaller)
        trained = [p for p in method.parameters() if p.requires_grad]
        optimizers[name] = torch.optim.SGD(trained, lr=0.01, momentum=0.9)
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.rounds + 1):
        for name, method in methods.items():
            started = time.process_time()
            method(batches[name]).losses["total"].backward()
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            method.after_step(0)
            seconds[name].append(time.process_time() - started)
    print(f"{options.backbone} at {options.size} pixels, batch {options.batch}, queue 4096, {options.rounds} rounds\n")
    print("| row | CPU s a step | relative to MoCo v2 | passes | by passes |\n|---|---|---|---|---|")
    share = 1 + (smaller / options.size) ** 2
    for name, (passes, _) in rows.items():
        passes = 5 * share if passes is None else passes
        ratio = statistics.median(a / b for a, b in zip(seconds[name][1:], seconds["MoCo v2"][1:], strict=True))
        cost = statistics.median(seconds[name][1:])
        print(f"| {name} | {cost:.2f} | {ratio:.3f} | {passes:.2f} | {passes / 4:.3f} |")


if __name__ == "__main__":
    main()
