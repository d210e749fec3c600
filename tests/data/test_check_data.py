"""`check` and its door."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metrixkit.data import DATASETS, Images, Manifest
from metrixkit.data.__main__ import main
from metrixkit.data.check import check
from metrixkit.data.duplicates import byte_equal


def picture(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def clean(tmp_path) -> Path:
    for c, name in enumerate(("cat", "dog", "owl")):
        for k in range(3):
            picture(tmp_path / "photos" / name / f"{k}.png", 10 * c + k)
    return tmp_path / "photos"


def test_a_clean_set_has_no_problems(clean):
    report = check(Images(str(clean)).read())
    assert report.problems == []
    assert report.render().endswith("OK")
    assert "9 items of 3 classes in all" in report.render()
    assert sum(part.items for part in report.splits) == 9
    assert {(part.smallest, part.median, part.largest) for part in report.splits} == {(3, 3.0, 3)}
    assert report.sides.tolist() == [[4, 6]] * 9


def test_copies_under_two_labels_in_two_splits_and_within_a_class(tmp_path):
    for split, name, k, value in (
        ("train", "cat", 0, 1),
        ("train", "cat", 1, 1),
        ("train", "dog", 0, 1),
        ("train", "owl", 0, 2),
        ("test", "owl", 1, 2),
        ("test", "owl", 2, 3),
        ("test", "owl", 3, 3),
    ):
        picture(tmp_path / split / name / f"{k}.png", value)
    report = check(Images(str(tmp_path)).read())
    assert report.two_labels == (("train/cat/0.png", "train/cat/1.png", "train/dog/0.png"),)
    assert [set(group) for group in report.two_splits] == [{"train/owl/0.png", "test/owl/1.png"}]
    assert report.copies == 1
    assert len(report.problems) == 2
    assert "1 images stand byte for byte under two labels: train/cat/0.png" in report.render()


def test_truncated_image_is_named(clean):
    broken = clean / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    report = check(Images(str(clean)).read())
    assert len(report.unreadable) == 1
    assert str(broken) in report.unreadable[0]
    assert "1 unreadable" in report.problems[0]
    assert check(Images(str(clean)).read(), deep=False).problems == []


def test_counts_singletons_missing_and_queries_without_match(tmp_path):
    rows = [("a", "train"), ("a", "train"), ("b", "train"), ("c", "query"), ("d", "query"), ("c", "gallery")]
    items = pd.DataFrame(
        {
            "id": [str(k) for k in range(6)],
            "path": "x.png",
            "label": [r[0] for r in rows],
            "split": [r[1] for r in rows],
        }
    )
    manifest = Manifest("toy", "s", items, tmp_path, 1, {"train": 4, "query": 2, "test": 3}, absent=("y.png: missing",))
    report = check(manifest, deep=False)
    train, query = report.splits[0], report.splits[1]
    assert (train.singletons, train.classes, train.smallest, train.largest) == (1, 2, 1, 2)
    assert query.without_match == 1
    assert report.problems == [
        "split 'train' has 3 of the published 4 items",
        "split 'test' has 0 of the published 3 items",
        "1 missing or broken files were left out: y.png: missing",
    ]


def test_byte_equal_reads_files_zips_and_arrays(tmp_path):
    picture(tmp_path / "a.png", 1)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content)
    (tmp_path / "c.png").write_bytes(content[:-1] + b"x")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("m/0.png", content)
        archive.writestr("m/1.png", content)
        archive.writestr("m/2.png", content[:-1] + b"x")
    np.save(tmp_path / "r.npy", np.array([[[1]], [[2]], [[1]]], dtype=np.uint8))
    files = [str(tmp_path / name) for name in ("a.png", "c.png", "b.png", "missing.png")]
    zips = [f"{tmp_path / 'z.zip'}!m/{k}.png" for k in (0, 1, 2, 9)]
    rows = [f"{tmp_path / 'r.npy'}#{k}" for k in (0, 1, 2, 9)]
    assert byte_equal(files) == [[0, 2]]
    assert byte_equal(zips) == [[0, 1]]
    assert byte_equal(rows) == [[0, 2]]
    assert byte_equal(files + rows) == [[0, 2], [4, 6]]


@pytest.mark.parametrize(
    ("size", "above", "expected"), [((500, 400), 1e5, True), ((500, 400), 1e9, False), ((6, 4), 1, False)]
)
def test_cache_is_recommended_for_many_large_pixels(tmp_path, size, above, expected):
    for name in "ab":
        for k in range(2):
            picture(tmp_path / name / f"{k}.jpg", k, size)
    report = check(Images(str(tmp_path)).read(), cache_above=above)
    assert report.cache_recommended is expected
    assert ("loader.cache=DIR" in report.render()) is expected


# --- the door ----------------------------------------------------------------------------------------------------


def test_door_checks_a_folder_and_a_table(clean, capsys):
    assert main(["check", str(clean)]) == 0
    assert "OK" in capsys.readouterr().out
    table = clean / "products.csv"
    table.write_text("file,sku\ncat/0.png,1\ncat/1.png,1\ndog/0.png,2\ndog/1.png,2\ngone.png,2\n")
    assert main(["check", str(table), "columns.path=file", "data.columns.label=sku", "seed=3"]) == 1
    shown = capsys.readouterr().out
    assert "zero-shot-share0.5-seed3" in shown
    assert "1 missing or broken files were left out: gone.png: missing" in shown
    assert main(["check", str(table), "columns.path=file", "columns.label=sku", "on_missing=error"]) == 2
    assert "1 of 5 listed files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cb"], "Did you mean 'cub'?"),
        (["cub", "clases=1-50"], "Did you mean 'classes'?"),
        (["cub", "classes"], "expected key=value"),
        (["cub", "verify=["], "not readable"),
        (["cub", "split=zeroshot"], "data.split"),
        (["cub", "root=nowhere"], "was not found"),
        (["no.module:Reader"], "cannot import"),
    ],
)
def test_door_answers_bad_input_in_one_line_with_status_2(arguments, message, capsys):
    assert main(["check", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_door_reads_a_class_of_ones_own(clean, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_reader.py").write_text(
        "from metrixkit.data import Images\n\n\n"
        "class Photos:\n"
        "    def __init__(self, where: str, seed: int = 0) -> None:\n"
        "        self.inner = Images(where, seed=seed)\n\n"
        "    def read(self):\n"
        "        return self.inner.read()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["check", "my_reader:Photos", f"where={clean}"]) == 0
    assert main(["check", "my_reader:Photos"]) == 2
    assert "data.where is missing" in capsys.readouterr().err


def test_door_lists_every_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("METRIXKIT_DATA", str(tmp_path))
    (tmp_path / "CUB_200_2011").mkdir()
    (tmp_path / "CUB_200_2011" / "images.txt").touch()
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name}\n" in shown for name in DATASETS)
    assert f"found at {tmp_path / 'CUB_200_2011'}" in shown
    assert shown.count("not found") == 11


def test_every_data_set_with_files_has_a_card(repository):
    cards = [reader.source.card for reader in DATASETS.values() if hasattr(reader, "source")]
    assert len(cards) == 12
    for card in [*cards, "datasets/images.md", "datasets/glyphs.md", "datasets/captions.md", "datasets/README.md"]:
        assert (repository / card).is_file(), card


@pytest.mark.slow
def test_door_as_a_programme(clean, repository):
    done = subprocess.run(
        [sys.executable, "-m", "metrixkit.data", "check", str(clean), "--lists-only"],
        cwd=repository,
        env=dict(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "files were not opened" in done.stdout
    assert done.stderr == ""
