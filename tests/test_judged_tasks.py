"""Each kind of run on data without a test split, and each kind of evaluation on one class."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metrixkit import config as configs
from metrixkit import evaluate
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.errors import InputError
from metrixkit.experiment import train
from metrixkit.tasks import Embedded, EvaluationSettings, judge
from metrixkit.tasks.missing_modalities import MissingModalities
from metrixkit.tasks.modality_data import MissingSettings, use

TRAINING = {"epochs": 1, "tensorboard": False, "accelerator": "cpu"}
DRAW = np.random.default_rng(0)


def finished(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*asks for more than", UserWarning)
        return train(configs.resolve({**raw, "training": TRAINING}), folder)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Twelve items of four classes with two modalities of features, and a caption each; no split."""
    rows = []
    for number in range(12):
        cells = [f"{name}{number}.npy" for name in ("front", "back")]
        for cell in cells:
            np.save(tmp_path / cell, DRAW.standard_normal((3, 4)).astype(np.float32))
        rows.append((f"i{number}", f"thing {number}", f"c{number % 4}", *cells))
    table = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["id", "caption", "label", "front", "back"]).to_csv(table, index=False)
    return table


def nothing(found: dict[str, Any], said: str, folder: Path) -> None:
    assert (found["metrics"], found["before"], found["gain"], found["judged"]) == ({}, {}, None, False)
    assert "nothing was judged" in said
    assert "Nothing was judged" in (folder / "report.html").read_text()


def test_texts_and_videos(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": "captions", "table": str(features), "root": str(features.parent)}
    raw: dict[str, Any] = {
        "task": "crossmodal",
        "data": {**data, "modalities": {"front": "features"}, "test_share": 0},
        "sampler": {"name": "one-per-item", "batch_size": 4},
        "model": {"name": "video_text", "dim": 8, "modality": "front", "text": {"width": 8, "layers": 1, "heads": 2}},
        "method": "video_text",
        "loss": "symmetric_cross_entropy",
        "evaluation": {"recall_at": [1]},
    }
    found = finished(raw, tmp_path / "run")
    nothing(found, capsys.readouterr().out, tmp_path / "run")
    assert found["validation"] == {
        "held_out": "items", "items": 2, "classes": 2, "metric": "validation/t2v/recall@1",
        "best": found["validation"]["best"],
    }  # fmt: skip
    raw["data"]["test_share"] = 0.3
    found = finished(raw, tmp_path / "judged")
    assert found["gain"]["metric"] == "t2v/recall@1"
    assert found["gain"]["queries"] == found["counts"]["texts"]


@pytest.mark.slow
def test_several_modalities(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"name": "captions", "table": str(features), "root": str(features.parent), "columns": {"caption": None}}
    raw = {
        "task": "missing-modality",
        "data": {**data, "modalities": {"front": "features", "back": "features"}, "test_share": 0},
        "sampler": {"name": "m-per-class", "batch_size": 4, "m": 2},
        "model": {"name": "multimodal", "dim": 4, "width": 8},
        "method": "gmc",
        "loss": "multi_similarity",
        "evaluation": {"recall_at": [1]},
    }
    found = finished(raw, tmp_path / "run")
    nothing(found, capsys.readouterr().out, tmp_path / "run")
    assert (found["validation"]["held_out"], found["validation"]["classes"]) == ("classes", 2)


@pytest.mark.slow
def test_ratings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(f"u{u}", f"i{i}", 5) for u in range(8) for i in range(12) if (u + i) % 2]
    pd.DataFrame(rows, columns=["user", "item", "rating"]).to_csv(tmp_path / "r.csv", index=False)
    raw: dict[str, Any] = {
        "task": "recommendation",
        "data": {"name": "ratings", "path": str(tmp_path / "r.csv"), "test": 0},
        "sampler": {"name": "rated-pairs", "batch_size": 8, "negatives": 2, "steps": 2},
        "model": {"name": "factors", "dim": 4},
        "method": "recommender",
        "loss": "bpr",
    }
    nothing(finished(raw, tmp_path / "run"), capsys.readouterr().out, tmp_path / "run")
    raw["data"]["test"] = 0.25
    found = finished(raw, tmp_path / "judged")
    assert found["gain"]["change"] == pytest.approx(found["metrics"]["ndcg@10"] - found["before"]["ndcg@10"])
    assert found["gain"]["by_class"] is None


