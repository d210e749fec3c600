"""Does the Mixer learn to follow lambda, on real images and through a trained network?

    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/samix_lambda.py RUN [--steps 180]
    METRIXKIT_DATA=DIR OMP_NUM_THREADS=1 python benchmarks/samix_lambda.py RUN --birds [--steps 120]

RUN is a finished run of ``configs/tiny_imagenet_20_mixers.yaml`` or ``tiny_imagenet_20_samix.yaml``. Its classifier
stays as it is; a new Mixer learns through it from generation loss (eta 0.5) and mask loss (beta 0.1, falling linearly),
on 64 of 1,500 training images a step, without augmentation, by SGD with momentum 0.9. Told after a third, two thirds
and all of the steps: slope of the masks' mean against lambda (1 is wanted), deviation of a mask's pixels, gamma. One
seed. With ``--birds`` RUN is one of ``configs/cub_samix.yaml`` with MobileNetV2 on classes 1-50 (its settings stand in
RESULTS.md, "SAMix"), and a step sees 16 of 400 images: maps of a linear bottleneck, which have no sign of their own.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.data import DATASETS
from metrixkit.data.decode import decode
from metrixkit.losses import eta_loss
from metrixkit.methods.learned_masks import LearnedMasks
from metrixkit.methods.mixer_start import channels_at
from metrixkit.methods.samix_presets import RatioPer
from metrixkit.mixing import Mixer
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.models import Classifier, ImageEncoder, load_classifier, load_encoder

# Row: rate, lambda for each, preset of the Mixer, its options.
Row = tuple[float, RatioPer, str, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """Which images, how many in all and a step, whose maps, how many steps if not said, and the rows."""

    data: str
    options: dict[str, Any]
    images: int
    batch: int
    stage: int
    steps: int
    rows: tuple[Row, ...]


TINY = Study(
    "tiny_imagenet",
    {},
    1500,
    64,
    2,
    180,
    (
        (0.1, "sample", "samix", {}),
        (0.3, "sample", "samix", {}),
        (1.0, "sample", "samix", {}),
        (0.1, "sample", "samix", {"gamma": 1.0}),
        (0.3, "sample", "samix", {"gamma": 1.0}),
        (0.3, "batch", "samix", {"gamma": 1.0}),
        (0.3, "sample", "official", {}),
        (0.3, "batch", "official", {}),
    ),
)
BIRDS = Study(
    "cub",
    {"split": "classification", "classes": "1-50"},
    400,
    16,
    13,
    120,
    (
        (0.01, "sample", "samix", {"gamma": 1.0}),
        (0.01, "sample", "samix", {"gamma": 1.0, "att_norm": True}),
        (0.01, "sample", "samix", {"gamma": 1.0, "rectify": True}),
        (0.01, "sample", "samix", {"gamma": 1.0, "att_norm": True, "rectify": True}),
    ),
)


def images(study: Study, size: int) -> tuple[Tensor, Tensor]:
    """Return training images in [0, 1], squeezed to squares, with their classes."""
    part = DATASETS[study.data](**study.options).read().part("train")
    rows = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[: study.images].tolist()
    codes = {name: i for i, name in enumerate(part.classes())}
    found = [decode(part.items["path"].iloc[row])[None].float() / 255 for row in rows]
    smaller = [F.interpolate(image, (size, size), mode="bilinear", antialias=True) for image in found]
    return torch.cat(smaller), torch.tensor([codes[part.items["label"].iloc[row]] for row in rows])


def learn(
    classifier: Classifier, study: Study, data: tuple[Tensor, Tensor], steps: int, row: Row
) -> list[dict[str, float]]:
    """Train a Mixer and return what its masks are like on the way."""
    rate, per, preset, options = row
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    encoder = classifier.encoder.train()
    mixer = Mixer(channels_at(encoder, study.stage), preset, dropout=0.0, **options).train()
    masks = LearnedMasks(mixer, study.stage, steps, ratio_per=per)
    optimizer = torch.optim.SGD(mixer.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    told = []
    for step in range(steps):
        rows = torch.randint(0, len(data[0]), (study.batch,), generator=g)
        x, y = data[0][rows], data[1][rows]
        with torch.no_grad():
            maps = encoder.features(x, study.stage)  # type: ignore[operator]
        lam, partner = masks.draw(study.batch, g), torch.randperm(study.batch, generator=g)
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
    parser.add_argument("--birds", action="store_true", help="CUB and MobileNetV2, not Tiny-ImageNet")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    study = BIRDS if options.birds else TINY
    steps = study.steps if options.steps is None else options.steps
    torch.set_num_threads(1)
    encoder: ImageEncoder = load_encoder(f"{options.run}/model")[0]
    classifier = load_classifier(f"{options.run}/model", encoder).requires_grad_(False)
    data = images(study, encoder.image_size)
    print("| Mixer | lambda a | rate | slope | deviation | gamma |\n|---|---|---|---|---|---|")
    for row in study.rows:
        rate, per, preset, choices = row
        told = learn(classifier, study, data, steps, row)
        cells = [
            ", ".join(f"{t[f'mixer/{name}'] + 0:.2f}" for t in told).replace("-0.00", "0.00")
            for name in ("slope", "spread", "gamma")
        ]
        name = ", ".join([preset, *(f"{key} {value}" for key, value in choices.items())])
        print(f"| {name} | {per} | {rate} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
