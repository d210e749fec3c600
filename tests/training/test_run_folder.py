"""Which folders a run may continue in."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.files import UNFINISHED
from metrixkit.training.loop import make_fabric
from metrixkit.training.run import RunFolder, differences
from metrixkit.training.settings import TrainingSettings


@pytest.fixture
def config(repository: Path) -> dict:
    return configs.load(repository / "configs/glyphs_metrix.yaml")


def unfinished(folder: Path, saved: dict) -> RunFolder:
    """Leave what a killed run leaves."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.pt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    return RunFolder(folder)


def test_settings_that_came_later_stand_at_their_defaults(tmp_path: Path, config: dict) -> None:
    saved = yaml.safe_load(yaml.safe_dump(config))
    for section, key in (("training", "compile"), ("transform", "solarize"), ("loss", "image_mixer")):
        del saved[section][key]
    run = unfinished(tmp_path, saved)
    run.open(config, True, configs.resolve)
    run.close()
    with pytest.raises(InputError, match="training.compile: None -> False"):
        run.open(config, True)
    changed = configs.resolve({**config, "training": {**config["training"], "compile": True}})
    with pytest.raises(InputError, match="training.compile: False -> True"):
        run.open(changed, True, configs.resolve)


def test_settings_that_are_no_more_are_named(tmp_path: Path, config: dict) -> None:
    run = unfinished(tmp_path, {**config, "model": {**config["model"], "colour": "blue"}})
    with pytest.raises(InputError, match="model.colour: 'blue' -> None"):
        run.open(config, True, configs.resolve)


def test_the_image_cache_counts_and_its_place_does_not() -> None:
    """Copies in it have other pixels than the files."""
    plain = {"loader": {"workers": 2, "cache": None, "cache_short_side": None}}
    here = {"loader": {"workers": 0, "cache": "a", "cache_short_side": 128}}
    there = {"loader": {"workers": 4, "cache": "b", "cache_short_side": 128}}
    assert "loader.cache" in differences(plain, here)
    assert differences(here, there) == ""
    assert differences(plain, {"loader": {"workers": 0, "cache": None, "cache_short_side": 64}}) == ""
    assert "short_side" in differences(here, {"loader": {"workers": 0, "cache": "a", "cache_short_side": 64}})


def leave(folder: Path, config: dict, *names: str) -> RunFolder:
    """Leave files as a run with these settings leaves them."""
    (folder / "checkpoints").mkdir(parents=True)
    configs.save(config, folder / "config.yaml")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("names", "finished", "goes_on"),
    [
        (("results.json", "model/config.json", "report.html", "checkpoints/last.pt"), True, False),
        (("results.json", "model/config.json", "report.html"), True, False),
        (("results.json", "report.html"), True, False),  # somebody made room: nothing is left to go on from
        (("results.json", "model/config.json", "checkpoints/last.pt"), False, True),  # killed before its page
        (("results.json", "report.html", "checkpoints/last.pt"), False, True),
        (("checkpoints/last.pt",), False, True),
    ],
)
def test_a_run_is_finished_when_all_of_it_stands(
    tmp_path: Path, config: dict, names: tuple[str, ...], finished: bool, goes_on: bool
) -> None:
    run = leave(tmp_path / "run", config, *names)
    assert run.finished == finished
    with pytest.raises(InputError, match="holds a finished run|holds an unfinished run"):
        run.open(config, False)
    if goes_on:
        run.open(config, True)
        run.close()
    else:
        with pytest.raises(InputError, match="holds a finished run"):
            run.open(config, True)


def test_only_one_training_writes_into_a_folder(tmp_path: Path, config: dict) -> None:
    """The other process is told who writes there, and may once that one has been killed."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        held = RunFolder(tmp_path / "run")
        held.open(config, False)
        os.write(told, b"1")
        signal.pause()
    try:
        assert os.read(ready, 1) == b"1"
        with pytest.raises(InputError, match=f"another training is writing .*process {child} on .*--run OTHER_FOLDER"):
            RunFolder(tmp_path / "run").open(config, False)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
    run = RunFolder(tmp_path / "run")
    run.open(config, False)
    run.close()


def test_children_of_a_run_do_not_hold_its_folder(tmp_path: Path, config: dict) -> None:
    """Loader workers outlive a killed training for seconds; it is continued at once."""
    run = RunFolder(tmp_path / "run")
    run.open(config, False)
    child = os.fork()
    if child == 0:
        signal.pause()
    run.close()
    other = os.fork()
    if other == 0:
        RunFolder(tmp_path / "run").open(config, False)
        os._exit(7)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 7
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_goes_on_and_says_so(
    tmp_path: Path, config: dict, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("metrixkit.training.lock.fcntl.lockf", refuse)
    RunFolder(tmp_path / "run").open(config, False)
    assert "keeps no locks" in caplog.text


def test_halves_that_a_kill_left_are_cleared_away(tmp_path: Path, config: dict) -> None:
    run = leave(
        tmp_path / "run", config, "checkpoints/last.pt", f"checkpoints/{UNFINISHED}ab.pt", f"{UNFINISHED}cd.json"
    )
    run.open(config, True)
    run.close()
    assert not [path for path in run.path.rglob(f"{UNFINISHED}*")]
    assert (run.checkpoints / "last.pt").exists()


def test_more_processes_than_processors_are_refused_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    with pytest.raises(InputError, match=r"devices=3, but .* 2 processors.*training.oversubscribe=true"):
        make_fabric(TrainingSettings(accelerator="cpu", devices=3))
    assert make_fabric(TrainingSettings(accelerator="cpu", devices=2)).strategy is not None
    assert make_fabric(TrainingSettings(accelerator="cpu", devices=3, oversubscribe=True)).strategy is not None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=r"devices=4, but torch sees 1 CUDA devices"):
        make_fabric(TrainingSettings(accelerator="cuda", devices=4, oversubscribe=True))
