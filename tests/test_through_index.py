"""Recall through an index beside the exact value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metrixkit.errors import InputError
from metrixkit.judging.through_index import through_index
from metrixkit.retrieval import evaluate
from metrixkit.retrieval.index import RetrievalIndex
from metrixkit.tasks import Embedded


def embedded(count: int, seed: int, prefix: str = "x", classes: int = 12) -> Embedded:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, count)
    rows = np.random.default_rng(9).normal(size=(classes, 8))[labels] + 1.5 * draw.normal(size=(count, 8))
    items = pd.DataFrame(
        {
            "id": [f"{prefix}{i}" for i in range(count)],
            "label": [f"c{c}" for c in labels],
            "path": [f"/p/{i}" for i in range(count)],
        }
    )
    return Embedded(items, rows.astype(np.float32))


def exact(queries: Embedded, gallery: Embedded | None) -> dict[str, float]:
    more = (
        {}
        if gallery is None
        else {"gallery": gallery.vectors, "gallery_labels": gallery.labels, "gallery_ids": gallery.ids}
    )
    return dict(
        evaluate(queries.vectors, queries.labels, query_ids=queries.ids, recall_at=(1, 2, 8), metrics=(), **more)
    )


@pytest.mark.parametrize("kind", ["self", "gallery", "shared ids"])
def test_flat_gives_the_exact_recall(kind: str) -> None:
    queries = embedded(150, 0)
    queries.items.loc[3, "label"] = "alone"
    gallery = {"self": None, "gallery": embedded(200, 1, "g"), "shared ids": None}[kind]
    if kind == "shared ids":  # a query stands in the gallery with its own id, and must not find itself
        more = embedded(60, 2, "g")
        gallery = Embedded(
            pd.concat([queries.items, more.items], ignore_index=True), np.concatenate([queries.vectors, more.vectors])
        )
    values = exact(queries, gallery)
    found = through_index(queries, gallery, (1, 2, 8), "cosine", values, factory="Flat")
    for k in (1, 2, 8):
        assert found.metrics[f"faiss/recall@{k}"] == pytest.approx(values[f"recall@{k}"], abs=1e-12)
    assert 0.1 < values["recall@1"] < 0.9
    assert "149 queries" in found.lines[0]
    assert set(found.part["latency"]) == {"index alone"}
    assert 0 < found.part["latency"]["index alone"]["p50_ms"] <= found.part["latency"]["index alone"]["p95_ms"]


def test_a_coarse_index_loses_and_the_encoder_is_timed() -> None:
    queries = embedded(300, 0)
    asked = []

    def encode(path: str) -> np.ndarray:
        asked.append(path)
        return queries.vectors[int(path.removeprefix("/p/"))]

    values = exact(queries, None)
    with pytest.warns(UserWarning, match="trained on 300 vectors"):
        found = through_index(
            queries, None, (1, 8), "cosine", values, factory="IVF64,Flat", encode=encode, fingerprint="f"
        )
    assert found.metrics["faiss/recall@8"] != values["recall@8"]  # 8 of 64 lists are searched
    assert found.metrics["faiss/recall@8"] == pytest.approx(values["recall@8"], abs=0.1)
    assert len(asked) == 51
    assert found.part["latency"]["with the encoder"]["queries"] == 50
    assert f"exact {100 * values['recall@8']:.1f} %" in "\n".join(found.lines)


def test_a_saved_index_may_hold_more(tmp_path: Path) -> None:
    queries, others = embedded(100, 0), embedded(50, 5, "other")
    both = np.concatenate([others.vectors, queries.vectors])
    RetrievalIndex.build(both, others.ids + queries.ids, model_fingerprint="a" * 64).save(tmp_path / "ix")
    values = exact(queries, None)
    found = through_index(queries, None, (1, 8), "cosine", values, folder=str(tmp_path / "ix"), fingerprint="a" * 64)
    assert found.metrics["faiss/recall@1"] == pytest.approx(values["recall@1"], abs=1e-12)
    assert "50 further items" in found.lines[0]
    assert found.part["version"] == "v0001"
    for change, message in (
        ({"fingerprint": "b" * 64}, "Vectors of two models"),
        ({"distance": "dot"}, "evaluation.distance=cosine"),
        ({"queries": embedded(120, 0)}, "lacks 20 of the 120 items"),
        ({"queries": Embedded(queries.items, queries.vectors[:, :4])}, "8 dimensions, the model makes 4"),
        ({"factory": "Flat"}, "either --index DIR or --factory"),
    ):
        words = {
            "queries": queries,
            "gallery": None,
            "recall_at": (1,),
            "distance": "cosine",
            "exact": {},
            "folder": str(tmp_path / "ix"),
            "fingerprint": None,
            **change,
        }
        with pytest.raises(InputError, match=message):
            through_index(**words)


def test_no_query_with_a_relevant_item() -> None:
    queries = embedded(4, 0)
    items = queries.items.assign(label=list("abcd"))
    with pytest.raises(InputError, match="no query has a relevant item"):
        through_index(Embedded(items, queries.vectors), None, (1,), "cosine", {}, factory="Flat")


def test_the_door_tells_recall_through_faiss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from metrixkit import evaluate as door

    queries = embedded(120, 0)
    np.save(tmp_path / "e.npy", queries.vectors)
    queries.items.to_csv(tmp_path / "t.csv", index=False)
    files = ["--embeddings", f"{tmp_path}/e.npy", "--table", f"{tmp_path}/t.csv", "--out", f"{tmp_path}/r.json"]
    assert door.main([*files, "--factory", "Flat"]) == 0
    assert "through faiss: Flat, 120 queries" in capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    for k in (1, 2, 4, 8):
        assert result["metrics"][f"faiss/recall@{k}"] == pytest.approx(result["metrics"][f"recall@{k}"], abs=1e-12)
        assert f"faiss/recall@{k}" in result["definitions"]
    assert result["index"]["latency"]["index alone"]["queries"] == 120
    RetrievalIndex.build(queries.vectors, queries.ids).save(tmp_path / "ix")
    assert door.main([*files, "--index", f"{tmp_path}/ix"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["index"]["version"] == "v0001"
    capsys.readouterr()
    for words, message in (
        (["--index", f"{tmp_path}/ix", "--factory", "Flat"], "give one of them"),
        (["--factory", "Flat", "--group-by", "label"], "one of them at a time"),
        (["--index", f"{tmp_path}/none"], "no index at"),
    ):
        assert door.main([*files, *words]) == 2
        assert message in capsys.readouterr().err
