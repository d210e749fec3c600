"""Self-supervised runs through the door's own code: an interrupted run goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from metrixkit import config as configs
from metrixkit import load_model
from metrixkit.experiment import train
from metrixkit.training.loop import Trainer

SMALL = [
    "data.train_classes=20", "data.test_classes=8", "sampler.batch_size=32", "method.queue_size=64", "method.groups=2",
    "training.accelerator=cpu", "training.tensorboard=false", "training.log_every=1", "loader.workers=0",
]  # fmt: skip
RUNS = {
    "glyphs_moco_mixco": ["training.epochs=2", "training.checkpoint_every=2"],
    "glyphs_clim": [
        "training.epochs=3", "training.checkpoint_every=2", "method.warmup_epochs=1", "method.refresh=1",
        "method.clusters=3", "method.resolutions=[32,24]",
    ],
}  # fmt: skip


class Cut(Exception):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def _at_the_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs.load(f"configs/{name}.yaml", [*SMALL, *RUNS[name]])
    train(config, tmp_path / "whole")
    steps = torch.load(tmp_path / "whole/checkpoints/last.pt", weights_only=True)["progress"]["step"]
    assert steps > 9
    taken, plain = [0], Trainer.step

    def dying(self: Trainer, *arguments: Any) -> float:
        taken[0] += 1
        if taken[0] in (4, steps - 1):  # in the first epoch, and in the last one, behind a selection
            raise Cut
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "step", dying)
    for _ in range(2):
        with pytest.raises(Cut):
            train(config, tmp_path / "cut", resume=True)
    train(config, tmp_path / "cut", resume=True)
    states = [torch.load(tmp_path / run / "checkpoints/last.pt", weights_only=True) for run in ("whole", "cut")]
    for part in ("method", "optimizer"):
        assert _same(states[0][part], states[1][part]), part
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert ("selection/fallback_share" in lines[0]) == (name == "glyphs_clim")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.slow
def test_the_door_trains_and_says_what_does_not_fit(repository: Path, tmp_path: Path) -> None:
    def door(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "metrixkit.train", "configs/glyphs_moco_mixco.yaml", *SMALL, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)

    run = tmp_path / "run"
    done = door("training.epochs=1", "--run", str(run))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    results = json.loads((run / "results.json").read_text())
    assert results["selected"] == "best"
    assert load_model(run).embed([torch.zeros(3, 32, 32, dtype=torch.uint8)]).shape == (1, 160)
    refused = door("loss=contrastive", "--run", str(tmp_path / "other"))
    assert refused.returncode != 0
    assert "loss does not apply" in refused.stdout + refused.stderr


@pytest.mark.data
@pytest.mark.slow
def test_classes_of_tiny_imagenet_end_to_end(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRIXKIT_DATA", str(shared_data))
    words = ["training.epochs=1", "training.tensorboard=false", "evaluation.linear=false", "mixer=unmix"]
    config = configs.load("configs/tiny_imagenet_20_moco.yaml", words)
    results = train(config, tmp_path / "run")
    assert results["headline"] == "knn@1"
    assert results["counts"]["train"] == 9000
    assert results["counts"]["test"] == 1000
    assert 0.05 < results["metrics"]["knn@1"] < 1
    assert "alidation" in results["definitions"]["knn@1"] or "train" in results["definitions"]["knn@1"]


@pytest.mark.slow
def test_a_backbone_of_a_library_is_exported_in_its_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        *SMALL,
        "training.epochs=1",
        "data.train_classes=4",
        "data.test_classes=3",
        "model.backbone=torchvision/resnet18",
    ]
    words += ["model.stem=small", "sampler.batch_size=16", "mixer=none", "evaluation.validation=0.5"]
    config = configs.load("configs/glyphs_moco_mixco.yaml", words)
    # Steps that train nothing: the export is what is asked.
    monkeypatch.setattr(Trainer, "step", lambda self, batch, progress, steps: _count(progress))
    train(config, tmp_path / "run")
    from safetensors.torch import load_file

    assert "layer4.1.conv2.weight" in load_file(tmp_path / "run/backbone.safetensors")
    assert json.loads((tmp_path / "run/backbone.json").read_text())


def _count(progress: Any) -> float:
    progress.step += 1
    progress.position += 1
    return 0.0
