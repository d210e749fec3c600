"""What a name in a config may resolve to: for every family, an object of its kind, before anything is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import CODE, SETTINGS

from metrixkit import config as configs
from metrixkit.__main__ import main
from metrixkit.errors import InputError
from metrixkit.families import ANY, Kind, allow_code, folders_trusted, lookup, names_in, trust_folders, within_config
from metrixkit.methods.instance_mixup import InstanceMixup
from metrixkit.mixing.images import IMAGE_MIXER
from metrixkit.models import ImageEncoder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "theirs.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import json\nraise RuntimeError('not today')\n")
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("theirs", None)


def build_model(override: str) -> None:
    config = configs.load("settings.yaml", [override])
    with allow_code(ANY):
        configs.build(config, "model")


@pytest.mark.parametrize("key", [*configs.FAMILIES, "task"])
def test_no_family_takes_any_callable(place: Path, key: str) -> None:
    extra = (
        ["method=classification", "loss="]
        if key == "image_mixer"
        else ["method=moco", "loss="]
        if key == "mixer"
        else []
    )
    for name in ("os:system", "os:getcwd", "subprocess:getoutput", "subprocess:Popen", "io:FileIO", "builtins:eval"):
        with pytest.raises(InputError, match="is of Python's own library"):
            configs.load("settings.yaml", [*extra, f"{key}={name}"])
    for name in ("theirs:shell", "pandas:read_pickle", "numpy:fromfile"):
        with pytest.raises(InputError, match=r"is no .* so it is not called"):
            configs.load("settings.yaml", [*extra, f"{key}={name}"])
    assert not Path("called").exists()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("loss=:X", "no loss is called ':X'"),
        ("loss=..:x", "no loss is called"),
        ("loss=a b:x", "no loss is called"),
        ("loss='a:'", "no loss is called"),
        ("loss=a:b:c", "no loss is called"),
        ("data.name=[a]", "no data set is called"),
        ("data.name={a: b}", "no data set is called"),
        ("data=5", "expected the name of a data set"),
        ("task=..:x", "no task is called"),
        ("loss=theirs:Absent", "module 'theirs' has no 'Absent'"),
        ("loss=absent:X", "cannot import 'absent'"),
        ("loss=broken:X", r"importing 'broken' failed with RuntimeError: not today \(.*broken.py, line 2\)"),
        ("model.backbone=theirs:shell", "is no nn.Module class"),
        ("seed=-1", "seed: expected a whole number from 0 to 4294967295, got -1"),
        ("seed=4294967296", "seed: expected a whole number from 0"),
        ("seed=${seed}", "seed: expected a whole number"),
        ("seed=${oc.env:HOME}", "seed: expected a whole number"),
        ("seed=???", "seed: expected a whole number"),
        ("data={name: images, root: photos, seed: -7}", "data.seed: expected a whole number from 0"),
        ("model.mean=['${seed}', 0, 0]", "model.mean: expected"),
        ("transform.interpolation=${seed}", "transform.interpolation: expected one of"),
    ],
)
def test_odd_names_and_seeds(place: Path, override: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        build_model(override)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "???", "${", "a${b"])
def test_a_text_stays_the_characters_it_is(place: Path, text: str) -> None:
    (place / "own.yaml").write_text(SETTINGS)
    config = configs.load("own.yaml")
    raw = {**config, "data": {**config["data"], "root": text}}
    assert configs.resolve(raw)["data"]["root"] == text


@pytest.mark.parametrize("option", [("mix", "--seed"), ("compare", "x", "--seed"), ("index", "tune", "x", "--seed")])
@pytest.mark.parametrize("seed", ["-1", "4294967296", "x"])
def test_seeds_of_options(option: tuple[str, ...], seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main([*option, seed])
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert "whole number from 0 to 4294967295" in capsys.readouterr().err


def test_a_person_may_name_code_in_their_own_python(place: Path) -> None:
    assert ImageEncoder("theirs:Net", dim=4).embedding_dim == 4
    with allow_code(()), pytest.raises(InputError, match="'theirs:Net' is code"):
        ImageEncoder("theirs:Net", dim=4)


def test_image_mixers_of_ones_own(place: Path) -> None:
    (place / "mixers.py").write_text(
        "from metrixkit.mixing.images import MixedImages, mixup\n"
        "def own(images, partner, lam, generator):\n    return mixup(images, partner, lam, generator)\n"
        "def text(images, partner, lam, generator) -> str: ...\n"
    )
    assert InstanceMixup(image="mixers:own").mixer is lookup("mixers:own", {}, IMAGE_MIXER, by_caller=True)
    for name in ("mixers:text", "theirs:shell"):
        with pytest.raises(InputError, match="is no function of"):
            InstanceMixup(image=name)
    with within_config(), pytest.raises(InputError, match="'mixers:own' is code"):
        InstanceMixup(image="mixers:own")


def test_contexts_do_not_add_up(place: Path) -> None:
    kind = Kind("thing", "class", lambda found: isinstance(found, type))

    def allowed() -> bool:
        try:
            lookup("theirs:Reader", {}, kind)
        except InputError:
            return False
        return True

    assert not allowed()
    with allow_code(ANY):
        assert allowed()
        with allow_code(()):  # a folder that is read while a config is at work
            assert not allowed()
            with within_config():
                assert not allowed()
        with allow_code({"theirs:Net"}):
            assert not allowed()
        with allow_code({"theirs:Reader"}), within_config():
            assert allowed()
    assert not allowed()
    assert not folders_trusted()
    with trust_folders():
        assert folders_trusted()
        assert not allowed()  # trust tells what a folder may name; it names nothing here


def test_names_in_settings() -> None:
    content = {"a": ["b.c:D", {"e": "f:G"}], "h": "C:\\photos", "i": "10:20", "j": 5, "k": "x:y:z", "l": None}
    assert names_in(content) == {"b.c:D", "f:G"}
