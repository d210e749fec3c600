"""What a step on a processor costs with memory that is handed back or kept, and frozen batch norms plain or folded.

    OMP_NUM_THREADS=1 python benchmarks/step_memory.py [--rounds 3]

A training step (forward and backward pass of an encoder with frozen batch norm, channels-last) and a batch that is
embedded, each in a process of its own, in turns. Told are CPU-seconds of the program itself and of the system on its
behalf, page faults, and the peak of memory. "As torch has it" is torch's own batch norm in evaluation mode and
glibc's malloc as it comes; "kept" is what every door sets (``metrixkit/_memory.py``); "folded" is what
``model.freeze_batch_norm=true`` does (``metrixkit/models/frozen_batch_norm.py``).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from torch import nn

from metrixkit._memory import keep_freed_memory
from metrixkit.models import ImageEncoder
from metrixkit.models.frozen_batch_norm import FoldedConv2d, FrozenBatchNorm2d

CASES = {
    "MobileNetV2, 160 px": ("torchvision/mobilenet_v2", 160, 100),
    "ResNet-50, 224 px": ("timm/resnet50", 224, 20),
}
WAYS = {"as torch has it": (), "kept": ("kept",), "kept and folded": ("kept", "folded")}
STEPS, WARM = 4, 3


def child(backbone: str, size: int, batch: int, how: list[str], train: bool) -> None:
    """Print what the mean step of this process costs."""
    if "kept" in how:
        keep_freed_memory()
    encoder = ImageEncoder(
        backbone, pooling="avg", dim=None, image_size=size, freeze_batch_norm=True, channels_last=True
    )
    if "folded" not in how:
        for module in encoder.modules():
            if isinstance(module, FoldedConv2d):
                module.__class__ = nn.Conv2d
            elif isinstance(module, FrozenBatchNorm2d):
                module.__class__ = nn.BatchNorm2d
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)

    def step() -> None:
        with torch.set_grad_enabled(train):
            value = encoder(images)
        if train:
            value[:, :10].sum().backward()
            encoder.zero_grad()

    for _ in range(WARM):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(STEPS):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "own": (after.ru_utime - before.ru_utime) / STEPS,
                "system": (after.ru_stime - before.ru_stime) / STEPS,
                "faults": (after.ru_minflt - before.ru_minflt) / STEPS,
                "peak": after.ru_maxrss / 1024,
            }
        )
    )


def main() -> None:
    """Run every case in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="processes behind each line (default 3)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(**json.loads(options.child))
        return
    for name, (backbone, size, batch) in CASES.items():
        for train in (True, False):
            print(f"{name}, batch of {batch}, {'training step' if train else 'embedding'}")
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way, how in WAYS.items():
                    what = {"backbone": backbone, "size": size, "batch": batch, "how": how, "train": train}
                    command = [sys.executable, __file__, "--child", json.dumps(what)]
                    found[way].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            base = 0.0
            for way, rounds in found.items():
                middle = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
                seconds = statistics.median(each["own"] + each["system"] for each in rounds)
                base = base or seconds
                print(
                    f"  {way:<16}{seconds:7.2f} s  {seconds / base:5.2f}x   own {middle['own']:5.2f}, system "
                    f"{middle['system']:5.2f}   faults {middle['faults']:9,.0f}   peak {middle['peak']:6,.0f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
