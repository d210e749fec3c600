"""``metrixkit index``: each verb, and each fault with its remedy and the index before still readable."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from metrixkit import embed, index
from metrixkit.data.transforms import Transform, eval_transform_config
from metrixkit.indexing import shards
from metrixkit.models import ImageEncoder, save_model
from metrixkit.retrieval.index import RetrievalIndex

Door = Callable[..., str]


def save_tiny(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    encoder = ImageEncoder("small", dim=16)
    save_model(encoder, folder / "model", eval_transform_config(Transform(), encoder.image_size))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(save_tiny(root / name, seed)) for seed, name in enumerate(["own", "other"])}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of six noisy plain pictures, and one picture twice."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for c in range(5):
        (root / f"class{c}").mkdir()
        colour = draw.integers(0, 255, 3)
        for i in range(6):
            pixels = np.clip(colour + draw.integers(-25, 25, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"class{c}/{i}.png")
    shutil.copy(root / "class0/0.png", root / "class4/copy.png")
    return root


@pytest.fixture(scope="module")
def embedded(models: dict[str, str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``metrixkit embed --parquet`` leaves."""
    out = tmp_path_factory.mktemp("embedded")
    assert embed.main([models["own"], str(photos), "--out", str(out), "--parquet"]) == 0
    return out


@pytest.fixture
def door(capsys: pytest.CaptureFixture[str]) -> Door:
    def call(*words: str | Path, status: int = 0) -> str:
        capsys.readouterr()
        found = index.main([str(word) for word in words])
        told = capsys.readouterr()
        assert found == status, told.out + told.err
        assert "Traceback" not in told.err
        return told.out if status == 0 else told.err

    return call


