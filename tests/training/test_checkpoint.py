"""A checkpoint that is not as it was written is told, whatever happened to it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.training import checkpoint
from metrixkit.training.checkpoint import Progress

CPU = torch.device("cpu")


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    method = nn.Linear(64, 16)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1)
    method(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    return method, optimizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    checkpoint.save(path, *parts(), Progress(epoch=2, step=20, best=0.5, best_epoch=1, before={"recall@1": 0.1}))
    return path


def test_what_was_saved_comes_back(saved: Path) -> None:
    method, optimizer = parts()
    drawn = torch.rand(3)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.no_grad():
        method.weight.zero_()  # type: ignore[operator, union-attr]
    torch.manual_seed(5)
    progress = checkpoint.load(saved, method, optimizer, CPU)
    assert (progress.epoch, progress.step, progress.best) == (2, 20, 0.5)
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert torch.equal(torch.rand(3), drawn)


def test_a_flipped_bit_is_told_wherever_it_is(saved: Path) -> None:
    """Each member of the file in turn, torch.load alone would go on with all but a few."""
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        members = [info for info in archive.infolist() if info.file_size]
    assert len(members) > 5
    for info in members:
        start = info.header_offset + 30
        start += sum(int.from_bytes(whole[start - n : start - n + 2], "little") for n in (4, 2))
        altered = bytearray(whole)
        altered[start + info.file_size // 2] ^= 1
        saved.write_bytes(altered)
        with pytest.raises(InputError, match=f"{saved.name} is altered|{saved.name} is not readable"):
            checkpoint.read(saved)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_told(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="is not readable"):
        checkpoint.load(saved, *parts(), CPU)


def test_a_checkpoint_of_the_older_format_without_checksums_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert checkpoint.read(tmp_path / "old.pt")["a"].tolist() == [1, 1]


def changed(key: str, value: Any) -> Callable[[dict], Any]:
    return lambda state: {**state, key: value}


def of_progress(**values: Any) -> Callable[[dict], Any]:
    return lambda state: {**state, "progress": {**state["progress"], **values}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: [1], "is no state of a run"),
        (lambda state: {k: v for k, v in state.items() if k != "rng"}, "is no state of a run"),
        (changed("progress", [1]), "its progress is not as this version writes it"),
        (of_progress(colour=1), "its progress is not as this version writes it .colour."),
        (of_progress(epoch="two"), "no count or no number"),
        (of_progress(step=-1), "no count or no number"),
        (of_progress(history={"a": 1}), "no count or no number"),
        (of_progress(best="high"), "no count or no number"),
        (changed("rng", 5), "no states of random generators"),
        (changed("rng", torch.ones(3)), "no states of random generators"),
        (changed("method", 5), "of another model"),
        (changed("method", {}), "of another model"),
        (changed("optimizer", {"state": {}}), "of another model"),
        (changed("optimizer", 5), "of another model"),
        (lambda state: {**state, "optimizer": {**state["optimizer"], "param_groups": []}}, "of another model"),
    ],
)
def test_another_shape_is_told(saved: Path, change: Callable[[dict], Any], words: str) -> None:
    checkpoint.write(saved, change(checkpoint.read(saved)))
    with pytest.raises(InputError, match=words):
        checkpoint.load(saved, *parts(), CPU)


def test_fields_of_progress_that_came_later_stand_at_their_defaults(saved: Path) -> None:
    state = checkpoint.read(saved)
    del state["progress"]["log_size"]
    checkpoint.write(saved, state)
    assert checkpoint.load(saved, *parts(), CPU).log_size == 0


@pytest.mark.parametrize("content", [None, [1], {"weight": torch.ones(2)}, 5])
def test_best_weights_of_another_shape_are_told(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "best.pt"
    if content is not None:
        checkpoint.write(path, content)
    with pytest.raises(InputError, match="best.pt is (missing|of another model)"):
        checkpoint.load_weights(path, parts()[0])
