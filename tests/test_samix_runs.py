"""SAMix runs through the door's own code: interrupted ones go on, and the Mixer is kept with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metrixkit import config as configs
from metrixkit.experiment import train
from metrixkit.mixing.mixer import has_mixer, load_mixer
from metrixkit.models import load_encoder
from metrixkit.training.loop import Trainer

SMALL = [
    "data.train_classes=24", "data.test_classes=8", "sampler.batch_size=32", "training.epochs=2", "loader.workers=0",
    "training.accelerator=cpu", "training.tensorboard=false", "training.log_every=1", "training.checkpoint_every=2",
]  # fmt: skip
CONTRAST = [
    "method.stage=2", "method.queue_size=64", "method.groups=2", "method.dim=16", "transform.train=affine",
]  # fmt: skip
RUNS = {
    "samix": ["method.ratio_per=sample", "method.adjust_probability=0.5"],
    "samix_i": ["method=samix_i", *CONTRAST],
    "samix_c": ["method=samix_c", "method.clusters=3", *CONTRAST],
}


class Cut(Exception):
    """Stands for a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_goes_on_and_keeps_its_mixer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(repository)
    config = configs.load("configs/glyphs_samix.yaml", [*RUNS[name], *SMALL])
    train(config, tmp_path / "whole")
    whole = torch.load(tmp_path / "whole/checkpoints/last.pt", weights_only=True)
    steps = whole["progress"]["step"]
    taken, plain = [0], Trainer.step

    def dying(self: Trainer, *arguments: Any) -> float:
        taken[0] += 1
        if taken[0] in (4, steps - 1):
            raise Cut
        return plain(self, *arguments)

    monkeypatch.setattr(Trainer, "step", dying)
    for again in (False, True):
        with pytest.raises(Cut):
            train(config, tmp_path / "cut", resume=again)
    train(config, tmp_path / "cut", resume=True)
    cut = torch.load(tmp_path / "cut/checkpoints/last.pt", weights_only=True)
    for key, value in whole["method"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, cut["method"][key]), key
    saved = load_mixer(tmp_path / "cut/model")
    assert saved.stage == 2
    prefix = "learned_masks.mixer." if name == "samix" else "core.learned_masks.mixer."
    for key, value in saved.mixer.state_dict().items():
        assert cut["method"][prefix + key].shape == value.shape
    encoder, _ = load_encoder(tmp_path / "cut/model")
    maps = encoder.features(torch.rand(2, 3, 32, 32), saved.stage)
    masks = saved.mixer(maps, maps.flip(0), 0.3, (32, 32))
    torch.testing.assert_close(masks.first + masks.second, torch.ones(2, 1, 32, 32))
    if name != "samix_c":
        kept = ["method.mixer_options=null", f"method.mixer_from={tmp_path / 'cut'}", "method.freeze_mixer=true"]
        config = configs.load("configs/glyphs_samix.yaml", [*RUNS[name], *SMALL, "training.epochs=1", *kept])
        train(config, tmp_path / "frozen")
        # That Mixer reads the maps of the first run's network, not of the one that lies here.
        assert not has_mixer(tmp_path / "frozen/model")