@pytest.mark.parametrize(
    ("labels", "splits", "message"),
    [
        (["a"] * 6, [""] * 6, "6 items that are searched are of one class"),
        (["a", "a", "a", "b", "c", "d"], [""] * 6, "3 queries that have anything to find are of one class"),
        (["a", "a", "a", "b", "a", "b"], ["query"] * 3 + ["gallery"] * 3, "3 queries that have anything to find"),
    ],
)
def test_evaluate_refuses_one_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: list[str], splits: list[str], message: str
) -> None:
    np.save(tmp_path / "e.npy", DRAW.standard_normal((6, 3)))
    rows = pd.DataFrame({"id": [f"i{i}" for i in range(6)], "label": labels, "split": splits})
    (rows if splits[0] else rows.drop(columns="split")).to_csv(tmp_path / "t.csv", index=False)
    files = ["--embeddings", str(tmp_path / "e.npy"), "--table", str(tmp_path / "t.csv"), "evaluation.recall_at=[1]"]
    assert evaluate.main(files) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "%" not in told.out


def test_evaluate_refuses_texts_of_one_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "t.npy", DRAW.standard_normal((3, 4)))
    np.save(tmp_path / "v.npy", DRAW.standard_normal((2, 4)))
    (tmp_path / "p.csv").write_text("video\n1\n1\n1\n")
    files = [x for name in ("text", "video") for x in (f"--{name}", str(tmp_path / f"{name[0]}.npy"))]
    assert evaluate.main([*files, "--pairs", str(tmp_path / "p.csv"), "evaluation.recall_at=[1]"]) == 2
    told = capsys.readouterr()
    assert "all texts belong to one video" in told.err
    assert json.dumps("100") not in told.out


def test_a_task_refuses_queries_of_one_class() -> None:
    items = pd.DataFrame({"id": list("abcdef"), "label": list("xxxyyy")})
    some = Embedded(items, DRAW.standard_normal((6, 3)))
    few = Embedded(items.iloc[:3], DRAW.standard_normal((3, 3)))
    settings = EvaluationSettings(recall_at=[1], metrics=[])
    assert judge(settings, some).counts["classes"] == 2
    with pytest.raises(InputError, match=r"3 queries .* are of one class \('x'\)"):
        judge(settings, few, Embedded(items.assign(id=list("ghijkl")), some.vectors))


def modalities(labels: str, split: str = "train") -> PairManifest:
    count = len(labels)
    items = pd.DataFrame(
        {"id": [str(i) for i in range(count)], "split": [split] * count, "label": list(labels), "a": ["text"] * count}
    ).astype("str")
    texts = pd.DataFrame(columns=["id", "caption", "item", "split"], dtype="str")
    return PairManifest("toy", "s", items, texts, {"a": "text"}, Path())


def test_validation_of_modalities_and_pairs_takes_two() -> None:
    assert use(modalities("aabbccdd"), MissingSettings(validation=0.01), 0).held_out == "classes"
    with pytest.raises(InputError, match=r"fewer than four have two.*hold_out=items"):
        use(modalities("aabbcc"), MissingSettings(validation=0.2), 0)
    held = pairs_with_validation(modalities("abcdefgh"), 0.01, 0)
    assert (held.held_out, held.counts()) == ("items", {"train": 6, "validation": 2})
    with pytest.raises(InputError, match=r"2 training items; none can be held out.*evaluation\.validation=0"):
        pairs_with_validation(modalities("ab"), 0.5, 0)
    task = MissingModalities(modalities("aaaa", "test"), MissingSettings())
    with pytest.raises(InputError, match="of one class"):
        task.evaluate(None, "test")  # type: ignore[arg-type]
