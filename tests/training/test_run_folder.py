"""Which folders a run may continue in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.training.run import RunFolder, differences


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
