"""The task classification: its metrics by loops, what is watched, selected and filed, and runs from end to end."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from metrixkit import config as configs
from metrixkit import evaluate
from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError
from metrixkit.experiment import train
from metrixkit.models import Classifier
from metrixkit.retrieval import evaluate as evaluate_rows
from metrixkit.tasks import TASKS, Classification, ClassificationSettings
from metrixkit.tasks.classified import calibration_error, class_metrics
from metrixkit.tasks.self_supervised import hold_out

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIDE = 8
TINTS = np.array([[60, 0, 0], [0, 60, 0], [0, 0, 60], [30, 30, 0], [0, 30, 30], [30, 0, 30]])


def tinted(folder: Path, label: int, name: str, draw: np.random.Generator, side: int = SIDE) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    Image.fromarray((draw.normal(90, 60, (side, side, 3)) + TINTS[label]).clip(0, 255).astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six classes of tinted noise: 10 training and 5 test pictures each."""
    folder, draw = tmp_path_factory.mktemp("tints"), np.random.default_rng(0)
    rows = [
        (f"i{i}", tinted(folder, i % 6, str(i), draw), f"c{i % 6}", "test" if i >= 60 else "train") for i in range(90)
    ]
    return Manifest("tints", "classification", pd.DataFrame(rows, columns=["id", "path", "label", "split"]), folder)


