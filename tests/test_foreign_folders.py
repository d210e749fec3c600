"""Run, model and index folders of others are data: nothing in them is imported, called, asked for or fetched."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from foreign import CODE, change_json, photos, run_folder

import metrixkit.embedding.images as images
from metrixkit import load_model
from metrixkit.__main__ import main
from metrixkit.comparison import compare
from metrixkit.errors import InputError
from metrixkit.training.run import RunFolder

Door = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with photos and a module that notes when it is imported."""
    photos(tmp_path)
    (tmp_path / "theirs.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("theirs", None)


@pytest.fixture
def door(capsys: pytest.CaptureFixture[str]) -> Door:
    """Call a command; return what it said."""

    def call(*words: object, status: int = 2) -> str:
        capsys.readouterr()
        found = main([str(word) for word in words])
        told = capsys.readouterr()
        assert found == status, told.out + told.err
        return told.out + told.err

    return call


def refused(told: str, name: str = "theirs:Reader") -> None:
    assert repr(name) in told
    assert "module 'theirs'" in told
    assert "--trust" in told
    assert not Path("imported").exists()


OF_A_RUN = [
    ("evaluate", "run"),
    ("evaluate", "run", "data.root=photos"),
    ("embed", "run", "--out", "out"),
    ("index", "build", "run", "--out", "ix"),
    ("index", "duplicates", "run"),
    ("mix", "--run", "run", "--out", "m.png"),
]


@pytest.mark.parametrize("words", OF_A_RUN, ids=lambda words: "-".join(words[:2]))
def test_a_reader_that_a_run_names_is_not_imported(place: Path, door: Door, words: tuple[str, ...]) -> None:
    run_folder(place, {"data": {"name": "theirs:Reader"}})
    refused(door(*words))


def test_a_task_that_a_run_names_is_not_imported(place: Path, door: Door) -> None:
    run_folder(place, {"task": "theirs:Reader"})
    refused(door("robustness", "run"))


def test_a_trusted_run_brings_its_reader(place: Path, door: Door) -> None:
    run_folder(place, {"data": {"name": "theirs:Reader"}})
    assert "recall@1" in door("evaluate", "run", "evaluation.utilization=false", "--trust", status=0)
    assert Path("imported").exists()


def test_what_a_person_types_is_trusted_and_nothing_beside_it(place: Path, door: Door) -> None:
    run_folder(place, {"data": {"name": "others:Reader"}})
    told = door("evaluate", "run", "data=theirs:Reader", "evaluation.utilization=false", status=0)
    assert "recall@1" in told
    (place / "others.py").write_text(CODE)
    assert "'others:Reader' is code" in door("evaluate", "run", "data.root=photos")
    assert "18 embeddings" in door("embed", "run", "data=theirs:Reader", "--out", "out", status=0)


OF_A_MODEL = [
    ("evaluate", "run/model", "data=images", "data.root=photos"),
    ("embed", "run", "photos", "--out", "out"),
    ("index", "build", "run/model", "photos", "--out", "ix"),
    ("mix", "photos", "--run", "run", "--out", "m.png"),
]


@pytest.mark.parametrize("words", OF_A_MODEL, ids=lambda words: "-".join(words[:2]))
def test_a_backbone_that_a_model_names_is_not_imported(place: Path, door: Door, words: tuple[str, ...]) -> None:
    run_folder(place, backbone="theirs:Net")
    refused(door(*words), "theirs:Net")


def test_trust_in_python(place: Path) -> None:
    run_folder(place, backbone="theirs:Net")
    with pytest.raises(InputError, match=r"'theirs:Net' is code of the module 'theirs'.*trust=True"):
        load_model("run")
    assert not Path("imported").exists()
    with pytest.raises(InputError, match="cannot be built again"):  # imported: the weights are of another network
        load_model("run", trust=True)
    assert Path("imported").exists()


def test_trust_still_calls_nothing_of_another_kind(place: Path, door: Door) -> None:
    run_folder(place, {"data": {"name": "theirs:shell"}}, backbone="theirs:shell")
    assert "is no nn.Module class (it is a function)" in door("embed", "run", "photos", "--out", "o", "--trust")
    change_json(place / "run/model/config.json", "encoder", backbone="small")
    assert "is no class with a method read(self)" in door("evaluate", "run", "--trust")
    assert not Path("called").exists()


def index_of(place: Path, door: Door) -> Path:
    np.save(place / "E.npy", np.eye(8, dtype=np.float32))
    (place / "T.csv").write_text("id,label\n" + "".join(f"i{k},{k % 4}\n" for k in range(8)))
    door("index", "build", "--embeddings", "E.npy", "--table", "T.csv", "--out", "ix", "--factory", "Flat", status=0)
    return next((place / "ix").glob("v*/manifest.json"))


def remember(manifest: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index remember another model, as one that was built so would."""
    from metrixkit.retrieval.index import RetrievalIndex

    loaded = RetrievalIndex.load(manifest.parent.parent)
    monkeypatch.setattr(RetrievalIndex, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(RetrievalIndex, "notes", {"model": model})


def test_the_model_that_an_index_remembers_is_data(place: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = index_of(place, door)
    run_folder(place, backbone="theirs:Net")
    remember(manifest, "run", monkeypatch)
    refused(door("index", "search", "ix", "photos/class0/0.png"), "theirs:Net")
    refused(door("index", "add", "ix", "photos/class0/0.png"), "theirs:Net")


def test_the_model_that_an_index_remembers_is_not_fetched(
    place: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = index_of(place, door)
    monkeypatch.setattr(images, "_from_hub", lambda name: pytest.fail(f"asked the hub for {name}"))
    remember(manifest, "somebody/model", monkeypatch)
    assert "not asked of the hub" in door("index", "search", "ix", "photos/class0/0.png")
    remember(manifest, ["run"], monkeypatch)
    assert "which is no name" in door("index", "search", "ix", "photos/class0/0.png")


@pytest.mark.parametrize(
    "backbone", ["timm/hf-hub:somebody/net", "timm/local-dir:/etc", "transformers/somebody/net", 5, ["small"], None]
)
def test_a_model_folder_leads_nowhere_else(place: Path, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(place)
    change_json(run / "model/config.json", "encoder", backbone=backbone, weights="pretrained")
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("followed"))
    with pytest.raises(InputError, match=r"--trust|expected a name"):
        load_model(run)


def test_weights_that_a_model_names_are_not_read(place: Path) -> None:
    run = run_folder(place)
    change_json(run / "model/config.json", "encoder", weights="/dev/zero")
    assert load_model(run).embedding_dim == 8


@pytest.mark.parametrize("answer", ["y\n", ""])
def test_code_beside_a_transformers_model_is_neither_run_nor_asked_for(
    place: Path, door: Door, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    backbone = run_folder(place) / "model/backbone"
    backbone.mkdir()
    told = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (backbone / "config.json").write_text(json.dumps(told))
    (backbone / "theirs.py").write_text(CODE)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    said = door("embed", "run", "photos", "--out", "out", "--trust")
    assert "brings its own code, which is not run" in said
    assert "wish to run" not in said
    assert not list(place.rglob("imported"))


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000"),
        ({"hidden_size": 10**12}, "hidden_size is"),
        ({"hidden_size": -1}, "no model can be built"),
        ({"model_type": 5}, "no configuration"),
        ({"image_size": "x"}, "no configuration"),
    ],
)
def test_sizes_of_a_transformers_model_are_looked_at(place: Path, told: dict[str, Any], word: str) -> None:
    backbone = run_folder(place) / "model/backbone"
    backbone.mkdir()
    usual = {"model_type": "dinov2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (backbone / "config.json").write_text(json.dumps({**usual, "image_size": 16, "patch_size": 8, **told}))
    with pytest.raises(InputError, match=word):
        load_model(place / "run")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{}\n", "on which data"),
        (b"a: \xe9\n", "no UTF-8"),
        (b"a: [\n", "not readable as YAML"),
        (b"data: 5\n", "data: expected the name"),
        (b"data: {name: glyphs}\nseed: abc\n", "seed: expected a whole number"),
        (b"data: {name: glyphs}\nseed: -1\n", "seed: expected a whole number from 0"),
        (b"data: {name: [glyphs]}\n", "no name of a data set"),
        (b"data: {name: ':X'}\n", "no data set is called ':X'"),
        (b"data: {name: glyphs}\nloader: 7\n", "loader: expected settings"),
        (b"- a\n", "got a list"),
        (b"", "got nothing"),
    ],
)
def test_a_damaged_config_is_a_sentence(place: Path, door: Door, content: bytes, word: str) -> None:
    (run_folder(place) / "config.yaml").write_bytes(content)
    assert word in door("evaluate", "run")


def test_a_saved_config_asks_nothing_of_the_environment(
    place: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_SECRET", "sesame")
    run_folder(place, {"data": {"name": "images", "root": "${oc.env:THEIR_SECRET}"}})
    told = door("evaluate", "run")
    assert "${oc.env:THEIR_SECRET}" in told
    assert "sesame" not in told


def test_comparing_imports_nothing(place: Path) -> None:
    run = run_folder(place, {"loss": {"name": "theirs:Loss"}, "data": {"name": "theirs:Reader"}})
    found = compare([run])
    assert found.rows[0].metrics["recall@1"].mean == 0.5
    assert not Path("imported").exists()


def test_resuming_imports_what_the_config_at_hand_names_and_nothing_else(place: Path) -> None:
    from metrixkit import config as configs

    run = run_folder(place, {"loss": {"name": "theirs:Loss"}})
    (run / "results.json").unlink()
    (run / "checkpoints/last.pt").touch()
    with pytest.raises(InputError, match=r"the settings differ.*'theirs:Loss' -> 'contrastive'"):
        RunFolder(run).open(configs.load(place / "settings.yaml"), True, configs.resolve)
    assert not Path("imported").exists()
    own = configs.load(place / "settings.yaml", ["loss=theirs:Loss"])
    (run / "config.yaml").write_text(yaml.safe_dump(own))
    folder = RunFolder(run)
    folder.open(own, True, configs.resolve)
    folder.close()


def test_a_sweep_imports_nothing_that_a_run_folder_names(place: Path, door: Door) -> None:
    run = run_folder(place)
    door("train", "settings.yaml", "--sweep", "seed=0", "--run", "runs", "--list", status=0)
    folder = place / "runs/settings-seed=0"
    folder.parent.mkdir(exist_ok=True)
    run.rename(folder)
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**saved, "loss": {"name": "theirs:Loss"}}))
    assert "other settings" in door("train", "settings.yaml", "--sweep", "seed=0", "--run", "runs", "--list", status=0)
    assert not Path("imported").exists()
