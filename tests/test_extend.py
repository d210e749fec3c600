"""docs/extend.md is run as it stands: its files are written, its commands executed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_every_block_of_extend_runs(tmp_path: Path, repository: Path) -> None:
    text = (repository / "docs/extend.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    for kind, body in blocks:
        if kind in ("python", "yaml"):
            name = re.match(r"# (\S+)\n", body)
            assert name, f"a {kind} block without its file name"
            (tmp_path / name.group(1)).write_text(body)
    leaves = tmp_path / "leaves"
    leaves.mkdir()
    rng = np.random.default_rng(0)
    for species in range(16):
        colour = rng.integers(0, 255, 3)
        for number in range(8):
            noise = rng.integers(-20, 20, (32, 32, 3))
            Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(
                leaves / f"sp{species:02d}_{number}.png"
            )
    commands = [line for kind, body in blocks if kind == "bash" for line in body.strip().splitlines()]
    assert len(commands) >= 4
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for run in ("own-loss", "own-data", "own-net", "own-mixer"):
        results = json.loads((tmp_path / "runs" / run / "results.json").read_text())
        assert 0 <= results["metrics"]["recall@1"] <= 1
    assert np.load(tmp_path / "embedded/embeddings.npy").shape == (16 * 8, 32)
