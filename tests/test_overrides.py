"""``key=value``: a text is the characters typed, everything else is YAML, and the schema tells which is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metrixkit import config, sweep
from metrixkit.data.__main__ import main as data_door
from metrixkit.errors import InputError


def said(*overrides: str) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    for override in overrides:
        config.apply_override(raw, override)
    return raw


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my photos #1", "my photos #1"),
        ("007", "007"),
        ("no", "no"),
        ("[a", "[a"),
        ("~", "~"),
        ("a: b", "a: b"),
        ("1e3", "1e3"),
        ("a=b", "a=b"),
        ("null", None),
        ("", None),
        ('"null"', "null"),
        ("'it''s'", "it's"),
        ('""', ""),
        ('say "hi"', 'say "hi"'),
        ("${oc.env:HOME}", "${oc.env:HOME}"),
    ],
)
@pytest.mark.parametrize("before", [["data=images"], []])  # without a name, all data sets have text there
def test_text_is_the_characters_typed(before: list[str], text: str, value: str | None) -> None:
    assert said(*before, f"data.root={text}")["data"]["root"] == value


def test_null_is_none_only_where_none_may_stand() -> None:
    assert said("data=captions", "data.table=null")["data"]["table"] == "null"
    assert said("data=images", "data.table=null")["data"]["table"] is None
    with pytest.raises(InputError, match="data.table: expected text, got None"):
        config.resolve_sections(said("data=captions", "data.table="), ("data",))


def test_everything_else_is_yaml() -> None:
    assert said("optimizer.lr=3e-5", "seed=07", "training.epochs=5", "evaluation.recall_at=[1, 2]") == {
        "optimizer": {"lr": 3e-5},
        "seed": 7,
        "training": {"epochs": 5},
        "evaluation": {"recall_at": [1, 2]},
    }
    assert said("data={name: images, root: '#1'}") == {"data": {"name": "images", "root": "#1"}}
    with pytest.raises(InputError, match=r"'training.epochs=\[a': the value is not readable as YAML"):
        said("training.epochs=[a")


def test_text_within_settings_lists_and_mappings() -> None:
    assert said("data=images", "data.columns.label=007")["data"]["columns"] == {"label": "007"}
    assert said("data=images", "data.columns={label: 007}")["data"]["columns"] == {"label": 7}  # YAML says so
    raw = said("data=captions", "data.features={a: 007, b: no}", "data.modalities.x=text", "data.features.c=1e3")
    assert raw["data"]["features"] == {"a": "007", "b": "no", "c": "1e3"}
    assert raw["data"]["modalities"] == {"x": "text"}
    assert said("loss=metrix", "loss.loss=contrastive", "loss.loss.margin=0.5", "loss.pairs=[no, x]")["loss"] == {
        "name": "metrix",
        "loss": {"name": "contrastive", "margin": 0.5},
        "pairs": ["no", "x"],
    }
    assert said("loss=metrix", "loss.pairs=no")["loss"]["pairs"] == "no"
    with pytest.raises(InputError, match="data.on_missing: expected .*got 'no'"):  # and not False
        config.resolve_sections(said("data=images", "data.root=x", "data.on_missing=no"), ("data",))


def test_words_of_what_nobody_knows_stay_whole() -> None:
    assert said("data=own:Set", "data.root=a #b", "data.count=3")["data"] == {
        "name": "own:Set",
        "root": "a #b",
        "count": 3,
    }


def test_the_doors_read_the_folder_that_was_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("007,class\n0.png,a\n")
    assert data_door(["check", str(tmp_path / "t.csv"), "columns.path=07", "columns.label=class"]) == 2
    assert "has no column '07' (data.columns.path); it has '007', 'class'" in capsys.readouterr().err
    wanted = f"{tmp_path}/my photos #1"
    assert data_door(["check", "images", f"root={wanted}"]) == 2
    assert wanted in capsys.readouterr().err


def test_a_sweep_keeps_text_and_quotes_commas() -> None:
    key, values = sweep.read_values('data.classes="1,5",007')
    assert [said("data=cub", f"{key}={value}")["data"]["classes"] for value in values] == ["1,5", "007"]
