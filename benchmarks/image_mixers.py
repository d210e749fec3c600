"""What each image mixer costs: CPU-seconds a batch on one thread, and as a share of a training step.

    OMP_NUM_THREADS=1 python benchmarks/image_mixers.py [--repeats 7] [--opencv FOLDER]

Batches of 64 images at 224 pixels, 256 at 32 and 64 at 64; lambda from Beta(1, 1), one an image; boxes, masks and
lambda anew in every repetition; the median is told. Beside them MixUp and CutMix of torchvision.transforms.v2, which
draw one lambda and one box a batch and mix the labels, too. The step is a ResNet-18's (ImageNet stem, 200 classes) on
64 images of 64 pixels: forward, cross-entropy, backward, SGD. PuzzleMix's own passes (saliency by gradient) are not in
its number, which is that of the cut and the transport; its number of blocks is given.

--opencv compares our fine-grained saliency with that of opencv-contrib-python-headless, which has to be installed, on
100 images spread evenly over those below FOLDER, instead of measuring.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from metrixkit.mixing import IMAGE_MIXERS, draw_partners, draw_ratio, fine_grained_saliency

SHAPES = ((64, 224), (256, 32), (64, 64))
PUZZLES = (4, 8, 16)


def median_cpu(work: Callable[[int], Any], repeats: int) -> float:
    """Return the median CPU-seconds of `work`, which takes the number of the repetition; the first is not counted."""
    seconds = []
    for repeat in range(repeats + 1):
        start = time.process_time()
        work(repeat)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def candidates(count: int, size: int) -> dict[str, Callable[[int], Any]]:
    """Return name to a call that mixes one batch."""
    seeded = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, size, size), generator=seeded)
    saliency = torch.rand((count, size, size), generator=seeded) ** 4
    labels = torch.arange(count) % 10
    calls: dict[str, Callable[[int], Any]] = {}

    def ours(name: str, **more: Any) -> Callable[[int], Any]:
        def call(repeat: int) -> Any:
            generator = torch.Generator().manual_seed(repeat)
            lam = draw_ratio(1.0, generator, (count,))
            partner = draw_partners(count, "permutation", generator)
            return IMAGE_MIXERS[name](images, partner, lam, generator, **more)

        return call

    for name in IMAGE_MIXERS:
        if name == "puzzlemix":
            for blocks in PUZZLES:
                calls[f"{name}, {blocks} blocks"] = ours(name, saliency=saliency, blocks=blocks)
        else:
            calls[name] = ours(name, **({"labels": labels} if name == "inter-intra" else {}))
    calls["fmix, shared mask"] = ours("fmix", shared_mask=True)
    for name, peer in (("torchvision MixUp", v2.MixUp), ("torchvision CutMix", v2.CutMix)):
        transform = peer(num_classes=10, alpha=1.0)
        calls[name] = lambda repeat, transform=transform: transform(images, labels)
    return calls


def step_seconds(count: int, size: int, repeats: int) -> float:
    """Return the CPU-seconds of one training step of a ResNet-18."""
    torch.manual_seed(0)
    network = resnet18(num_classes=200)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.rand(count, 3, size, size), torch.randint(200, (count,))

    def step(repeat: int) -> None:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return median_cpu(step, repeats)


def compare_saliency(folder: Path, count: int = 100) -> None:
    """Print how well our saliency agrees with OpenCV's on `count` images below `folder`."""
    import cv2

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    correlations, distances, values = [], [], []
    for path in chosen:
        pixels = np.array(Image.open(path).convert("RGB"))
        found, theirs = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(pixels[:, :, ::-1].copy())
        assert found
        ours = fine_grained_saliency(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].numpy()
        correlations.append(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
        peak, their_peak = (np.unravel_index(m.argmax(), m.shape) for m in (ours, theirs))
        distances.append(np.hypot(*np.subtract(peak, their_peak)) / pixels.shape[1])
        values.append(theirs[peak] / theirs.max())
    print(f"fine-grained saliency beside OpenCV's, {count} images of {len(files)} below {folder.name}")
    print(f"  correlation: mean {np.mean(correlations):.4f}, least {np.min(correlations):.4f}")
    print(f"  distance of the peaks: mean {np.mean(distances):.3f}, median {np.median(distances):.3f} of a side")
    print(f"  OpenCV's map at our peak, of its maximum: mean {np.mean(values):.4f}, least {np.min(values):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--opencv", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    torch.set_num_threads(1)
    if arguments.opencv:
        compare_saliency(arguments.opencv)
        return
    step = step_seconds(64, 64, repeats)
    print(f"ResNet-18 step, 64 images of 64 pixels: {step * 1000:.0f} ms\n")
    rows: dict[str, list[float]] = {}
    for count, size in SHAPES:
        for name, call in candidates(count, size).items():
            rows.setdefault(name, []).append(median_cpu(call, repeats))
    print(f"{'':22}" + "".join(f"{f'{c} x {s}px':>12}" for c, s in SHAPES) + f"{'with step':>12}   (ms)")
    for name, seconds in rows.items():
        print(f"{name:22}" + "".join(f"{s * 1000:12.1f}" for s in seconds) + f"{1 + seconds[-1] / step:11.3f}x")


if __name__ == "__main__":
    main()
