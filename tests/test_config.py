"""Experiment files: every shipped config resolves, every mistake is answered with the key's path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metrixkit import config as configs
from metrixkit import train
from metrixkit.errors import InputError

SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_resolve_and_open_with_their_command(path: Path) -> None:
    extra = ["data.root=photos"] if path.stem == "own_images" else []
    config = configs.load(path, extra)
    assert path.read_text().startswith(f"# python -m metrixkit.train configs/{path.name}")
    assert config["evaluation"]["protocol"] == "validation"
    # What is saved is complete: it resolves to itself.
    assert configs.resolve(yaml.safe_load(yaml.safe_dump(config))) == config


@pytest.fixture
def glyphs(repository: Path) -> Path:
    return repository / "configs/glyphs_metrix.yaml"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainig.epochs=3", ["trainig is not a setting", "Did you mean 'training'"]),
        ("training.epoch=3", ["training.epoch is not a setting", "Did you mean 'epochs'"]),
        ("lr=1e-3", ["lr is not a setting", "optimizer.lr"]),
        ("optimizer.lr=fast", ["optimizer.lr", "a number", "'fast'"]),
        ("training.epochs=2.5", ["training.epochs", "a whole number"]),
        ("training.precision=fp16", ["training.precision", "'32', 'bf16'"]),
        ("loss.loss.name=contrastive", ["loss.loss.", "is not a setting", "contrastive"]),
        ("loss.loss=contrastiv", ["no loss is called 'contrastiv'", "'contrastive'"]),
        ("loss.beta=3", ["loss.beta is not a setting", "metrix"]),
        ("optimizer=adamx", ["no optimiser is called 'adamx'", "'adam'"]),
        ("method=moca", ["no method is called 'moca'"]),
        ("data.clases=4", ["data.clases is not a setting"]),
        ("task=retrival", ["no task is called 'retrival'", "'retrieval'"]),
        ("transform.train=random-resized", ["transform.train", "random-resized-crop"]),
        ("training.epochs", ["expected key=value"]),
        ("seed.x=1", ["seed is 0, which has no settings"]),
        ("evaluation.recall_at=[one]", ["evaluation.recall_at", "a list"]),
    ],
)
def test_mistakes_are_answered_with_path_expectation_and_near_name(
    glyphs: Path, override: str, words: list[str]
) -> None:
    overrides = [override] if not override.startswith("seed") else ["seed=0", override]
    with pytest.raises(InputError) as caught:
        configs.load(glyphs, overrides)
    for word in words:
        assert word in str(caught.value)


def test_an_override_that_undoes_an_earlier_one(glyphs: Path) -> None:
    with pytest.raises(InputError, match=r"optimizer=sgd replaces .* undo optimizer.lr=... before it; put it first"):
        configs.load(glyphs, ["optimizer.lr=0.5", "optimizer=sgd"])
    assert configs.load(glyphs, ["optimizer=sgd", "optimizer.lr=0.5"])["optimizer"]["lr"] == 0.5
    again = ["optimizer.lr=0.5", "optimizer=sgd", "optimizer.lr=0.1"]
    assert configs.load(glyphs, again)["optimizer"]["lr"] == 0.1


def test_overrides_change_one_setting_or_replace_a_node(glyphs: Path) -> None:
    config = configs.load(
        glyphs,
        ["optimizer.lr=3e-5", "loss=contrastive", "loss.margin=0.4", "sampler=shuffle", "evaluation.recall_at=[1,5]"],
    )
    assert config["optimizer"]["lr"] == pytest.approx(3e-5)
    assert config["optimizer"]["weight_decay"] == pytest.approx(1e-4)
    assert config["loss"]["name"] == "contrastive"
    assert config["loss"]["margin"] == pytest.approx(0.4)
    assert "loss" not in config["loss"]
    assert config["sampler"]["name"] == "shuffle"
    assert config["evaluation"]["recall_at"] == [1, 5]


def test_a_nested_node_is_replaced_and_then_set(glyphs: Path) -> None:
    config = configs.load(glyphs, ["loss.loss=contrastive", "loss.loss.margin=0.3"])
    assert config["loss"]["loss"] == {"name": "contrastive", "margin": 0.3}


def test_a_node_that_the_method_does_not_take_is_an_error(
    glyphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownmethod.py").write_text(
        "from torch import nn\nclass NoLoss(nn.Module):\n    def __init__(self, model: object, rate: float = 1.0) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"loss does not apply: method 'ownmethod:NoLoss' takes no loss"):
        configs.load(glyphs, ["method=ownmethod:NoLoss"])


def test_absent_and_unreadable_files(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InputError, match=r"no config at .*Did you mean 'glyphs_metrix.yaml'"):
        configs.load(repository / "configs/glyph_metrix.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [")
    with pytest.raises(InputError, match="not readable as YAML"):
        configs.load(broken)
    broken.write_text("data: {name: glyphs}")
    with pytest.raises(InputError, match="loss is missing"):
        configs.load(broken)


def test_help_lists_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    said = capsys.readouterr().out
    for path, _ in configs.all_settings():
        assert path + " = " in said
    assert "training.epochs = 10" in said
    assert "evaluation.recall_at = [1, 2, 4, 8]" in said
    assert "loss=multi_similarity" in said


@pytest.mark.parametrize(
    ("config", "override", "path"),
    [
        ("glyphs_video_text", "training.compile=true", "training.compile"),
        ("glyphs_video_text", "transform.flip=0.1", "transform.flip"),
        ("glyphs_video_text", "loader.cache=somewhere", "loader.cache"),
        ("omniglot_missing", "loader.cache_short_side=64", "loader.cache_short_side"),
        ("amazon_music_dmm", "loader.workers=2", "loader.workers"),
    ],
)
def test_a_setting_that_the_task_never_reads_is_refused(
    config: str, override: str, path: str, repository: Path
) -> None:
    with pytest.raises(InputError, match=rf"{path} does not apply: task '[a-z-]+' never reads it\. Remove it"):
        configs.load(repository / "configs" / f"{config}.yaml", [override])


def test_settings_saved_at_their_defaults_are_taken_again(repository: Path) -> None:
    resolved = configs.load(repository / "configs" / "glyphs_video_text.yaml")
    assert "transform" in resolved  # a run folder's config.yaml holds every section
    assert configs.resolve(resolved) == resolved


@pytest.mark.parametrize("word", ["lambda", "2lambda-1", "constant"])
def test_the_schedule_of_a_margin_is_no_schedule_of_the_rate(repository: Path, word: str) -> None:
    config = configs.load(repository / "configs/glyphs_dmm.yaml", [f"loss.schedule={word}"])
    assert config["loss"]["schedule"] == word
    assert configs.build(config, "loss", num_classes=4, dim=8, seed=0).schedule == word
    plain = configs.load(repository / "configs/glyphs_dmm.yaml")
    assert plain["loss"]["schedule"] == "lambda"
