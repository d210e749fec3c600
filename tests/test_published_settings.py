"""The configs that say "as published" hold the numbers of their papers and releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"

METRIX = {
    "loss.loss.beta": 18.0, "loss.loss.gamma": 75.0, "loss.loss.margin": 0.77, "loss.weight": 0.4, "loss.alpha": 2.0,
    "model.dim": 512, "model.pooling": "avg+max", "sampler.batch_size": 100, "optimizer.weight_decay": 1e-4,
    "training.clip_value": 10.0,
}  # fmt: skip
FROZEN = {**METRIX, "optimizer.lr": 1e-4, "schedule.gamma": 0.5, "training.warmup_epochs": 5, "sampler.name": "shuffle",
          "model.freeze_batch_norm": True, "evaluation.recall_at": [1, 2, 4, 8, 16, 32]}  # fmt: skip
MANY = {**METRIX, "optimizer.lr": 6e-4, "schedule.every": 20, "schedule.gamma": 0.25, "training.warmup_epochs": 1,
        "training.epochs": 60, "sampler.name": "m-per-class", "sampler.m": 5, "model.freeze_batch_norm": False}  # fmt: skip
MOCO = {"model.backbone": "torchvision/resnet18", "sampler.batch_size": 256, "optimizer.lr": 0.03,
        "optimizer.weight_decay": 1e-4, "method.queue_size": 16384, "method.momentum": 0.999, "method.temperature": 0.2,
        "training.epochs": 400, "transform.resize": 96}  # fmt: skip

PUBLISHED: dict[str, dict[str, Any]] = {
    "cub_metrix": {**FROZEN, "schedule.every": 10, "training.epochs": 100},
    "cars_metrix": {**FROZEN, "schedule.every": 5, "training.epochs": 60},
    "sop_metrix": {**MANY, "evaluation.recall_at": [1, 10, 100, 1000]},
    "inshop_metrix": {**MANY, "evaluation.recall_at": [1, 10, 20, 30, 40, 50]},
    "cifar100_samix": {
        "transform.train": "random-crop", "transform.padding": 4, "transform.padding_mode": "reflect",
        "sampler.batch_size": 100, "optimizer.lr": 0.1, "optimizer.weight_decay": 1e-4, "schedule.minimum": 0.5,
        "training.epochs": 800, "method.momentum_end": 0.999999, "method.mixer_options.dropout": 0.0,
    },
    "tiny_imagenet_samix": {
        "transform.interpolation": "bicubic", "sampler.batch_size": 100, "optimizer.lr": 0.2,
        "optimizer.weight_decay": 1e-4, "schedule.minimum": 0.25, "training.epochs": 400, "method.mixer_lr": 0.5,
        "method.mixer_minimum": 0.01, "method.momentum_end": 0.999999, "method.mixer_options.dropout": 0.0,
    },
    "cub_samix": {
        "transform.scale": [0.5, 1.0], "sampler.batch_size": 16, "optimizer.lr": 1e-3, "optimizer.weight_decay": 5e-4,
        "training.epochs": 200, "method.mixer_lr": 10.0, "method.mixer_minimum": 0.05, "method.momentum_end": 0.99999,
    },
    "imagenet_samix": {
        "method.eta": 0.1, "transform.interpolation": "bicubic", "sampler.batch_size": 256, "optimizer.lr": 0.1,
        "optimizer.weight_decay": 1e-4, "training.epochs": 300, "method.mixer_lr": 1.0, "method.mixer_minimum": 0.01,
        "method.momentum_end": 0.99999,
    },
    "stl10_samix": {**MOCO, "method.hidden": 2048},
    "stl10_instance_mixup": {**MOCO, "mixer.alpha": 1.0, "mixer.view": "cross"},
    "cifar10_unmix": {
        "method.queue_size": 4096, "method.momentum": 0.99, "method.temperature": 0.1, "method.groups": 8,
        "sampler.batch_size": 512, "optimizer.lr": 0.06, "optimizer.weight_decay": 5e-4, "training.epochs": 1000,
        "mixer.cutmix_probability": 0.5,
    },
    "tiny_imagenet_mixco": {
        "mixer.temperature": 0.05, "mixer.weight": 1.0, "method.queue_size": 65536, "method.momentum": 0.999,
        "method.temperature": 0.2, "sampler.batch_size": 128, "optimizer.lr": 0.015, "optimizer.weight_decay": 1e-4,
        "training.epochs": 100,
    },
    "imagenet_clim": {
        "method.clusters": 10000, "method.neighbours": 40, "method.positives": 10, "method.refresh": 5,
        "method.alpha": 2.0, "sampler.batch_size": 512, "optimizer.lr": 0.06, "optimizer.weight_decay": 1e-4,
        "method.momentum": 0.999, "method.queue_size": 65536, "training.epochs": 200,
    },
    "mosei_dmm": {
        "model.dim": 60, "method.temperature": 0.3, "method.dmm.weight": 1.0, "method.dmm.margin": 0.2,
        "method.dmm.ramp.offset": 12, "sampler.batch_size": 128, "optimizer.lr": 1e-3, "training.epochs": 40,
        "training.clip_norm": 0.8,
    },
    "msrvtt_dmm": {
        "loss.alpha": 0.2, "model.clip_lr": 1e-3, "optimizer.lr": 1e-4, "optimizer.weight_decay": 0.2,
        "sampler.batch_size": 128, "training.epochs": 5, "training.clip_norm": 1.0, "frames.max_frames": 12,
    },
    "amazon_music_dmm": {
        "model.dim": 256, "loss.loss.margin": 1.5, "sampler.batch_size": 256, "sampler.negatives": 10,
        "sampler.steps": 256, "optimizer.lr": 1e-3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_holds_what_was_published(name: str) -> None:
    written = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    found = {}
    for key in PUBLISHED[name]:
        value: Any = written
        for part in key.split("."):
            value = value.get(part)
        found[key] = float(value) if isinstance(value, str) and value[:1].isdigit() else value
    assert found == PUBLISHED[name]