class Means(nn.Module):
    """Mean colours, about their middle."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (images.float().mean(dim=(2, 3)) - 105)


def classifier(classes: int = 6) -> Classifier:
    linear = nn.Linear(3, classes)
    linear.weight.data.copy_(torch.from_numpy(TINTS[:classes] / 40.0))
    linear.bias.data.zero_()
    return Classifier(Means(), linear)


def task_of(manifest: Manifest, **settings: Any) -> Classification:
    told = ClassificationSettings(**settings)
    return Classification(hold_out(manifest, told, 0), nn.Identity(), told)


def by_loops(scores: Tensor, labels: list[str], classes: list[str]) -> dict[str, float]:
    top1 = top5 = nll = 0.0
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(scores.double().tolist(), labels, strict=True):
        place = classes.index(label)
        before = sum(1 for i, value in enumerate(row) if i != place and value >= row[place])
        top = max(row)
        total = sum(math.exp(value - top) for value in row)
        top1, top5 = top1 + (before < 1), top5 + (before < 5)
        nll -= math.log(math.exp(row[place] - top) / total)
        number = next(b for b in range(15) if b / 15 < 1 / total <= (b + 1) / 15)
        bins.setdefault(number, []).append((1 / total, before < 1))
    n = len(labels)
    ece = sum(abs(sum(r for _, r in found) - sum(p for p, _ in found)) for found in bins.values()) / n
    return {"top1": top1 / n, "top5": top5 / n, "nll": nll / n, "ece": ece}


def rows_of(manifest: Manifest, *splits: str) -> tuple[Tensor, list[str]]:
    items = manifest.part(*splits).items
    images = torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in items["path"]])
    return Means()(images).detach(), list(items["label"])


def test_metrics_by_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    classes = [f"c{i}" for i in range(7)]
    scores = 3 * torch.randn(200, 7, generator=draw).double()
    scores[:40] = scores[:40].round()  # ties count against the item
    labels = [classes[int(i)] for i in torch.randint(7, (200,), generator=draw)]
    found = class_metrics(scores, labels, classes)
    assert found == pytest.approx(by_loops(scores, labels, classes), rel=1e-12)
    collapsed = class_metrics(torch.zeros(200, 7), labels, classes)
    assert collapsed["top1"] == collapsed["top5"] == 0
    assert collapsed["nll"] == pytest.approx(math.log(7))


def test_calibration() -> None:
    assert calibration_error(torch.ones(4), torch.ones(4, dtype=torch.bool)) == 0
    assert calibration_error(torch.ones(4), torch.zeros(4, dtype=torch.bool)) == 1
    assert calibration_error(torch.full((4,), 0.5), torch.tensor([True, False, True, False])) == 0
    # Over and under in one bin cancel out, in two they do not.
    sure = torch.tensor([0.61, 0.79])
    assert calibration_error(sure, torch.tensor([True, False]), bins=1) == pytest.approx(0.2)
    assert calibration_error(sure, torch.tensor([True, False])) == pytest.approx((0.39 + 0.79) / 2)
    # An upper edge belongs to its bin.
    assert calibration_error(torch.tensor([0.5, 0.4]), torch.tensor([True, False]), bins=2) == pytest.approx(0.05)


def test_few_classes_and_classes_never_trained_on() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    assert "top5" not in class_metrics(scores, ["a", "b", "a"], ["a", "b"])
    with pytest.warns(UserWarning, match="1 of 3 items are of classes without"):
        found = class_metrics(scores, ["a", "b", "new"], ["a", "b"])
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["nll"] == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-3))) / 2)
    with pytest.raises(InputError, match="unseen classes are for task=retrieval"):
        class_metrics(scores, ["x", "y", "z"], ["a", "b"])
    with pytest.raises(InputError, match=r"scores have shape \(3, 2\)"):
        class_metrics(scores, ["a", "b"], ["a", "b"])


def test_held_out_images_select(manifest: Manifest) -> None:
    task = task_of(manifest, validation=0.2)
    assert task.manifest.counts() == {"train": 48, "validation": 12, "test": 30}
    assert task.selects == "validation/top1"
    assert task.notes == []
    rows, labels = rows_of(task.manifest, "validation")
    expected = by_loops(classifier().scores(rows), labels, task.classes)
    assert task.watch(classifier(), 0) == {f"validation/{k}": pytest.approx(v, rel=1e-6) for k, v in expected.items()}
    assert task_of(manifest, validation=0.2, select_by="last").selects is None
    assert task_of(manifest, validation=0).selects is None
    assert task_of(manifest, validation=0).watch(classifier(), 0) == {}


def test_the_end(manifest: Manifest) -> None:
    task = task_of(manifest, recall_at=[1, 2])
    metrics, evaluation, found = task.test(classifier())
    for k in (1, 5):
        assert (found.class_ranks["top"] <= k).mean() == pytest.approx(metrics[f"top{k}"])
    rows, labels = rows_of(manifest, "test")
    expected = by_loops(classifier().scores(rows), labels, task.classes)
    assert {k: metrics[k] for k in expected} == pytest.approx(expected, rel=1e-6)
    assert metrics["recall@2"] == evaluate_rows(rows, labels, recall_at=(1, 2))["recall@2"]
    assert {"top1", "top5", "nll", "ece", "recall@1", "map@r"} <= evaluation.definitions.keys()
    assert found.neighbour_ids.shape[0] == 30
    told = task.intervals(classifier(), task.embed(Means(), "test"))["top1"]
    assert told["low"] <= metrics["top1"] <= told["high"]


def test_what_is_filed(manifest: Manifest) -> None:
    last = {"top1": 0.5}
    history = [{"epoch": e, "validation/top1": e / 100} for e in range(1, 21)]
    assert task_of(manifest).filed(history, last) == {"last/top1": 0.5, "median10/validation/top1": 0.155}
    paper = task_of(manifest, protocol="paper")
    assert paper.selects is None
    assert set(paper.watch(classifier(), 1)) == {"test/top1", "test/top5", "test/nll", "test/ece"}
    history = [{"epoch": e, "test/top1": e / 100} for e in range(1, 21)]
    assert paper.filed(history, last) == {"last/top1": 0.5, "oracle/top1": 0.2, "median10/top1": pytest.approx(0.155)}


def test_items_without_labels_are_refused(manifest: Manifest) -> None:
    assert TASKS["classification"] is Classification
    for item in ("i3", "i70"):
        items = manifest.items.copy()
        items.loc[items["id"] == item, "label"] = "unlabelled"
        with pytest.raises(InputError, match=r"are unlabelled: a classifier learns from labels"):
            task_of(Manifest("tints", "x", items, manifest.root))
    alone = Manifest("tints", "x", manifest.items[manifest.items["split"] == "train"], manifest.root)
    assert task_of(alone).selects == "validation/top1"  # everything is trained on, nothing judged in the end
    assert task_of(alone, protocol="paper").watch(classifier(), 1) == {}
    one = manifest.items[manifest.items["label"] == "c0"]
    with pytest.raises(InputError, match="of one class"):
        task_of(Manifest("tints", "x", one, manifest.root))
    few = manifest.items[manifest.items["label"].isin(["c0", "c1"])]
    assert "top5 of 2 classes" in task_of(Manifest("tints", "x", few, manifest.root)).notes[0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in class folders: shared/ with the same classes in train and test, unseen/ with others."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(6):
        for split, count in (("train", 10), ("test", 5)):
            for n in range(count):
                tinted(root / "shared" / split / f"c{i}", i, f"{split}{i}-{n}", draw, 16)
        for n in range(8):
            split = "train" if i < 4 else "test"
            tinted(root / "unseen" / split / f"c{i}", i, f"{split}{i}-{n}", draw, 16)
    return root


def run(root: Path, folder: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "task": "classification",
        "data": {"name": "images", "root": str(root)},
        "transform": {"train": "none", "resize": 16},
        "sampler": {"name": "shuffle", "batch_size": 8},
        "loader": {"workers": 0},
        "model": {"backbone": "small", "image_size": 16, "pooling": "avg", "dim": None, "normalize": False},
        "method": "classification",
        "image_mixer": "cutmix",
        "optimizer": {"name": "sgd", "lr": 0.05},
        "training": {"epochs": 4, "tensorboard": False, "accelerator": "cpu"},
    }
    for override in overrides:
        configs.apply_override(raw, override)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*", UserWarning)
        return train(configs.resolve(raw), folder, resume)


@pytest.mark.slow
def test_a_run_and_its_evaluation_again(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(photos / "shared", tmp_path / "run", "evaluation.validation=0.2")
    metrics = result["metrics"]
    assert result["headline"] == "top1"
    assert metrics["top1"] > result["before"]["top1"]
    assert metrics["last/top1"] == result["last"]["top1"]
    assert "median10/validation/top1" in metrics
    assert result["intervals"]["top1"]["low"] <= metrics["top1"]
    assert result["counts"]["classes_seen_in_training"] == 6
    page = (tmp_path / "run" / "report.html").read_text()
    assert "How many pictures the classifier puts into their own class." in page
    capsys.readouterr()
    out = tmp_path / "again.json"
    assert evaluate.main([str(tmp_path / "run"), "--out", str(out)]) == 0
    again = json.loads(out.read_text())
    assert {k: again["metrics"][k] for k in ("top1", "top5", "recall@1")} == {
        k: metrics[k] for k in ("top1", "top5", "recall@1")
    }
    assert again["metrics"]["nll"] == pytest.approx(metrics["nll"], rel=1e-5)
    assert again["definitions"]["top1"] == result["definitions"]["top1"]
    assert evaluate.main([str(tmp_path / "run"), "--split", "validation"]) == 0
    assert "top1" in capsys.readouterr().out


def test_recall_on_classes_never_trained_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metrixkit.jobs.images.draw_pictures", lambda *_: None)  # drawn in the test above
    overrides = ["task=retrieval", "evaluation.validation=0.25", "image_mixer=mixup", "training.epochs=1"]
    result = run(photos / "unseen", tmp_path / "run", *overrides)
    assert result["headline"] == "recall@1"
    assert result["counts"]["classes_seen_in_training"] == 0
    assert "top1" not in result["metrics"]
    assert (tmp_path / "run" / "model" / "classifier.safetensors").is_file()
    assert evaluate.main([str(tmp_path / "run")]) == 0


def test_settings_that_do_not_go_together(photos: Path, tmp_path: Path) -> None:
    cases: tuple[tuple[Path, list[str], str], ...] = (
        (photos / "unseen", [], "unseen classes are for task=retrieval"),
        (photos / "shared", ["method=moco", "image_mixer="], "method 'moco' trains none"),
        (photos / "shared", ["image_mixer=cutmx"], "Did you mean 'cutmix'"),
        (photos / "shared", ["image_mixer.decay=2"], "image_mixer.decay is not a setting"),
        (photos / "shared", ["method=moco", "task=self-supervised"], "image_mixer does not apply"),
        (photos / "shared", ["mixer=imix"], "mixer does not apply"),
        (photos / "shared", ["evaluation.select_by=recall@1"], "one of 'top1', 'last'"),
        (photos / "shared", ["model.normalize=true"], "normalize=false"),
    )
    for number, (root, overrides, words) in enumerate(cases):
        with pytest.raises(InputError, match=words.replace("(", r"\(")):
            run(root, tmp_path / str(number), *overrides)
