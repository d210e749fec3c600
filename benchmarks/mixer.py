"""The Mixer beside plain attention: forward, and forward with backward.

    OMP_NUM_THREADS=1 python benchmarks/mixer.py

One thread, CPU-seconds, maps of 14 x 14 places with 1,024 channels (the third stage of a ResNet-50 at 224 px), 64
pairs. The Mixer in training mode makes (64, 1, 224, 224) masks. "Attention" is scaled_dot_product_attention of 196
places with 512 channels for query, key and value, without any projection; "with projections" adds the linear maps that
a self-attention layer of 1,024 channels has (query, key, value and output). "ResNet-50" is a forward pass of that
network at 224 px over the same 64 images, for scale. Times are medians of repetitions that take turns within one run;
ratios are of these medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from metrixkit.mixing import Mixer

PAIRS, CHANNELS, SIDE, INNER, PIXELS = 64, 1024, 14, 512, 224


class Attention(nn.Module):
    """Self-attention of one head with its four linear maps, as a layer of a transformer has it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(CHANNELS, CHANNELS) for _ in range(4))

    def forward(self, z: Tensor) -> Tensor:
        rows = z.flatten(2).transpose(1, 2)[:, None]
        return self.out(F.scaled_dot_product_attention(self.query(rows), self.key(rows), self.value(rows)))


def work(backward: bool) -> dict[str, Callable[[], object]]:
    g = torch.Generator().manual_seed(0)
    z_i, z_j = (torch.randn(PAIRS, CHANNELS, SIDE, SIDE, generator=g).relu() for _ in "ij")
    mixers = {
        f"Mixer, {preset}": Mixer(CHANNELS, preset).train() for preset in ("samix", "official", "paper", "automix")
    }
    inner = [torch.randn(PAIRS, 1, SIDE * SIDE, INNER, generator=g, requires_grad=backward) for _ in "qkv"]
    layer = Attention()

    def run(make: Callable[[], Tensor]) -> Callable[[], object]:
        if not backward:
            return torch.no_grad()(make)
        return lambda: make().square().mean().backward()

    def masks(mixer: Mixer) -> Callable[[], Tensor]:
        return lambda: mixer(z_i, z_j, 0.3, PIXELS // SIDE).first

    jobs = {"attention": run(lambda: F.scaled_dot_product_attention(*inner))}
    jobs["attention with projections"] = run(lambda: layer(z_i))
    jobs.update({name: run(masks(mixer)) for name, mixer in mixers.items()})
    if not backward:
        network, images = torchvision.models.resnet50(weights=None).train(), torch.randn(PAIRS, 3, PIXELS, PIXELS)
        jobs["ResNet-50, 224 px"] = run(lambda: network(images))
    return jobs


def medians(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            if name.startswith("ResNet") and turn > 1:
                continue
            start = time.process_time()
            job()
            if turn:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    for backward in (False, True):
        found = medians(work(backward), repeats)
        plain, layer = found["attention"], found["attention with projections"]
        print("forward and backward" if backward else "forward")
        for name, seconds in found.items():
            print(
                f"  {name:<28}{seconds:>8.3f} s{seconds / plain:>8.2f}x attention"
                f"{seconds / layer:>8.2f}x with projections"
            )


if __name__ == "__main__":
    main()
