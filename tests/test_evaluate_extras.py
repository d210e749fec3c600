"""The evaluate door with --group-by, --verify and --rerank, on a small table of embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metrixkit import evaluate
from metrixkit.retrieval import verify
from metrixkit.retrieval.rerank import reranked


@pytest.fixture
def table(tmp_path: Path) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Embeddings and their table, and the words that name both to the door."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 10)
    rows = (rng.normal(size=(12, 8))[labels] + 0.9 * rng.normal(size=(120, 8))).astype(np.float32)
    items = pd.DataFrame({"sku": [f"c{c}" for c in labels], "product": [f"p{i // 5}" for i in range(120)]})
    items["colour"] = "red"
    np.save(tmp_path / "e.npy", rows)
    items.to_csv(tmp_path / "t.csv", index=False)
    return rows, items, ["--embeddings", f"{tmp_path}/e.npy", "--table", f"{tmp_path}/t.csv", "--label", "sku"]


def test_verify_and_rerank(
    table: tuple[np.ndarray, pd.DataFrame, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, items, words = table
    out = tmp_path / "result.json"
    asked = ["evaluation.metrics=[map@10,median_rank,nmi]", "evaluation.recall_at=[1]"]
    assert evaluate.main([*words, *asked, "--verify", "--rerank", "k_reciprocal,alpha_qe", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for word in ("540 pairs of one class and 6,600 of two", "equal error rate", "rejection of unknowns", "chance",
                 "sees all queries at once", f"curve: {tmp_path}/result.roc.png"):  # fmt: skip
        assert word in said, word
    assert (tmp_path / "result.roc.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npy", "result.json", "result.roc.png", "t.csv"]
    result = json.loads(out.read_text())
    metrics = result["metrics"]
    pairs = verify(rows, items["sku"])
    assert metrics["verify/eer"] == pairs.eer
    assert metrics["verify/tar@fmr=0.01"] == pairs.points[0].true_accept_rate
    assert result["verification"]["points"][0]["threshold"] == pairs.points[0].threshold
    assert result["open_set"]["known"] == result["open_set"]["unknown"] == 120
    for method in ("k_reciprocal", "alpha_qe"):
        assert metrics[f"rerank/{method}/recall@1"] == reranked(method, rows, items["sku"])[f"rerank/{method}/recall@1"]
        assert f"rerank/{method}/nmi" not in metrics
    assert metrics.keys() <= result["definitions"].keys()
    low, high = (result["intervals"]["recall@1"][end] for end in ("low", "high"))
    assert low < metrics["recall@1"] < high
    assert result["group_by"] is None
    assert {"said", "tables", "picture"}.isdisjoint(result)


def test_group_by(
    table: tuple[np.ndarray, pd.DataFrame, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, words = table
    found = {}
    for column, groups in (("product", 24), ("label", 12), ("sku", 12)):
        out = tmp_path / f"{column}.json"
        assert evaluate.main([*words, "evaluation.recall_at=[1,2]", "--group-by", column, "--out", str(out)]) == 0
        assert f"ranked are the {groups} groups of column {column!r}" in capsys.readouterr().out
        found[column] = json.loads(out.read_text())
        assert found[column]["counts"]["gallery_groups"] == groups
        assert found[column]["group_by"] == column
    assert found["label"]["metrics"] == found["sku"]["metrics"] != found["product"]["metrics"]


@pytest.mark.parametrize("extra", [[], ["--verify"]])
def test_unknown_queries_of_a_table_are_those_without_a_class_in_the_gallery(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 6
    splits = np.where(np.arange(60) < 30, "query", "gallery")
    keep = (splits == "query") | (labels < 4)
    np.save(tmp_path / "e.npy", (rng.normal(size=(6, 5))[labels] + 0.3 * rng.normal(size=(60, 5)))[keep])
    pd.DataFrame({"label": labels, "split": splits})[keep].to_csv(tmp_path / "t.csv", index=False)
    assert evaluate.main(["--embeddings", f"{tmp_path}/e.npy", "--table", f"{tmp_path}/t.csv", *extra]) == 0
    said = capsys.readouterr().out
    assert "10 queries have no relevant item" in said
    assert ("20 known and 10 unknown queries" in said) == bool(extra)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rerank", "kreciprocal"], "Did you mean 'k_reciprocal'"),
        (["--rerank", "alpha_qe", "--group-by", "sku"], "ask for one of them at a time"),
        (["--group-by", "products"], "Did you mean 'product'"),
        (["--group-by", "colour"], "group 'red' holds items of label 'c0' and of label 'c1'"),
        (["evaluation.metrics=[ndcg@0]"], "the cutoff must be at least 1"),
        (["--out", "."], "--out: . is a folder; name a file that can be written"),
    ],
)
def test_what_cannot_be_added(
    table: tuple[np.ndarray, pd.DataFrame, list[str]],
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert evaluate.main([*table[2], *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_saved_model_with_extras(repository: Path, tmp_path: Path) -> None:
    def door(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=repository, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    door(
        "metrixkit.train", "configs/glyphs_metrix.yaml", "data.train_classes=40", "data.test_classes=20",
        "sampler.batch_size=40", "sampler.m=4", "training.epochs=1", "training.accelerator=cpu", "loader.workers=0",
        "--run", f"{tmp_path}/run",
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["intervals"]["recall@1"]["low"] <= results["metrics"]["recall@1"]
    out = tmp_path / "again.json"
    said = door("metrixkit.evaluate", f"{tmp_path}/run", "--verify", "--rerank", "alpha_qe", "--out", str(out))
    assert "equal error rate" in said
    again = json.loads(out.read_text())["metrics"]
    for name in ("recall@1", "map@r", "utilization"):
        assert again[name] == pytest.approx(results["metrics"][name], abs=1e-6)
    assert "groups of column 'label'" in door("metrixkit.evaluate", f"{tmp_path}/run", "--group-by", "label")
