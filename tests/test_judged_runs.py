"""What a run says of its own numbers: the interval of what training changed, how it was selected, that nothing was
judged.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metrixkit import compare, evaluate
from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.experiment import train
from metrixkit.gain import load_per_query

CLASSES, EACH = 6, 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of tinted noise, six pictures each."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"c{label}").mkdir()
        tint = draw.integers(0, 90, 3)
        for number in range(EACH):
            pixels = (draw.normal(70, 50, (16, 16, 3)) + tint).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"c{label}" / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures: they are another test's."""
    monkeypatch.setattr("metrixkit.jobs.images.draw_pictures", lambda *_: None)


def run(root: Path, folder: Path, *overrides: str, resume: bool = False, **data: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "data": {"name": "images", "root": str(root), **data},
        "transform": {"train": "none", "resize": 16},
        "sampler": {"name": "m-per-class", "batch_size": 4, "m": 2},
        "loader": {"workers": 0},
        "model": {"backbone": "small", "image_size": 16, "pooling": "avg", "dim": 8},
        "loss": "contrastive",
        "evaluation": {"recall_at": [1], "metrics": []},
        "optimizer": {"name": "sgd", "lr": 0.01},
        "training": {"epochs": 2, "tensorboard": False, "accelerator": "cpu"},
    }
    for override in overrides:
        configs.apply_override(raw, override)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*", UserWarning)
        return train(configs.resolve(raw), folder, resume)


def test_a_run_tells_how_sure_its_gain_is(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(photos, tmp_path / "run", split="photos", test_share=0.5)
    gain, after, before = found["gain"], found["metrics"]["recall@1"], found["before"]["recall@1"]
    assert gain["metric"] == "recall@1"
    assert gain["change"] == pytest.approx(after - before)
    assert gain["low"] <= gain["change"] <= gain["high"]
    assert gain["queries"] == CLASSES * EACH // 2
    assert load_per_query(tmp_path / "run" / "before.npz").values.mean() == pytest.approx(before)
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["gain"] == gain
    said = capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    for text in (said, page):
        assert after == before or "with 95 % confidence" in text
        assert after == before or ("which may be chance" in text) == gain["may_be_chance"]
    # New photos of known classes search those that were trained on, and those held out for selection.
    assert found["split"] == "known-classes-share0.5-seed0"
    assert found["counts"]["gallery"] == CLASSES * EACH // 2
    assert found["counts"]["in_own_gallery"] == 0
    assert found["validation"]["held_out"] == "images"
    assert "new pictures of classes seen in training" in page
    assert evaluate.main([str(tmp_path / "run"), "--out", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["metrics"]["recall@1"] == after
    assert again["counts"]["gallery"] == CLASSES * EACH // 2


@pytest.mark.slow
def test_a_resumed_run_still_knows_what_was_before(photos: Path, tmp_path: Path) -> None:
    whole = run(photos, tmp_path / "run", split="photos")
    (tmp_path / "run" / "results.json").unlink()  # killed before the last file
    assert run(photos, tmp_path / "run", split="photos", resume=True)["gain"] == whole["gain"]
    (tmp_path / "run" / "results.json").unlink()
    (tmp_path / "run" / "before.npz").write_bytes(b"torn")
    assert "cannot be read" in run(photos, tmp_path / "run", split="photos", resume=True)["gain"]["none"]


def test_training_on_everything_judges_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(photos, tmp_path / "run", test_share=0)
    assert (found["metrics"], found["before"], found["last"], found["gain"]) == ({}, {}, {}, None)
    assert found["judged"] is False
    assert found["validation"]["classes"] == 2
    assert found["selected"] == "best"
    assert "nothing was judged" in capsys.readouterr().out
    assert "Nothing was judged" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert compare.main([str(tmp_path / "run")]) == 2
    assert "nothing was judged" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "run")]) == 2
    assert "--split all" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*", UserWarning)
        out = tmp_path / "all.json"
        assert evaluate.main([str(tmp_path / "run"), "--split", "all", f"data.root={photos}", "--out", str(out)]) == 0
    assert "recall@1" in capsys.readouterr().out
    # All items, also those that training held out to select its epoch.
    assert json.loads(out.read_text())["counts"]["queries"] == len(list(photos.rglob("*.png")))


def test_without_validation_the_last_epoch_is_kept_and_it_is_said(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(photos, tmp_path / "run", "evaluation.validation=0", test_share=0)
    assert (found["selected"], found["validation"]) == ("last", None)
    assert "nothing selects, the last epoch is kept" in capsys.readouterr().out


def test_a_test_of_one_class_is_refused_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("c0", "c1", "c2"):
        (few / name).symlink_to(photos / name)
    with pytest.raises(InputError, match=r"of one class.*data\.split=photos"):
        run(few, tmp_path / "run", test_share=0.34)
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert run(few, tmp_path / "run", split="photos", test_share=0.34)["counts"]["classes"] == 3
