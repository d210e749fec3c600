"""Does the Mixer learn to follow lambda, on real images and through a trained network?

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/samix_lambda.py RUN [--steps 180]

RUN is a finished run of ``configs/tiny_imagenet_20_mixers.yaml`` or ``tiny_imagenet_20_samix.yaml``. Its classifier
stays as it is; a new Mixer learns through it from generation loss (eta 0.5) and mask loss (beta 0.1, falling linearly),
on 64 of 1,500 training images a step, without augmentation, by SGD with momentum 0.9. Told after a third, two thirds
and all of the steps: slope of the masks' mean against lambda (1 is wanted), deviation of a mask's pixels, gamma. One
seed.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.data import DATASETS
from metrixkit.data.decode import decode
from metrixkit.losses import eta_loss
from metrixkit.methods.learned_masks import LearnedMasks
from metrixkit.mixing import Mixer
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.models import Classifier, ImageEncoder, load_classifier, load_encoder

IMAGES, BATCH, STAGE = 1500, 64, 2
# Row: rate, lambda for each, preset of the Mixer, its options.
ROWS: list[tuple[float, str, str, dict[str, Any]]] = [
    (0.1, "sample", "samix", {}),
    (0.3, "sample", "samix", {}),
    (1.0, "sample", "samix", {}),
    (0.1, "sample", "samix", {"gamma": 1.0}),
    (0.3, "sample", "samix", {"gamma": 1.0}),
    (0.3, "batch", "samix", {"gamma": 1.0}),
    (0.3, "sample", "official", {}),
    (0.3, "batch", "official", {}),
]


def images(size: int) -> tuple[Tensor, Tensor]:
    """Return training images in [0, 1] with their classes."""
    part = DATASETS["tiny_imagenet"]().read().part("train")
    rows = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:IMAGES].tolist()
    codes = {name: i for i, name in enumerate(part.classes())}
    found = [decode(part.items["path"].iloc[row])[None].float() / 255 for row in rows]
    smaller = [F.interpolate(image, (size, size), mode="bilinear", antialias=True) for image in found]
    return torch.cat(smaller), torch.tensor([codes[part.items["label"].iloc[row]] for row in rows])


def learn(
    classifier: Classifier, data: tuple[Tensor, Tensor], steps: int, rate: float, per: Any, preset: str, **options: Any
) -> list[dict[str, float]]:
    """Train a Mixer and return what its masks are like on the way."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    encoder = classifier.encoder.train()
    mixer = Mixer(64, preset, dropout=0.0, **options).train()
    masks = LearnedMasks(mixer, STAGE, steps, ratio_per=per)
    optimizer = torch.optim.SGD(mixer.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    told = []
    for step in range(steps):
        rows = torch.randint(0, IMAGES, (BATCH,), generator=g)
        x, y = data[0][rows], data[1][rows]
        with torch.no_grad():
            maps = encoder.features(x, STAGE)  # type: ignore[operator]
        lam, partner = masks.draw(BATCH, g), torch.randperm(BATCH, generator=g)
        mask = masks(maps, maps[partner], lam, x).first
        loss = eta_loss(classifier(with_mask(x, x[partner], mask)), y, y[partner], lam, 0.5)
        loss = loss + masks.weight(step) * masks.loss(mask, lam)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in (steps // 3, 2 * steps // 3, steps):
            told.append(masks.look(maps, x))
    return told


def main() -> None:
    """Train a Mixer for each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--steps", type=int, default=180)
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder: ImageEncoder = load_encoder(f"{options.run}/model")[0]
    classifier = load_classifier(f"{options.run}/model", encoder).requires_grad_(False)
    data = images(encoder.image_size)
    print("| Mixer | lambda a | rate | slope | deviation | gamma |\n|---|---|---|---|---|---|")
    for rate, per, preset, choices in ROWS:
        told = learn(classifier, data, options.steps, rate, per, preset, **choices)
        cells = [
            ", ".join(f"{t[f'mixer/{name}'] + 0:.2f}" for t in told).replace("-0.00", "0.00")
            for name in ("slope", "spread", "gamma")
        ]
        name = ", ".join([preset, *(f"{key} {value}" for key, value in choices.items())])
        print(f"| {name} | {per} | {rate} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
