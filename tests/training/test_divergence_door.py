"""A run that diverges, through the door: it stops at the step, says why, and evaluates nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metrixkit.train import main

CONFIG = """
data: {name: images}
transform: {resize: 32, train: affine, flip: 0.0}
sampler: {name: m-per-class, batch_size: 8, m: 2}
model: {backbone: small, image_size: 32, dim: 16, pooling: avg}
loss: {name: lifted_structure}
optimizer: {name: adam, lr: 1e30}
training: {epochs: 2, accelerator: cpu, tensorboard: false}
loader: {workers: 0}
evaluation: {validation: 0, recall_at: [1]}
"""


@pytest.mark.slow
def test_a_diverged_run_stops_at_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(0)
    for name in range(8):
        (tmp_path / f"images/{name}").mkdir(parents=True)
        for k in range(4):
            Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype="uint8")).save(tmp_path / f"images/{name}/{k}.png")
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    code = main([str(tmp_path / "config.yaml"), f"data.root={tmp_path / 'images'}", "--run", str(run)])
    told = capsys.readouterr().err
    assert code == 2
    for word in ("at step 1 ", "Losses: total ", "optimizer.lr", "Learning rates: backbone 1e+30", "last.pt"):
        assert word in told
    assert not (run / "results.json").exists()
    state = torch.load(run / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == 0
    assert all(torch.isfinite(t).all() for t in state["method"].values())
