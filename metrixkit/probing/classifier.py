"""A classifier trained on an encoder, image by image: frozen (linear evaluation) or together with it (fine-tuning)."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.loader import train_loader
from metrixkit.data.samplers import Shuffle
from metrixkit.errors import InputError
from metrixkit.inference import embed_items, evaluating
from metrixkit.probing.labels import class_codes, top_accuracy, tops, true_rank
from metrixkit.probing.schedules import ProbeSchedule
from metrixkit.seam import Batch

MOMENTUM, SPREAD = 0.9, 0.01


@dataclass(frozen=True)
class Pictures:
    """How images are read for a classifier.

    Attributes:
        crop: Augmentation of a training image, (3, H, W) uint8 to (3, S, S) uint8; draws from the seeded generator.
        whole: Evaluation transform.
        decode: Reads an image from its path.
        workers: Processes that decode.
        batch_size: Images of a forward call in evaluation.
    """

    crop: Callable[[Tensor], Tensor]
    whole: Callable[[Tensor], Tensor]
    decode: Callable[[Any], Tensor] = decode_file
    workers: int = 0
    batch_size: int = 128


@dataclass(frozen=True)
class Trained:
    """What a classifier was worth.

    Attributes:
        history: One entry an epoch, ``{"top@1": ..., "top@5": ...}`` on the test items.
        classes: C class names, in the order of the classifier's outputs.
        head: The linear layer, (d) -> (C).
        encoder: What it stands on: the encoder that was given, or its fine-tuned copy.
    """

    history: list[dict[str, float]]
    classes: list[str]
    head: nn.Linear
    encoder: nn.Module = field(repr=False)

    def metrics(self, prefix: str) -> dict[str, float]:
        """Return the last epoch's accuracies as ``PREFIX@k``, and as ``oracle/PREFIX@1`` the best test epoch's."""
        last = {name.replace("top", prefix, 1): value for name, value in self.history[-1].items()}
        return {**last, f"oracle/{prefix}@1": max(epoch["top@1"] for epoch in self.history)}


class Pooled(nn.Module):
    """An encoder without the division by the length at its end, which the published rates do not reckon with.

    Args:
        encoder: From (B, 3, H, W) uint8 to (B, d); only one that says ``normalize`` is changed, and only in here.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        # A fresh module is in training mode, and whoever restores that would take the encoder along.
        self.training = encoder.training

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, d) features."""
        if not getattr(self.encoder, "normalize", False):
            return self.encoder(images)  # type: ignore[no-any-return]
        self.encoder.normalize = False  # type: ignore[assignment]
        try:
            return self.encoder(images)  # type: ignore[no-any-return]
        finally:
            self.encoder.normalize = True  # type: ignore[assignment]


def train_classifier(
    encoder: nn.Module,
    train: pd.DataFrame,
    test: pd.DataFrame,
    pictures: Pictures,
    schedule: ProbeSchedule,
    seed: int = 0,
    title: str = "linear",
) -> Trained:
    """Train a linear classifier on an encoder and judge it on the test items after each epoch.

    Weights start from N(0, 0.01^2), biases from 0. With ``schedule.backbone_lr`` None the encoder is frozen: no
    gradient, and evaluation mode throughout, so that no statistic of a batch norm is used or moved. Otherwise a copy of
    it is trained, in training mode; what the encoder's own settings freeze stays so.

    Args:
        encoder: From (B, 3, H, W) uint8 images on its own device to (B, d); left as it is.
        train: Labelled items (columns id, path, label), two classes or more.
        test: Items that are judged.
        pictures: How both are read.
        schedule: See there.
        seed: Of the weights, the order of the images and their crops.
        title: Of the progress bar, shown on a terminal only.

    Raises:
        InputError: Fewer than two classes, no common class, a broken image, or a loss that is no number any more.

    Source: the linear protocol of He et al., Momentum Contrast, CVPR 2020, section 4.1 (rates by the schedule).
    """
    classes = sorted(set(train["label"]))
    if len(classes) < 2:
        raise InputError(f"a classifier needs two classes or more, and the training images are of {len(classes)}.")
    codes = class_codes(list(test["label"]), classes, "test items")
    tuned = schedule.backbone_lr is not None
    tower = Pooled(copy.deepcopy(encoder) if tuned else encoder)
    device = next(encoder.parameters()).device

    def asked() -> Tensor:
        return embed_items(
            tower, test, pictures.whole, batch_size=pictures.batch_size, workers=pictures.workers,
            decode=pictures.decode, title="embedding test",
        ).to(device)  # fmt: skip

    features = asked()
    head = _head(features.shape[1], len(classes), seed).to(device)
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": schedule.lr}]
    if tuned:
        moving = [p for p in tower.parameters() if p.requires_grad]
        groups.append({"params": moving, "lr": schedule.backbone_lr})
    optimizer = torch.optim.SGD(
        groups, lr=schedule.lr, momentum=MOMENTUM, weight_decay=schedule.weight_decay, nesterov=schedule.nesterov
    )
    labels = class_codes(list(train["label"]), classes, "training items")
    sampler = Shuffle(labels, seed, batch_size=min(schedule.batch_size, len(train)), drop_last=tuned)
    loader = train_loader(
        train, pictures.crop, sampler, pictures.workers, classes=classes, decode=pictures.decode,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    history = []
    quiet = not sys.stderr.isatty()
    with _seeded(seed, device), evaluating(tower):
        for epoch in tqdm(range(schedule.epochs), desc=title, unit="epoch", disable=quiet, dynamic_ncols=True):
            for group, lr in zip(optimizer.param_groups, (schedule.lr, schedule.backbone_lr), strict=False):
                group["lr"] = float(lr or 0.0) * schedule.factor(epoch)
            sampler.set_epoch(epoch)
            tower.train(tuned)
            for batch in loader:
                _step(tower, head, optimizer, batch, tuned)
            if tuned:
                features = asked()
            with torch.no_grad():
                scores = head(features)
            if not torch.isfinite(scores).all():
                raise InputError(
                    f"{title}: the classifier diverged in epoch {epoch + 1} at lr {schedule.lr:g}; a lower rate suits "
                    "these features."
                )
            history.append(top_accuracy(true_rank(scores, codes), "top", tops(len(classes))))
    return Trained(history, classes, head, tower.encoder)


def _step(tower: nn.Module, head: nn.Linear, optimizer: torch.optim.Optimizer, batch: Batch, tuned: bool) -> None:
    if batch.labels is None:
        raise InputError("a classifier needs labels, and the batch has none.")
    device = head.weight.device
    with torch.set_grad_enabled(tuned):
        features = tower(batch.views[0].to(device, non_blocking=True)).float()
    with torch.enable_grad():
        loss = F.cross_entropy(head(features), batch.labels.to(device, non_blocking=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _head(inputs: int, classes: int, seed: int) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, inputs, classes)
    weights = torch.from_numpy(np.random.default_rng(seed).normal(0, SPREAD, (classes, inputs)).astype(np.float32))
    with torch.no_grad():
        head.weight.copy_(weights)
        head.bias.zero_()
    return head  # type: ignore[no-any-return]


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let dropout draw by a seed, and give the generators back as they were."""
    here = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if here else []):
        torch.default_generator.manual_seed(seed)
        if here:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