@pytest.fixture(scope="module")
def whole(models: dict[str, str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "ix"
    assert index.main(["build", models["own"], str(photos), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def built(whole: Path, tmp_path: Path) -> Path:
    """An index of the photographs that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "ix"))


def test_build_search_and_info(door: Door, whole: Path, photos: Path, tmp_path: Path) -> None:
    assert not list(whole.parent.glob(".*"))  # shards are gone
    kept = RetrievalIndex.load(whole)
    assert len(kept) == 31
    assert kept.factory == "Flat"
    assert set(kept.labels) == {f"class{c}" for c in range(5)}
    out, panel = tmp_path / "new" / "r.csv", tmp_path / "panel.png"
    said = door("search", whole, photos / "class1/3.png", photos / "class2", "-k", "3", "--out", out, "--panel", panel)
    table = pd.read_csv(out)
    assert len(table) == 7 * 3
    first = table[table["rank"] == 1]
    assert first["id"].tolist() == ["class1/3.png", *(f"class2/{i}.png" for i in range(6))]
    assert first["score"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert [Path(p).is_absolute() and Path(p).is_file() for p in first["path"]] == [True] * 7
    assert said.splitlines()[0].split() == ["query", "rank", "id", "label", "score"]
    with Image.open(panel) as picture:
        assert picture.size[0] > 300
        assert "7 queries" in picture.text["Description"]  # type: ignore[attr-defined]
    told = json.loads(door("search", whole, photos / "class1/3.png", "-k", "2", "--json"))
    assert [r["rank"] for r in told[0]["results"]] == [1, 2]
    assert told[0]["match"] is True
    known = json.loads(door("info", whole, "--json"))
    assert (known["count"], known["items_with_a_path"], known["version"]) == (31, 31, "v0001")
    for word in ("versions.faiss", "model_fingerprint", "files.index.faiss", "notes.model"):
        assert word in door("info", whole)


def test_add_remove_and_a_new_version(door: Door, built: Path, photos: Path, tmp_path: Path) -> None:
    more = tmp_path / "more" / "new class"
    more.mkdir(parents=True)
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(more / "dark.png")
    said = door("add", built, tmp_path / "more")
    assert "1 items added" in said
    assert "v0002: 32 items" in said
    table = door("search", built, more / "dark.png", "-k", "1")
    assert "new class/dark.png" in table
    assert "1.0000" in table
    Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(more / "dark.png")
    assert "in the index already" in door("add", built, tmp_path / "more", status=2)
    assert "1 items replaced" in door("add", built, tmp_path / "more", "--replace")
    (tmp_path / "ids.txt").write_text("class0/0.png\nclass0/1.png\n\n")
    said = door("remove", built, "--ids", "new class/dark.png, class1/1.png", "--file", tmp_path / "ids.txt")
    assert "4 items removed" in said
    assert "28 items" in said
    left = RetrievalIndex.load(built).ids.tolist()
    assert not {"class0/0.png", "class0/1.png", "class1/1.png", "new class/dark.png"} & set(left)
    # The version before still finds the paths of what it holds.
    before = RetrievalIndex.load(built, version="v0003")
    assert set(before.ids) <= set(pd.read_csv(built / "items.csv")["id"])


def test_items_without_labels_join_any_index(
    door: Door, models, photos: Path, embedded: Path, tmp_path, monkeypatch
) -> None:
    """Pictures of the working directory have no folder's name for a label; an index of bare embeddings has none."""
    loose = tmp_path / "loose"
    loose.mkdir()
    for k in range(3):
        shutil.copy(photos / f"class0/{k}.png", loose / f"{k}.png")
    monkeypatch.chdir(loose)
    door("build", models["own"], "0.png", "1.png", "--out", tmp_path / "own")
    door("add", tmp_path / "own", "2.png")
    assert len(RetrievalIndex.load(tmp_path / "own").ids) == 3
    plain = RetrievalIndex.load(tmp_path / "own")
    bare = RetrievalIndex.build(
        np.load(embedded / "embeddings.npy"),
        [f"e{k}" for k in range(31)],
        model_fingerprint=plain.model_fingerprint,
        notes=dict(plain.info()["notes"]),
    )
    bare.save(tmp_path / "bare")
    door("add", tmp_path / "bare", photos / "class1")
    assert len(RetrievalIndex.load(tmp_path / "bare").ids) == 37


def test_threshold_and_no_match(door: Door, built: Path, embedded: Path, photos: Path, tmp_path: Path) -> None:
    files = ["--embeddings", embedded / "embeddings.npy", "--table", embedded / "table.csv"]
    refused = door("threshold", built, *files, "--false-match-rate", "0.1", status=2)
    assert "right answers it was set on" in refused
    assert "--force" in refused
    said = door("threshold", built, *files, "--false-match-rate", "0.1", "--force")
    value = RetrievalIndex.load(built).threshold.value  # type: ignore[union-attr]
    assert f"threshold {value:.4f}" in said
    assert "--strangers" in said
    rejected = RetrievalIndex.load(built).threshold.false_rejection_rate  # type: ignore[union-attr]
    assert f"rejects {100 * rejected:.1f} % of the right answers" in said
    assert f"{100 * rejected:.1f} % of the right answers" in door("search", built, photos / "class3/1.png")
    strange = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(strange)
    # Its best score stands in for a query that nothing is near enough to.
    best = json.loads(door("search", built, strange, "-k", "1", "--threshold", "none", "--json"))[0]["results"][0][
        "score"
    ]
    out = tmp_path / "r.json"
    limit = str(best + 1e-3)
    said = door(
        "search",
        built,
        strange,
        photos / "class3/1.png",
        "--threshold",
        limit,
        "--out",
        out,
        "--panel",
        tmp_path / "p.png",
    )
    assert "no match" in said
    assert "1 of 2 queries have no match" in said
    told = json.loads(out.read_text())
    assert [entry["match"] for entry in told] == [False, True]
    assert told[0]["results"] == []
    assert all(
        r["score"] >= value for r in json.loads(door("search", built, photos / "class3/1.png", "--json"))[0]["results"]
    )
    assert "expected a score, or none" in door("search", built, strange, "--threshold", "high", status=2)


def test_embeddings_build_the_same_index(door: Door, built: Path, embedded: Path, tmp_path: Path) -> None:
    files = ["--embeddings", embedded / "embeddings.npy", "--table", embedded / "table.csv"]
    assert "31 items" in door("build", *files, "--out", tmp_path / "b")
    one, two = RetrievalIndex.load(built), RetrievalIndex.load(tmp_path / "b")
    assert one.ids.tolist() == two.ids.tolist()
    assert one.model_fingerprint == two.model_fingerprint
    np.testing.assert_allclose(one.reconstruct(one.ids), two.reconstruct(one.ids), atol=1e-6)
    assert "v0002" in door("build", *files, "--out", tmp_path / "b", "--factory", "SQ8")
    assert RetrievalIndex.load(tmp_path / "b", version="v0001").factory == "Flat"
    np.save(tmp_path / "q.npy", np.load(embedded / "embeddings.npy")[:2])
    said = door("search", tmp_path / "b", "--embeddings", tmp_path / "q.npy", "-k", "1")
    assert "note: which model" in said
    assert "class0/0.png" in said


def test_parquet_holds_what_the_array_holds(embedded: Path) -> None:
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(embedded / "embeddings.parquet")
    assert found.column_names == ["id", "label", "path", "split", "vector"]
    assert str(found.schema.field("vector").type) == "list<element: float>"
    np.testing.assert_array_equal(
        np.array(found["vector"].to_pylist(), np.float32), np.load(embedded / "embeddings.npy")
    )
    table = pd.read_csv(embedded / "table.csv", dtype=str)
    assert found["id"].to_pylist() == table["id"].tolist()
    assert found["path"].to_pylist() == table["path"].tolist()


def test_parquet_needs_pyarrow(models, photos, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert embed.main([models["own"], str(photos), "--out", str(tmp_path / "e"), "--parquet"]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_duplicates_across_splits_and_doubtful_labels(door: Door, embedded: Path, tmp_path: Path) -> None:
    table = pd.read_csv(embedded / "table.csv", dtype=str)
    table["split"] = ["train" if label in ("class0", "class1") else "test" for label in table["label"]]
    table.loc[table["id"] == "class2/3.png", "label"] = "class3"
    table.to_csv(tmp_path / "t.csv", index=False)
    files = ["--embeddings", embedded / "embeddings.npy", "--table", tmp_path / "t.csv"]
    said = door("duplicates", *files, "--threshold", "0.9999999", "-k", "3", "--out", tmp_path / "d.csv")
    assert "1 of them across test / train" in said
    pairs, doubtful = pd.read_csv(tmp_path / "d.csv"), pd.read_csv(tmp_path / "d-labels.csv")
    assert pairs[["id_a", "id_b", "same_split", "same_label"]].to_numpy().tolist() == [
        ["class0/0.png", "class4/copy.png", "no", "no"]
    ]
    row = doubtful.set_index("id").loc["class2/3.png"]
    assert (row["label"], row["proposed"], row["votes"]) == ("class3", "class2", 3)
    assert "class4/copy.png" in doubtful["id"].tolist()
    assert "ends in .csv" in door("duplicates", *files, "--out", tmp_path / "d.txt", status=2)
    assert "no config.yaml" in door("duplicates", tmp_path, status=2)


def test_everything_within_a_radius(door: Door, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    np.save(tmp_path / "e.npy", rows)
    np.save(tmp_path / "q.npy", rows[:3])
    asked = ["--embeddings", tmp_path / "q.npy"]
    for metric, radius in (("cosine", 0.7), ("euclidean", 1.5)):
        folder = tmp_path / metric
        door("build", "--embeddings", tmp_path / "e.npy", "--out", folder, "--metric", metric)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        near = unit[:3] @ unit.T >= 0.7 if metric == "cosine" else ((rows[:3, None] - rows) ** 2).sum(2) <= 1.5**2
        assert near.sum() > 5
        assert near.sum(1).max() > 2
        told = json.loads(door("search", folder, *asked, "--radius", radius, "--json"))
        assert [{int(found["id"]) for found in entry["results"]} for entry in told] == [
            set(np.flatnonzero(row)) for row in near
        ]
        told = json.loads(door("search", folder, *asked, "--radius", radius, "-k", "2", "--json"))
        assert [len(entry["results"]) for entry in told] == np.minimum(near.sum(1), 2).tolist()
    assert "either --radius or --threshold" in door(
        "search", folder, *asked, "--radius", "1", "--threshold", "1", status=2
    )
    assert "between -1 and 1" in door("search", tmp_path / "cosine", *asked, "--radius", "7", status=2)
    assert "k=0" in door("search", folder, *asked, "--radius", "1", "-k", "0", status=2)


def test_a_collapsed_embedding_is_one_group(door: Door, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.ones((400, 4), np.float32))
    pd.DataFrame({"label": [str(i % 3) for i in range(400)]}).to_csv(tmp_path / "c.csv", index=False)
    out = tmp_path / "d.csv"
    said = door("duplicates", "--embeddings", tmp_path / "c.npy", "--table", tmp_path / "c.csv", "--out", out)
    assert "79800 pairs of 400 items (of 400) at 0.98 or above, in 1 groups" in said
    assert "the largest group holds 400 of 400 items" in said
    pairs, groups = pd.read_csv(out), pd.read_csv(tmp_path / "d-groups.csv")
    assert 400 < len(pairs) <= 4000
    assert f"{len(pairs)} pairs are listed, the 10 nearest of each item" in said
    assert f"{(pairs['same_label'] == 'no').sum()} of those listed bear different labels" in said
    assert set(pairs["id_a"]) | set(pairs["id_b"]) == set(range(400))
    assert groups["id"].tolist() == list(range(400))
    assert set(zip(groups["group"], groups["size"], strict=True)) == {(1, 400)}


def test_tune_measures_and_sets(door: Door, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.save(tmp_path / "e.npy", draw.normal(size=(30, 8))[draw.integers(0, 30, 900)] + 0.3 * draw.normal(size=(900, 8)))
    said = door(
        "tune",
        "--embeddings",
        tmp_path / "e.npy",
        "--factories",
        "Flat",
        "IVF8,Flat",
        "HNSW8",
        "-k",
        "5",
        "--out",
        tmp_path / "t",
    )
    table = pd.read_csv(tmp_path / "t/tuning.csv")
    assert table["factory"].tolist() == ["Flat", "IVF8,Flat", "IVF8,Flat", *["HNSW8,Flat"] * 5]
    assert table["agreement@5"][0] == 1
    assert table["agreement@5"].between(0, 1).all()
    assert table["agreement@5"][1] < table["agreement@5"][2]
    assert (table["p50_ms"] <= table["p95_ms"]).all()
    assert table["bytes_per_vector"][0] == 32
    assert "810 x 8, 90 items held out" in said
    assert "fastest with 95 %" in said
    with Image.open(tmp_path / "t/tuning.png") as picture:
        assert picture.text["Title"] == "Tuning"  # type: ignore[attr-defined]
    door("build", "--embeddings", tmp_path / "e.npy", "--out", tmp_path / "ix", "--factory", "IVF8,Flat")
    assert "nprobe=5" in door("tune", tmp_path / "ix", "--set", "nprobe=5")
    assert RetrievalIndex.load(tmp_path / "ix").parameters == {"nprobe": 5}
    np.save(tmp_path / "q.npy", draw.normal(size=(20, 8)))
    said = door("tune", tmp_path / "ix", "--queries", tmp_path / "q.npy", "--factories", "Flat")
    assert "900 x 8, 20 queries of" in said
    door("build", "--embeddings", tmp_path / "e.npy", "--out", tmp_path / "sq", "--factory", "SQ8")
    assert "keeps codes, not vectors" in door("tune", tmp_path / "sq", status=2)


def test_a_killed_build_goes_on(door: Door, models, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 8)
    made: list[int] = []
    original = shards._embed

    def counted(embedder, items, *rest):
        made.append(len(items))
        if len(made) == 3:
            raise KeyboardInterrupt
        return original(embedder, items, *rest)

    monkeypatch.setattr(shards, "_embed", counted)
    words = ["build", models["own"], photos, "--out", tmp_path / "ix"]
    door(*words, status=130)
    assert not (tmp_path / "ix").exists()
    door(*words)
    assert made == [8, 8, 8, 8, 7]  # the two finished shards were not made again
    door("build", models["own"], photos, "--out", tmp_path / "whole")
    one, two = RetrievalIndex.load(tmp_path / "ix"), RetrievalIndex.load(tmp_path / "whole")
    np.testing.assert_allclose(one.reconstruct(two.ids), two.reconstruct(two.ids), atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_shards_of_another_model_are_not_taken(door: Door, models, photos, tmp_path, monkeypatch) -> None:
    from metrixkit.indexing import merge

    monkeypatch.setattr(merge, "joined", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    door("build", models["other"], photos, "--out", tmp_path / "ix", status=130)
    monkeypatch.undo()
    door("build", models["own"], photos, "--out", tmp_path / "ix")
    door("build", models["own"], photos, "--out", tmp_path / "again")
    one, two = RetrievalIndex.load(tmp_path / "ix"), RetrievalIndex.load(tmp_path / "again")
    np.testing.assert_array_equal(one.reconstruct(two.ids), two.reconstruct(two.ids))


def test_a_panel_says_which_images_are_gone(door: Door, built: Path, photos: Path, tmp_path: Path) -> None:
    table = pd.read_csv(built / "items.csv", dtype=str, keep_default_na=False)
    table.loc[table["id"] == "class1/3.png", "path"] = "/nowhere/3.png"
    table.to_csv(built / "items.csv", index=False)
    said = door("search", built, photos / "class1/3.png", "-k", "2", "--panel", tmp_path / "p.png")
    assert "1 images are not where they were" in said
    assert (tmp_path / "p.png").is_file()


def faulty(tmp_path: Path, embedded: Path) -> dict[str, list[str | Path]]:
    """Commands that must fail on the index `ix`, and must leave it as it was."""
    vectors, table = np.load(embedded / "embeddings.npy"), pd.read_csv(embedded / "table.csv", dtype=str)
    table["id"] = [f"new{i}" for i in range(len(table))]
    table.to_csv(tmp_path / "t.csv", index=False)
    table.assign(id="twice").to_csv(tmp_path / "twice.csv", index=False)
    table[:1].to_csv(tmp_path / "one.csv", index=False)
    for name, at, value in (("nan", (3, 1), np.nan), ("inf", (4, 1), np.inf), ("zero", 5, 0.0)):
        bad = vectors.copy()
        bad[at] = value
        np.save(tmp_path / f"{name}.npy", bad)
    np.save(tmp_path / "narrow.npy", vectors[:, :5])
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.save(tmp_path / "fine.npy", vectors)
    np.save(tmp_path / "none.npy", vectors[:0])

    def files(array: str, rows: str = "t.csv") -> list[str | Path]:
        return ["--embeddings", tmp_path / array, "--table", tmp_path / rows]

    return {name: files(f"{name}.npy") for name in ("nan", "inf", "zero", "narrow", "text", "none", "absent")} | {
        "twice": files("fine.npy", "twice.csv"),
        "short": files("fine.npy", "one.csv"),
    }


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("nan", ["row 3", "NaN", "mend the embedding"]),
        ("inf", ["row 4", "infinite"]),
        ("zero", ["row 5", "all zero"]),
        ("narrow", ["5 dimensions", "16", "same model"]),
        ("text", ["expected an array of two dimensions"]),
        ("none", ["31 rows", "0 embeddings"]),
        ("absent", ["no such file"]),
        ("twice", ["'twice' stands there twice"]),
        ("short", ["1 rows", "31 embeddings"]),
    ],
)
def test_bad_embeddings_change_nothing(
    door: Door, built: Path, embedded: Path, tmp_path: Path, fault: str, words: list[str]
) -> None:
    given = faulty(tmp_path, embedded)[fault]
    before = sorted(p.relative_to(built) for p in built.rglob("*"))
    verbs = [["add", built], ["search", built], ["build", "--out", built]]
    for verb in verbs if fault != "narrow" else verbs[:2]:
        message = door(*verb, *given, status=2)
        for word in words:
            assert word in message
        if fault in ("nan", "inf", "zero") and verb[0] != "search":
            assert "(id 'new" in message
    assert sorted(p.relative_to(built) for p in built.rglob("*")) == before
    assert len(RetrievalIndex.load(built)) == 31


def test_another_model_is_refused(
    door: Door, built: Path, models: dict[str, str], photos: Path, embedded: Path
) -> None:
    for words in (["add", built, photos], ["search", built, photos / "class0/0.png"]):
        message = door(*words, "--model", models["other"], status=2)
        assert "another model" in message
        assert "build a new index" in message
    told = json.loads((embedded / "embeddings.json").read_text())
    assert told["fingerprint"] == RetrievalIndex.load(built).model_fingerprint
    other = built.parent / "e"
    shutil.copytree(embedded, other)
    (other / "embeddings.json").write_text(json.dumps(told | {"fingerprint": "0" * 64}))
    message = door("search", built, "--embeddings", other / "embeddings.npy", status=2)
    assert "another model" in message
    (other / "embeddings.json").write_text(json.dumps(told | {"shape": [1, 2]}))
    assert "does not belong to" in door("search", built, "--embeddings", other / "embeddings.npy", status=2)
    assert len(RetrievalIndex.load(built)) == 31


def test_damaged_indexes_name_the_remedy(door: Door, built: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(tmp_path / "more/dark.png")
    door("add", built, tmp_path / "more")
    query, place = photos / "class0/0.png", built / "v0002"
    manifest = (place / "manifest.json").read_text()

    def refused(*words: str) -> None:
        message = door("search", built, query, status=2)
        for word in (*words, "v0001"):
            assert word in message
        assert len(RetrievalIndex.load(built, version="v0001")) == 31

    whole = (place / "index.faiss").read_bytes()
    (place / "index.faiss").write_bytes(whole[:-7])
    refused("cut off or altered")
    (place / "index.faiss").write_bytes(whole[:-9] + b"?" + whole[-8:])
    refused("checksum differs")
    (place / "index.faiss").write_bytes(whole)
    (place / "manifest.json").write_text(manifest[: len(manifest) // 2])
    refused("manifest.json")
    (place / "manifest.json").write_text(json.dumps(json.loads(manifest) | {"format": 99}))
    assert "update to that or later" in door("search", built, query, status=2)
    (place / "manifest.json").write_text(manifest)
    assert "class0/0.png" in door("search", built, query)


def test_a_full_disk_leaves_the_index(door: Door, built: Path, embedded: Path, tmp_path: Path, monkeypatch) -> None:
    from metrixkit.retrieval.index import store

    given = faulty(tmp_path, embedded)
    np.save(tmp_path / "fine.npy", np.load(embedded / "embeddings.npy"))
    words = ["--embeddings", tmp_path / "fine.npy", "--table", tmp_path / "t.csv"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    for verb in (["add", built], ["build", "--out", built], ["build", "--out", tmp_path / "new"]):
        message = door(*verb, *words, status=2)
        assert "No space left on device" in message
        assert "as it was" in message
    monkeypatch.undo()
    assert given
    assert not (tmp_path / "new").exists()
    assert len(RetrievalIndex.load(built)) == 31


WRONG = [
    (["search", "absent", "x.png"], "no index at absent"),
    (["search", "."], "not the folder of an index"),
    (["serch"], "Did you mean 'search'"),
    (["build", "--out", "ix"], "what is to be indexed"),
    (["build", "m", "--embeddings", "e.npy", "--out", "ix"], "not both"),
    (["build", "--embeddings", "e.npy", "--out", "."], "holds other things"),
    (["build", "--embeddings", "e.npy", "--out", "e.npy"], "is a file"),
    (["build", "--embeddings", "e.npy", "--out", "ix", "--factory", "Flatt"], "not on offer"),
    (["build", "--embeddings", "e.npy", "--out", "ix", "--metric", "cosin"], "cosine"),
    (["build", "--embeddings", "e.npy", "--out", "ix", "--memory-budget", "100"], "fits memory_budget=100"),
    (["build", "--embeddings", "e.npy", "--out", "ix", "--factory", "Flat", "--memory-budget", "1GB"], "auto"),
    (["remove", "fine"], "--ids A,B"),
    (["remove", "fine", "--ids", "17,99"], "'99' is not in the index"),
    (["remove", "fine", "--file", "nofile"], "--file nofile"),
    (["search", "fine"], "give images"),
    (["search", "fine", "e.npy", "--embeddings", "e.npy"], "not both"),
    (["search", "fine", "e.npy"], "does not know its model"),
    (["search", "fine", "--embeddings", "e.npy", "-k", "0"], "k=0"),
    (["search", "fine", "--embeddings", "e.npy", "--out", "r.txt"], ".csv or .json"),
    (["threshold", "fine", "--embeddings", "e.npy", "--table", "t.csv", "--false-match-rate", "0.001"], "1000"),
    (["tune"], "tune what?"),
    (["tune", "--set", "nprobe=1"], "belongs to an index"),
    (["duplicates"], "of what?"),
    (["duplicates", "--embeddings", "e.npy", "--table", "t.csv", "--threshold", "2"], "threshold=2"),
]  # fmt: skip


def test_wrong_commands_say_what_to_do(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("e.npy", np.random.default_rng(0).normal(size=(20, 4)))
    pd.DataFrame({"label": [str(i % 4) for i in range(20)]}).to_csv("t.csv", index=False)
    door("build", "--embeddings", "e.npy", "--out", "fine")
    for words, expected in WRONG:
        assert expected in door(*words, status=2), words
        assert not Path("ix").exists()
    assert len(RetrievalIndex.load("fine")) == 20
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def subprocess_door(repository: Path, start: list[str], *words: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, "-m", "metrixkit.index", *map(str, words)],
        cwd=repository, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_door_as_a_process_on_glyphs(repository: Path, models: dict[str, str], tmp_path: Path) -> None:
    data = ["data=glyphs", "data.train_classes=30", "data.test_classes=10"]
    assert "items x 16, Flat" in subprocess_door(
        repository, [], "build", models["own"], *data, "--out", tmp_path / "ix"
    )
    kept = RetrievalIndex.load(tmp_path / "ix")
    assert all(label.startswith("U+") for label in kept.labels)
    paths = pd.read_csv(tmp_path / "ix/items.csv", dtype=str)
    assert paths["path"].str.contains(r"images\.npy#\d+$").all()
    said = subprocess_door(repository, [], "info", tmp_path / "ix")
    assert f"{len(kept)}" in said


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_two_processes_build_what_one_does(
    repository: Path, models: dict[str, str], tmp_path: Path, factory: str
) -> None:
    small = (
        "import sys; from metrixkit.indexing import shards; shards.SHARD = 100; from metrixkit import index; "
        "sys.exit(index.main(sys.argv[1:]))"
    )
    script = tmp_path / "small.py"
    script.write_text(small)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    words = [
        "build",
        models["own"],
        "data=glyphs",
        "data.train_classes=40",
        "data.test_classes=20",
        "--factory",
        factory,
    ]
    for name, start in (("one", [str(script)]), ("two", torchrun)):
        done = subprocess.run(
            [sys.executable, *start, *words, "--out", str(tmp_path / name)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert done.stdout.count("items x 16") == 1
    one, two = (RetrievalIndex.load(tmp_path / name) for name in ("one", "two"))
    assert one.ids.tolist() == two.ids.tolist()
    assert one.labels.tolist() == two.labels.tolist()
    queries = one.reconstruct(one.ids[:200])
    np.testing.assert_allclose(two.reconstruct(one.ids[:200]), queries, atol=1e-6)
    scores, found = one.search(queries, 5)
    again, other = two.search(queries, 5)
    np.testing.assert_allclose(again, scores, atol=1e-5)
    assert (found == other).mean() > 0.98
    two.remove(two.ids[:7])
    two.save(tmp_path / "two")
    assert len(RetrievalIndex.load(tmp_path / "two")) == len(one) - 7
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_a_run_is_searched_through_faiss_and_for_duplicates(
    repository: Path, tmp_path: Path, door: Door, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metrixkit import evaluate, train

    monkeypatch.chdir(repository)
    settings = [
        "data.train_classes=20", "data.test_classes=12", "sampler.batch_size=24", "sampler.m=4", "model.dim=16",
        "training.epochs=1", "training.accelerator=cpu", "training.tensorboard=false", "loader.workers=0",
    ]  # fmt: skip
    run = tmp_path / "run"
    assert train.main(["configs/glyphs_metrix.yaml", *settings, "--run", str(run)]) == 0
    data = ["data=glyphs", "data.train_classes=20", "data.test_classes=12"]
    door("build", run, *data, "--out", tmp_path / "ix")
    for more in (["--factory", "Flat"], ["--index", str(tmp_path / "ix")]):
        capsys.readouterr()
        assert evaluate.main([str(run), "loader.workers=0", *more, "--out", str(tmp_path / "r.json")]) == 0
        said = capsys.readouterr().out
        result = json.loads((tmp_path / "r.json").read_text())
        # Float32 scores may order near ties otherwise.
        assert result["metrics"]["faiss/recall@1"] == pytest.approx(result["metrics"]["recall@1"], abs=0.02)
        alone, encoded = (result["index"]["latency"][name] for name in ("index alone", "with the encoder"))
        assert min(alone["p50_ms"], encoded["p50_ms"]) > 0
        assert (alone["queries"], encoded["queries"]) == (result["counts"]["queries"], 50)
        assert "one query, with the encoder: p50" in said
    assert "further items of the index are passed over" in said  # the training split is in it, too
    said = door("duplicates", run, "--threshold", "0.999", "--out", tmp_path / "d.csv")
    splits = set(pd.read_csv(tmp_path / "d.csv")["split_a"])
    assert "train" in splits
    assert "nearest all bear another label" in said


@pytest.mark.parametrize("words", [("search", "{ix}", "{photo}"), ("duplicates", *["--embeddings", "{e}", "--table", "{t}"]), ("tune", "{ix}")])  # fmt: skip
def test_where_results_go_is_looked_at_before_the_work(
    words: tuple[str, ...], door: Door, built: Path, embedded: Path, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for module, name in (("search", "search"), ("duplicates", "duplicate_pairs"), ("tune", "tune")):
        monkeypatch.setattr(f"metrixkit.indexing.{module}.{name}", lambda *_, **__: pytest.fail("it worked"))
    places = {
        "ix": built,
        "photo": photos / "class3/1.png",
        "e": embedded / "embeddings.npy",
        "t": embedded / "table.csv",
    }
    (tmp_path / "there").write_text("a file")
    said = door(*(word.format(**places) for word in words), "--out", tmp_path / "there/out.csv", status=2)
    assert "--out" in said
    os.mkfifo(tmp_path / "pipe.csv")
    assert "a named pipe" in door(*(word.format(**places) for word in words), "--out", tmp_path / "pipe.csv", status=2)
