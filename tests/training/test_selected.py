"""The end of a run: which weights are judged, exported and written down as the selected ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from metrixkit import experiment
from metrixkit.jobs.job import Judged
from metrixkit.training.checkpoint import Progress
from metrixkit.training.log import RunLog
from metrixkit.training.run import RunFolder

NAME = "test/recall@1"


class Weighed(nn.Linear):
    """One number, which is its score."""

    def __init__(self, value: float) -> None:
        super().__init__(1, 1, bias=False)
        nn.init.constant_(self.weight, value)


@pytest.mark.parametrize(
    ("selects", "best_epoch", "expected"),
    [
        ("validation/recall@1", 2, ("best", 2, 0.8)),
        ("validation/recall@1", 3, ("best", 3, 0.5)),
        (None, 2, ("last", 3, 0.5)),
    ],
)
def test_the_selected_weights_are_those_of_best_pt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selects: str | None, best_epoch: int, expected: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(experiment, "write_report", lambda path: None)
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir(parents=True)
    torch.save(Weighed(0.8).state_dict(), folder.checkpoints / "best.pt")
    method, exported = Weighed(0.5), []
    job = SimpleNamespace(
        config={"task": "retrieval", "seed": 0}, fabric=Fabric(accelerator="cpu", devices=1), method=method,
        data="toy", split="own", protocol="validation", selects=selects, headline=NAME, validation={},
        filed=lambda history, last: {}, judge=lambda: Judged({NAME: round(method.weight.item(), 6)}, {}, {}),
        keep=lambda where, judged: exported.append((judged.metrics[NAME], round(method.weight.item(), 6))),
    )  # fmt: skip
    progress = Progress(epoch=3, best=0.9, best_epoch=best_epoch, before={NAME: 0.1})
    with RunLog(tmp_path, True, tensorboard=False) as log:
        experiment.finish(job, folder, progress, log, 1.0)  # type: ignore[arg-type]
    results = json.loads(folder.results.read_text())
    kind, epoch, score = expected
    assert (results["selected"], results["selected_epoch"]) == (kind, epoch)
    assert (results["metrics"][NAME], results["last"][NAME]) == (score, 0.5)
    assert exported == [(score, score)], "what is exported is what was judged"
