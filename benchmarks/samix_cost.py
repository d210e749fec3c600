"""What a step of SAMix and AutoMix costs beside the vanilla classifier, in CPU-seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/samix_cost.py [--backbone torchvision/resnet18 --stage 3 --size 224 --batch 16]

A step is forward, backward and update on images that are at hand (augmenting is not in it). `passes` counts what the
method must do beside the Mixer, a forward pass of the batch being 1, one back to the weights 2 and one back to the
images alone 1, and the pass up to the Mixer's stage by its measured share: vanilla 3, clean and mixed images 6, SAMix
8 and that share. Steps of all rows are interleaved, and medians of their ratios told.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from metrixkit.methods import SAMix
from metrixkit.methods.classification import Classification
from metrixkit.methods.image_mixers import MixUp
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch

CLASSES = 200


def rows(stage: int) -> dict[str, tuple[float, Callable[[nn.Module], nn.Module]]]:
    """Return, by name, passes less those up to the stage, and what makes the method of a model."""

    def samix(preset: str, clean_weight: float = 1.0) -> Callable[[nn.Module], nn.Module]:
        return lambda model: SAMix(model, CLASSES, preset, stage, steps=1000, clean_weight=clean_weight)

    return {
        "vanilla": (3, lambda model: Classification(model, CLASSES)),
        "MixUp": (3, lambda model: Classification(model, CLASSES, MixUp(1.0))),
        "AutoMix": (8, samix("automix")),
        "SAMix": (8, samix("samix")),
        "SAMix, official": (8, samix("official")),
        "SAMix without the clean side": (5, samix("samix", clean_weight=0.0)),
    }


def share_of_maps(model: nn.Module, images: torch.Tensor, stage: int) -> float:
    """Return the cost of a pass up to the stage as a share of a whole one."""
    times: list[list[float]] = [[], []]
    with torch.no_grad():
        for _ in range(4):
            for kind, call in enumerate((lambda: model.features(images, stage), lambda: model(images))):  # type: ignore[operator]
                started = time.process_time()
                call()
                times[kind].append(time.process_time() - started)
    return statistics.median(times[0][1:]) / statistics.median(times[1][1:])


def main() -> None:
    """Time the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backbone", default="torchvision/resnet18")
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels-last", action="store_true", help="weights and images in that memory format")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, CLASSES, (options.batch,), generator=draw)
    batch = Batch(ids=[str(i) for i in range(options.batch)], labels=labels, views=[images])
    table = rows(options.stage)
    methods, optimizers = {}, {}
    for name, (_, build) in table.items():
        torch.manual_seed(0)
        settings = {"image_size": options.size, "channels_last": options.channels_last}
        model = ImageEncoder(options.backbone, pooling="avg", dim=None, normalize=False, **settings)
        methods[name] = build(model).train()
        trained = [p for p in methods[name].parameters() if p.requires_grad]
        optimizers[name] = torch.optim.SGD(trained, lr=0.001, momentum=0.9)
    share = share_of_maps(model, images, options.stage)
    seconds: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(options.rounds + 1):
        for number, (name, method) in enumerate(methods.items()):
            started = time.process_time()
            method(batch).losses["total"].backward()
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            method.after_step(number)  # type: ignore[operator]
            seconds[name].append(time.process_time() - started)
    print(
        f"{options.backbone} at {options.size} pixels, Mixer at stage {options.stage} ({share:.2f} of a pass), batch "
        f"{options.batch}, {options.rounds} rounds\n"
    )
    print("| row | CPU s a step | relative to vanilla | by passes |\n|---|---|---|---|")
    for name, (passes, _) in table.items():
        ratios = [a / b for a, b in zip(seconds[name][1:], seconds["vanilla"][1:], strict=True)]
        passes += share if name not in ("vanilla", "MixUp") else 0
        cost = statistics.median(seconds[name][1:])
        print(f"| {name} | {cost:.2f} | {statistics.median(ratios):.2f} | {passes / 3:.2f} |")


if __name__ == "__main__":
    main()
