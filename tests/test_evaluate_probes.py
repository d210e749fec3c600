"""The evaluate door with --knn, --linear, --semi, --tsne and --similarity-within."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from metrixkit import evaluate
from metrixkit.data.transforms import Transform, eval_transform_config
from metrixkit.judging.probes import complete
from metrixkit.models import ImageEncoder, save_model
from metrixkit.report.tsne import tsne_picture
from metrixkit.tasks import SelfSupervisedSettings

SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights in model/, pictures of four tints below data/, and a run of the task in run/."""
    root, draw = tmp_path_factory.mktemp("probes"), np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for c in range(4):
            (root / "data" / split / f"c{c}").mkdir(parents=True)
            for i in range(count):
                image = draw.normal(90, 40, (SIDE, SIDE, 3))
                image[:, :, c % 3] += 60 if c < 3 else 30
                path = root / "data" / split / f"c{c}" / f"{split}_{c}_{i}.png"
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    torch.manual_seed(0)
    model = ImageEncoder("small", dim=None, image_size=SIDE, pooling="avg")
    for where in (root / "alone", root / "run" / "model"):
        save_model(model, where, eval_transform_config(Transform(resize=SIDE), SIDE))
    config = {
        "seed": 0,
        "task": "self-supervised",
        "data": {"name": "images", "root": str(root / "data")},
        "loader": {"workers": 0},
        "evaluation": asdict(SelfSupervisedSettings(knn=3, temperature=0.2)),
    }
    (root / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return root


def words(folder: Path, *more: str) -> list[str]:
    data = [f"data.root={folder}/data", "data.name=images", "loader.workers=0", "evaluation.recall_at=[1]"]
    return [f"{folder}/alone", *data, "evaluation.utilization=false", *more]


def test_features_at_hand(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "t.png"
    asked = ["--knn", "--linear", "--similarity-within", "--tsne", str(picture), "--out", str(out)]
    assert evaluate.main([*asked[:2], *words(folder), *asked[2:]]) == 0
    said = capsys.readouterr().out
    result = json.loads(out.read_text())
    metrics = result["metrics"]
    for name in ("knn@1", "knn@5", "linear@1", "intra_class_similarity", "recall@1"):
        assert name in metrics, name
        assert name in result["definitions"]
        assert name in said
    assert metrics["linear@1"] > 0.5
    assert "200 nearest" in result["definitions"]["knn@1"]
    assert result["probes"]["labelled_training_items"] == 40
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"t-SNE: {picture}" in said


def test_protocols_train_and_leave_the_model_alone(folder: Path, tmp_path: Path) -> None:
    before = (folder / "alone" / "model.safetensors").read_bytes()
    out = tmp_path / "r.json"
    names = tmp_path / "few.txt"
    names.write_text("".join(f"train_{c}_{i}.png\n" for c in range(4) for i in range(2)))
    asked = ["--linear", "moco", "linear.epochs=2", "--semi", str(names), "semi.epochs=1", "--out", str(out)]
    assert evaluate.main([*words(folder), *asked]) == 0
    result = json.loads(out.read_text())
    assert {"linear@1", "oracle/linear@1", "semi@1", "oracle/semi@1"} <= result["metrics"].keys()
    assert "knn@1" not in result["metrics"]
    assert result["probes"]["linear"]["lr"] == 30
    assert result["probes"]["linear"]["items"] == 40
    assert result["probes"]["semi"]["items"] == 8
    assert len(result["probes"]["linear"]["history"]) == 2
    assert "lr 30, x0.1 after epoch 1.2, 1.6, 2 epochs" in result["definitions"]["linear@1"]
    assert result["metrics"].keys() <= result["definitions"].keys()
    assert (folder / "alone" / "model.safetensors").read_bytes() == before


def test_a_run_of_the_task_is_told_what_it_reports(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert evaluate.main([f"{folder}/run", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert {"knn@1", "linear@1", "recall@1", "map@r", "intra_class_similarity"} <= result["metrics"].keys()
    assert "their 3 nearest" in result["definitions"]["knn@1"]
    assert "cosine / 0.2" in result["definitions"]["knn@1"]
    # Asked for one thing, the door adds one thing; the training split is judged by nothing.
    assert evaluate.main([f"{folder}/run", "--knn", "7", "--out", str(out)]) == 0
    assert {n for n in json.loads(out.read_text())["metrics"] if "@5" in n or "linear" in n} == {"knn@5"}
    assert evaluate.main([f"{folder}/run", "--split", "train", "--out", str(out)]) == 0
    assert "knn@1" not in json.loads(out.read_text())["metrics"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--linear", "moc"], "no linear protocol is called 'moc'"),
        (["--linear=simclr"], "no linear protocol is called 'simclr'"),
        (["--knn", "0"], "at least one neighbour"),
        (["--tsne", "a.jpg"], "ends in .png"),
        (["linear.lr=3"], "linear settings belong to --linear."),
        (["--linear", "linear.lr=3"], "with a protocol's name"),
        (["--linear", "moco", "linear.rate=3"], "linear.rate is not a setting"),
        (["--semi", "1%", "semi.lr=x"], "semi.lr: expected a number"),
        (["--semi", "0%"], "more than 0"),
        (["--semi", "nowhere.txt"], "no such file"),
        (["--knn", "--split", "train"], "no labelled training items answer"),
        (["--knn", "data.root={root}/data/train"], "are not those of its training items"),
    ],
)
def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], asked: list[str], message: str) -> None:
    assert evaluate.main([*words(folder), *(word.format(root=folder) for word in asked)]) == 2
    assert message in capsys.readouterr().err


def test_probes_need_a_model_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--embeddings", "e.npy", "--table", "t.csv", "--knn"]) == 2
    assert "need a model of images" in capsys.readouterr().err


def test_flags_without_a_value_take_no_other_word() -> None:
    assert complete(["--linear", "RUN/x", "--knn", "a=b"]) == ["--linear=features", "RUN/x", "--knn=200", "a=b"]
    assert complete(["RUN", "--linear", "mixco", "--knn", "20"]) == ["RUN", "--linear", "mixco", "--knn", "20"]
    assert complete(["RUN", "--linear", "mixko"]) == ["RUN", "--linear", "mixko"]
    assert complete(["RUN", "--linear"]) == ["RUN", "--linear=features"]
    assert complete(["RUN", "--linear", "--knn"]) == ["RUN", "--linear=features", "--knn=200"]


def test_the_picture_shows_chosen_classes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(90, 6))
    labels = [f"c{i % 30}" for i in range(90)]
    path = tsne_picture(tmp_path / "p" / "t.png", rows, labels, {"c1": "name"}, per_class=2, classes=8)
    with Image.open(path) as image:
        told = dict(image.info)
    assert "16 of 90 items" in told["Description"]
    assert "8 of 30 classes" in told["Description"]
    again = tsne_picture(tmp_path / "again.png", rows, labels, {"c1": "name"}, per_class=2, classes=8)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_door_as_a_process(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "metrixkit.evaluate", *words(folder), "--knn", "5"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "knn@1" in done.stdout
    assert "knn@5" in done.stdout


def test_a_run_of_a_sweep_has_an_equals_sign_in_its_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run-seed=0"
    run.symlink_to(folder / "run")
    assert evaluate.main([str(run), "--knn", "3"]) == 0, capsys.readouterr().err
    assert "knn@1" in capsys.readouterr().out
    assert evaluate.main(["data=images", "--knn", "3"]) == 2
    assert "which model?" in capsys.readouterr().err
