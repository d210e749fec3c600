"""What one augmented view costs, in CPU-microseconds of one thread, beside the same recipe of torchvision's v2 classes.

    METRIXKIT_DATA=DIR python benchmarks/views.py [--sizes 32,64,224] [--rounds 9]

Images are those of Tiny-ImageNet (64 x 64), already decoded. Rounds of both are interleaved, and medians told: of the
time, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2

from metrixkit.data import TinyImageNet, Transform, train_transform
from metrixkit.data.decode import decode

JITTER = [0.4, 0.4, 0.4, 0.1]


def recipes(size: int) -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Return name to (ours, torchvision's)."""
    crop = v2.RandomResizedCrop(size, (0.2, 1.0), antialias=True)
    colour = [v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8), v2.RandomGrayscale(0.2)]
    blur = v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5)  # three deviations of the strongest on either side
    flip = v2.RandomHorizontalFlip()
    plain, small, whole = (
        Transform(scale=[0.2, 1.0]),
        Transform(scale=[0.2, 1.0], jitter=JITTER, grayscale=0.2),
        Transform(scale=[0.2, 1.0], jitter=JITTER, grayscale=0.2, blur=0.5),
    )
    return {
        "crop, mirror": (train_transform(plain, size), v2.Compose([crop, flip])),
        "MoCo v2 without blur": (train_transform(small, size), v2.Compose([crop, *colour, flip])),
        "MoCo v2": (train_transform(whole, size), v2.Compose([crop, *colour, blur, flip])),
    }


def main() -> None:
    """Time the recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="32,64,224")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = TinyImageNet().read().part("train").paths
    started = time.process_time()
    images = [decode(path) for path in paths[:: len(paths) // options.images][: options.images]]
    print(f"decoding 64 x 64: {(time.process_time() - started) / len(images) * 1e6:.0f} us")
    print(f"{'size':>4}  {'recipe':<22}{'ours':>8}{'v2':>8}{'v2 / ours':>11}")
    for size in (int(each) for each in options.sizes.split(",")):
        for name, pair in recipes(size).items():
            taken: list[list[float]] = []
            for _ in range(options.rounds + 1):
                round_ = []
                for transform in pair:
                    torch.manual_seed(0)
                    started = time.process_time()
                    for image in images:
                        transform(image)
                    round_.append((time.process_time() - started) / len(images) * 1e6)
                taken.append(round_)
            rounds = taken[1:]  # the first warms up
            ours, theirs = (statistics.median(each[i] for each in rounds) for i in (0, 1))
            ratio = statistics.median(b / a for a, b in rounds)
            print(f"{size:>4}  {name:<22}{ours:>8.0f}{theirs:>8.0f}{ratio:>10.2f}x")


if __name__ == "__main__":
    main()
