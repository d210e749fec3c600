"""SIGKILL at random moments of a training, and ``--resume`` until it is finished: is it the run it would have been?

    python benchmarks/kills_training.py --kills 100

A warm process forks a child for each attempt, kills it at a random moment of the time that an uninterrupted run takes
(imports not counted), and continues it, with a kill each time, until one attempt reaches its end. Then checkpoints
(weights, optimiser, generators), ``best.pt``, the exported model, every line of ``metrics.jsonl``, the metrics and the
predictions are compared with those of the uninterrupted run, bit by bit; of the page and of ``config.yaml`` it is
asked that they stand. Pictures are not drawn: they take longer than all the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metrixkit import config as configs
from metrixkit.experiment import train
from metrixkit.files import UNFINISHED
from metrixkit.jobs import images
from metrixkit.training import checkpoint

CONFIG = """
data: {name: glyphs, train_classes: 12, test_classes: 4}
transform: {resize: 32, train: affine, flip: 0.0}
sampler: {name: m-per-class, batch_size: 20, m: 4}
model: {backbone: small, image_size: 32, dim: 16, pooling: avg}
loss: {name: metrix, loss: {name: contrastive}}
optimizer: {name: adam, lr: 1e-3}
training: {epochs: 2, accelerator: cpu, tensorboard: false, checkpoint_every: 1, log_every: 1}
loader: {workers: 0}
"""


def attempt(config: dict[str, Any], folder: Path, kill_after: float | None) -> bool:
    """Start or continue the run in a child; return whether it reached its end before it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                train(config, folder, resume=True)
                status = 0
            except Exception as error:
                print(f"{folder}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(status)
    if kill_after is not None:
        end = time.monotonic() + kill_after
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.001)
        else:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    else:
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"{folder}: a continuation failed with status {code}")
    return code == 0


def tensors(content: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of a nested checkpoint by their path."""
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in tensors(value, f"{path}/{key}").items()}
    if isinstance(content, list | tuple):
        return {k: v for i, value in enumerate(content) for k, v in tensors(value, f"{path}/{i}").items()}
    return {path: content}


def differences(whole: Path, killed: Path) -> list[str]:
    """Return what differs between two run folders, bit by bit."""
    found = []
    for name in ("last.pt", "best.pt"):
        one, two = (tensors(checkpoint.read(run / "checkpoints" / name)) for run in (whole, killed))
        if one.keys() != two.keys():
            found.append(f"{name}: other entries")
            continue
        for key, value in one.items():
            if key == "/progress/seconds":
                continue
            same = torch.equal(value, two[key]) if isinstance(value, torch.Tensor) else value == two[key]
            if not same:
                found.append(f"{name}{key}")
    for name in ("metrics.jsonl", "model/model.safetensors"):
        if (whole / name).read_bytes() != (killed / name).read_bytes():
            found.append(name)
    results = [json.loads((run / "results.json").read_text()) for run in (whole, killed)]
    found += [f"results.json/{key}" for key in ("metrics", "before", "last") if results[0][key] != results[1][key]]
    with np.load(whole / "predictions.npz") as one, np.load(killed / "predictions.npz") as two:
        found += [f"predictions.npz/{key}" for key in one.files if one[key].tobytes() != two[key].tobytes()]
    found += [f"{name} is missing" for name in ("report.html", "config.yaml") if not (killed / name).is_file()]
    found += [f"left behind: {path.relative_to(killed)}" for path in killed.rglob(f"{UNFINISHED}*")]
    return found


def main() -> int:
    """Kill, continue, compare; return 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images.draw_pictures = images.draw_mixtures = lambda *_, **__: None  # type: ignore[assignment]
    draws = random.Random(options.seed)
    # A kill loses nothing that the system has been given: memory will do, and spares the disk.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        base = Path(place)
        (base / "tiny.yaml").write_text(CONFIG)
        config = configs.load(base / "tiny.yaml")
        with contextlib.redirect_stdout(io.StringIO()):
            train(config, base / "warm")  # here: what it imports, its children have
        started = time.monotonic()
        attempt(config, base / "whole", None)
        length = time.monotonic() - started
        kills = runs = 0
        bad: list[str] = []
        while kills < options.kills:
            folder = base / f"run{runs}"
            while not attempt(config, folder, draws.uniform(0, length) if kills < options.kills else None):
                kills += 1
            runs += 1
            bad += [f"{folder.name}: {what}" for what in differences(base / "whole", folder)]
            print(f"{kills} kills, {runs} runs finished, {len(bad)} differences", flush=True)
        print(f"{kills} kills in {runs} runs of {length:.1f} s, {len(bad)} differences")
        print("\n".join(bad[:20]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
