"""One reader of images: ``train``, ``check``, ``embed``, ``index build`` and ``evaluate`` see the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from metrixkit import embed, evaluate, index, source, train
from metrixkit.data import UNLABELLED, Columns, Images
from metrixkit.embedding.folder import read_source
from metrixkit.errors import InputError
from metrixkit.indexing.videos import read_videos
from metrixkit.retrieval.index import RetrievalIndex

CONFIG = """
data: {name: images}
transform: {resize: 32, train: affine, flip: 0.0}
sampler: {name: m-per-class, batch_size: 8, m: 2}
model: {backbone: small, image_size: 32, dim: 16, pooling: avg}
loss: {name: contrastive}
optimizer: {name: adam, lr: 1e-3}
training: {epochs: 1, accelerator: cpu, tensorboard: false}
loader: {workers: 0}
evaluation: {recall_at: [1, 4], metrics: [map@r]}
"""


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four classes of two pictures; two of them bear one name in two places."""
    for c, name in enumerate(("shoes/red", "shoes/blue", "hats/red", "hats/blue")):
        for k in range(2):
            picture(tmp_path / "photos" / name / f"{k}.png", 10 * c + k)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with products.csv, pics/ (all photos in one folder) and ``run``, trained on that table."""
    root = tmp_path_factory.mktemp("shop")
    lines = ["file,sku,shot"]
    for c in range(16):
        for k in range(4):
            picture(root / "pics" / f"{c}_{k}.png", 100 * c + k)
            lines.append(f"{c}_{k}.png,{c:03},{k}")
    (root / "products.csv").write_text("\n".join(lines) + "\n")
    (root / "own.yaml").write_text(CONFIG)
    table = [f"data.table={root}/products.csv", f"data.root={root}/pics", "data.columns.path=file"]
    words = [f"{root}/own.yaml", *table, "data.columns.label=sku", "data.seed=3", "--run", f"{root}/run"]
    with pytest.MonkeyPatch.context() as patch:  # pictures take longer than all else
        patch.setattr("metrixkit.jobs.images.draw_pictures", lambda *_: None)
        patch.setattr("metrixkit.jobs.images.draw_mixtures", lambda *_: None)
        assert train.main(words) == 0
    return root


def embedded(out: Path) -> tuple[np.ndarray, pd.DataFrame]:
    return np.load(out / "embeddings.npy"), pd.read_csv(out / "table.csv", dtype=str, keep_default_na=False)


def judged(out: Path) -> dict[str, float]:
    files = ["--embeddings", f"{out}/embeddings.npy", "--table", f"{out}/table.csv"]
    assert (
        evaluate.main(
            [*files, "evaluation.recall_at=[1,4]", "evaluation.metrics=[map@r]", "--out", f"{out}/result.json"]
        )
        == 0
    )
    return dict(json.loads((out / "result.json").read_text())["metrics"])


def test_a_folder_has_the_labels_splits_and_files_of_the_reader_that_trains(photos: Path) -> None:
    manifest = Images(str(photos)).read()
    columns = ["id", "path", "label", "split"]
    pd.testing.assert_frame_equal(read_source([str(photos)]), manifest.items[columns])
    assert set(manifest.labels) == {"shoes/red", "shoes/blue", "hats/red", "hats/blue"}
    other = source.read([str(photos), "seed=1", "data.test_share=0.25"])
    pd.testing.assert_frame_equal(other.items, Images(str(photos), seed=1, test_share=0.25).read().items[columns])
    assert any("divided as training would (zero-shot-share0.25-seed1)" in line for line in other.said)


def test_split_folders_are_splits(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b"), ("query", "c"), ("gallery", "c")):
        picture(tmp_path / split / name / "0.png", 1)
    found = source.read([str(tmp_path)])
    assert found.items["split"].tolist() == ["gallery", "query", "train", "validation"]
    assert set(found.items["label"]) == {"a", "b", "c"}
    some = source.read([str(tmp_path)], splits="query, gallery")
    assert some.items["id"].tolist() == ["gallery/c/0.png", "query/c/0.png"]
    assert "of train 1, validation 1, query 1, gallery 1" in some.said[-1]
    with pytest.raises(InputError, match=r"--split test: .* no image of split 'test'; it has train 1, validation 1"):
        source.read([str(tmp_path)], splits="test")
    with pytest.raises(InputError, match="Did you mean 'query'"):
        source.read([str(tmp_path)], splits="querry")


def test_settings_of_the_run_go_on_to_folders_and_tables(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    own = "{name: images, root: pics, table: old.csv, columns: {path: file, label: sku}, seed: 1, test_share: 0.25}"
    (run / "config.yaml").write_text(f"task: retrieval\nseed: 0\ndata: {own}\n")
    found = source.read([str(photos)], run).items
    assert found["split"].tolist() == Images(str(photos), seed=1, test_share=0.25).read().items["split"].tolist()
    (tmp_path / "new.csv").write_text("file,sku,split\nshoes/red/0.png,7,test\n")
    rows = source.read([str(tmp_path / "new.csv"), f"root={photos}"], run).items  # its share does not matter here
    assert rows[["id", "path", "label", "split"]].to_numpy().tolist() == [
        ["shoes/red/0.png", f"{photos}/shoes/red/0.png", "7", "test"]
    ]
    with pytest.raises(InputError, match="test_share divides classes, and the splits are given"):
        source.read([str(tmp_path / "new.csv"), f"root={photos}", "test_share=0.3"], run)


def test_a_table_is_read_by_its_columns(photos: Path) -> None:
    table = photos / "t.tsv"
    table.write_text("file\tsku\tset\nshoes/red/0.png\t007\tVal\nhats/red/1.png\tNA\tTest\n")
    words = [str(table), "columns.path=file", "data.columns.label=sku", "columns.split=set"]
    found = source.read(words).items
    same = Images(table=str(table), columns=Columns("file", "sku", "set")).read().items
    pd.testing.assert_frame_equal(found, same[["id", "path", "label", "split"]])
    assert found[["label", "split"]].to_numpy().tolist() == [["007", "validation"], ["NA", "test"]]
    with pytest.raises(InputError, match="no column 'path'"):
        source.read([str(table)])


def test_loose_images_get_no_label_that_nobody_gave(photos: Path, tmp_path: Path) -> None:
    picture(photos / "loose.png", 99)
    found = source.read([str(photos)])
    assert found.items.set_index("id").loc["loose.png", ["label", "split"]].tolist() == ["", ""]
    assert (found.items["label"] == "").sum() == 1
    assert "1 of 9 images have no label" in found.said[-2]
    single = source.read([str(photos / "loose.png"), str(photos / "hats/red/0.png")]).items
    assert single[["id", "label", "split"]].to_numpy().tolist() == [["loose.png", "", ""], ["0.png", "", ""]]
    one = source.read([str(photos / "hats/red")])  # one folder of images: no class below it
    assert one.items["label"].tolist() == ["", ""]
    (tmp_path / "paths.csv").write_text("path\nphotos/hats/red/0.png\nphotos/hats/red/1.png\n")
    assert source.read([str(tmp_path / "paths.csv")]).items["label"].tolist() == ["", ""]


def test_one_class_is_not_divided_and_says_so(tmp_path: Path) -> None:
    for k in range(2):
        picture(tmp_path / "only" / f"{k}.png", k)
    found = source.read([str(tmp_path)])
    assert found.items["label"].tolist() == ["only", "only"]
    assert found.items["split"].tolist() == ["", ""]
    assert any(line.startswith("no splits: ") for line in found.said)


def test_several_places_and_what_cannot_be(photos: Path, tmp_path: Path) -> None:
    both = source.read([str(photos / "shoes"), str(photos / "hats")]).items
    assert both["label"].tolist() == ["blue", "blue", "red", "red"] * 2
    assert both["id"].tolist() == both["path"].tolist()  # the ids below either folder are the same
    for words, message in (
        ([str(photos / "hats/red/0.png")] * 2, "named twice"),
        ([str(photos), "data=glyphs"], "not both"),
        ([str(photos / "hats/red/0.png"), "seed=3"], "single image files have no settings"),
        ([str(photos), "sed=3"], "Did you mean 'seed'"),
        (["nowhere"], "no file or folder at nowhere"),
        ([], "which images"),
        (["data=glyphs_video_text"], "holds no images but"),
        (["caf\udce9.png"], r"caf\\xe9\.png is not UTF-8"),
    ):
        with pytest.raises(InputError, match=message):
            source.read(words)
    (tmp_path / "a=b").mkdir()  # a folder, not a setting
    picture(tmp_path / "a=b" / "c" / "0.png", 1)
    assert len(source.read([str(tmp_path / "a=b")]).items) == 1


def test_train_on_a_table_embed_evaluate(shop: Path, tmp_path: Path) -> None:
    """As in the README: the numbers are those of the run, not 100 % because all photos lie in one folder."""
    before = json.loads((shop / "run/results.json").read_text())["metrics"]
    assert 0 < before["recall@1"] < 1
    assert embed.main([f"{shop}/run", f"{shop}/products.csv", "--out", str(tmp_path / "e")]) == 0
    vectors, table = embedded(tmp_path / "e")
    assert vectors.shape == (64, 16)
    assert sorted(set(table["label"])) == [f"{c:03}" for c in range(16)]
    found = judged(tmp_path / "e")
    assert {name: found[name] for name in ("recall@1", "recall@4", "map@r")} == {
        name: before[name] for name in ("recall@1", "recall@4", "map@r")
    }


@pytest.mark.sample(1)
@pytest.mark.parametrize("given", [False, True])
def test_new_photos_of_known_classes_search_what_they_searched_in_training(
    given: bool, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(shop / "run/model", run / "model")
    config = yaml.safe_load((shop / "run/config.yaml").read_text())
    config["data"]["split"] = "photos"
    if given:
        rows = (shop / "products.csv").read_text().splitlines()
        rows = [rows[0] + ",split", *(f"{row},{'test' if row.endswith(',3') else 'train'}" for row in rows[1:])]
        (tmp_path / "given.csv").write_text("\n".join(rows) + "\n")
        config["data"]["table"] = f"{tmp_path}/given.csv"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["evaluation.recall_at=[1,4]", "evaluation.metrics=[map@r]", "evaluation.utilization=false"]
    assert evaluate.main([str(run), *words, "--out", f"{tmp_path}/run.json"]) == 0
    expected = json.loads((tmp_path / "run.json").read_text())
    for place in ([], [str(config["data"]["table"])]):
        assert embed.main([str(run), *place, "--out", str(tmp_path / "e")]) == 0
        assert "written as query: test" in capsys.readouterr().out
        assert set(embedded(tmp_path / "e")[1]["split"]) == {"query", "gallery"}
        assert judged(tmp_path / "e") == {name: expected["metrics"][name] for name in ("recall@1", "recall@4", "map@r")}


def test_without_a_source_it_is_the_runs_own_data(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shop / "run")
    assert embed.main([run, "--out", str(tmp_path / "own")]) == 0
    assert "splits: test, 32 images (of train 24, validation 8, test 32)" in capsys.readouterr().out
    _, table = embedded(tmp_path / "own")
    manifest = Images(
        f"{shop}/pics", f"{shop}/products.csv", columns=Columns("file", "sku"), seed=3
    ).read()  # fmt: skip
    assert table["id"].tolist() == manifest.part("test").ids
    assert judged(tmp_path / "own")["map@r"] == json.loads((shop / "run/results.json").read_text())["metrics"]["map@r"]
    assert index.main(["build", run, "--out", str(tmp_path / "ix")]) == 0
    kept = RetrievalIndex.load(tmp_path / "ix")
    assert kept.ids.tolist() == manifest.part("test").ids
    assert kept.labels.tolist() == manifest.part("test").labels
    assert index.main(["build", run, "--split", "train,test", "--out", str(tmp_path / "more")]) == 0
    assert len(RetrievalIndex.load(tmp_path / "more")) == 56
    assert len(source.read([], run, "all").items) == 64
    assert len(source.read(["data.seed=0"], run).items) == 32
    assert source.read(["data.seed=0"], run).items["id"].tolist() != table["id"].tolist()


def test_a_runs_own_videos(tmp_path: Path) -> None:
    rows = ["id,caption,split", *(f"v{k},a clip,{'train' if k < 3 else 'test'}" for k in range(5))]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    for k in range(5):
        (tmp_path / f"v{k}.mp4").touch()
    run = tmp_path / "run"
    run.mkdir()
    data = f"{{name: captions, table: {tmp_path}/t.csv}}"
    (run / "config.yaml").write_text(f"task: crossmodal\nseed: 0\ndata: {data}\n")
    assert read_videos([], "video", str(run)).items["id"].tolist() == ["v3", "v4"]
    assert len(read_videos([], "video", str(run), "all").items) == 5
    places = read_videos([str(tmp_path / "v0.mp4")], "video", str(run)).items
    assert places[["id", "label", "split"]].to_numpy().tolist() == [["v0", "", ""]]


def test_images_that_a_data_set_calls_unlabelled_have_no_label(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "hats/red").rename(photos / UNLABELLED)
    found = source.read(["data=images", f"data.root={photos}"]).items
    assert sorted(set(found["label"])) == ["", "hats/blue", "shoes/blue", "shoes/red"]


def test_an_index_in_a_folder_whose_name_is_not_utf8_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"{tmp_path}/ix\udce9"
    assert index.main(["build", str(shop / "run"), str(shop / "pics"), "--out", out]) == 2
    told = capsys.readouterr().err
    assert "--out: the name" in told
    assert r"ix\xe9 is not UTF-8" in told
    assert list(tmp_path.iterdir()) == []
    kept = RetrievalIndex.build(np.eye(4, dtype=np.float32), ["a", "b", "c", "d"])
    with pytest.raises(InputError, match="the path is not UTF-8"):
        kept.save(out)


def test_labels_that_nobody_gave_are_not_evaluated(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed.main([f"{shop}/run", f"{shop}/pics", "--out", str(tmp_path)]) == 0
    assert "64 of 64 images have no label" in capsys.readouterr().out
    assert set(embedded(tmp_path)[1]["label"]) == {""}
    files = ["--embeddings", f"{tmp_path}/embeddings.npy", "--table", f"{tmp_path}/table.csv"]
    assert evaluate.main(files) == 2
    assert "column 'label' (--label) is empty" in capsys.readouterr().err


def test_what_is_searched_in_the_end() -> None:
    assert source.searched(["train", "query", "gallery"]) == "query,gallery"
    assert source.searched(["train", "validation", "test"]) == "test"
    assert source.searched(["train", "test"], {"test": ("train", "validation")}) == "test,train"
    assert source.searched(["train"]) == "all"
