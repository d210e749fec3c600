"""The task self-supervised: what is watched, what selects, what is told at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError
from metrixkit.probing import fit_probe, intra_class_similarity, knn_accuracy
from metrixkit.retrieval import evaluate
from metrixkit.tasks import TASKS, SelfSupervised, SelfSupervisedSettings
from metrixkit.tasks.self_supervised import hold_out

SIDE = 8


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four classes of tinted noise: 10 training and 5 test pictures each, 7 training pictures without a label."""
    folder, draw, rows = tmp_path_factory.mktemp("tints"), np.random.default_rng(0), []
    for i in range(67):
        label = i % 4 if i < 60 else 3
        tint = np.array([[60, 0, 0], [0, 60, 0], [0, 0, 60], [30, 30, 0]][label])
        path = folder / f"{i}.png"
        Image.fromarray((draw.normal(90, 60, (SIDE, SIDE, 3)) + tint).clip(0, 255).astype(np.uint8)).save(path)
        split = "test" if 40 <= i < 60 else "train"
        rows.append((f"i{i}", str(path), f"c{label}" if i < 60 else "unlabelled", split))
    return Manifest("tints", "classification", pd.DataFrame(rows, columns=["id", "path", "label", "split"]), folder)


class Means(nn.Module):
    """Mean colours, about their middle."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (images.float().mean(dim=(2, 3)) - 105)


def task_of(manifest: Manifest, **settings: object) -> SelfSupervised:
    told = SelfSupervisedSettings(**settings)  # type: ignore[arg-type]
    return SelfSupervised(hold_out(manifest, told, 0), nn.Identity(), told)


def vectors(manifest: Manifest, *splits: str) -> tuple[Tensor, list[str]]:
    part = manifest.part(*splits).items
    part = part[part["label"] != "unlabelled"]
    images = torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) for p in part["path"]])
    return Means()(images).detach(), list(part["label"])


def test_held_out_images_select(manifest: Manifest) -> None:
    task = task_of(manifest, validation=0.2, knn=5)
    assert task.manifest.counts() == {"train": 39, "validation": 8, "test": 20}
    assert task.selects == "validation/knn@1"
    assert task.headline == "knn@1"
    assert task.notes == ["7 of 39 training images are unlabelled: trained on, never judged by"]
    watched = task.watch(Means(), 0)
    bank, asked = vectors(task.manifest, "train"), vectors(task.manifest, "validation")
    expected = knn_accuracy(*bank, *asked, k=5)
    assert watched == {f"validation/{name}": pytest.approx(value) for name, value in expected.items()}
    assert len(task.embed(Means(), "train").ids) == 39  # recipes want every row


def test_the_end_is_judged_with_all_training_labels(manifest: Manifest) -> None:
    task = task_of(manifest, validation=0.2, knn=5, recall_at=[1, 2])
    metrics, evaluation, found = task.test(Means())
    for name in ("knn@1", "knn@5", "linear@1"):
        assert (found.class_ranks[name[:-1]] <= int(name[-1])).mean() == pytest.approx(metrics[name])
    assert "linear@5" not in metrics  # of four classes every item is right
    assert "linear@5" not in evaluation.definitions
    bank, asked = vectors(manifest, "train"), vectors(manifest, "test")
    # In the order of the task's bank: sums of votes and of gradients are the same but for rounding.
    assert {k: metrics[k] for k in ("knn@1", "knn@5")} == pytest.approx(knn_accuracy(*bank, *asked, k=5))
    assert metrics["linear@1"] == pytest.approx(fit_probe(*bank).accuracy(*asked)["linear@1"], abs=0.11)
    assert metrics["recall@2"] == evaluate(*asked, recall_at=(1, 2))["recall@2"]
    assert metrics["intra_class_similarity"] == pytest.approx(intra_class_similarity(*asked))
    assert {"map@r", "alignment", "uniformity"} <= metrics.keys()
    assert evaluation.counts["labelled_training_items"] == 40
    assert {"knn@1", "linear@1", "recall@1", "intra_class_similarity"} <= evaluation.definitions.keys()
    assert found.neighbour_ids.shape[0] == 20
    assert "linear@1" not in task_of(manifest, linear=False).test(Means())[0]


def test_the_papers_protocol_looks_at_the_test_split(manifest: Manifest) -> None:
    task = task_of(manifest, protocol="paper", knn=5)
    assert "validation" not in task.manifest.splits
    assert task.selects is None
    assert task.watch(Means(), 3) == pytest.approx(
        {f"test/{n}": v for n, v in knn_accuracy(*vectors(manifest, "train"), *vectors(manifest, "test"), k=5).items()}
    )


def test_without_training_labels_nothing_selects(manifest: Manifest) -> None:
    items = manifest.items.copy()
    items.loc[items["split"] == "train", "label"] = "unlabelled"
    task = task_of(Manifest("tints", "classification", items, manifest.root))
    assert task.selects is None
    assert task.watched_split is None
    assert task.watch(Means(), 1) == {}
    assert "nothing selects" in task.notes[0]
    metrics = task.test(Means())[0]
    assert task.headline == "recall@1"
    assert "recall@1" in metrics
    assert "knn@1" not in metrics


def test_no_share_keeps_the_last_epoch(manifest: Manifest) -> None:
    assert task_of(manifest, validation=0).selects is None


def test_bad_input(manifest: Manifest) -> None:
    assert TASKS["self-supervised"] is SelfSupervised
    for settings, words in (
        ({"select_by": "recall@1"}, "does not select here"),
        ({"knn": 0}, "at least one neighbour"),
        ({"temperature": 0.0}, "a positive number"),
    ):
        with pytest.raises(InputError, match=words):
            task_of(manifest, **settings)
    items = manifest.items.copy()
    items.loc[items["id"] == "i45", "label"] = "unlabelled"
    with pytest.raises(InputError, match="1 of 20 items of split 'test'"):
        task_of(Manifest("tints", "x", items, manifest.root))
    only = manifest.items[manifest.items["split"] == "train"]
    # Everything is trained on, nothing judged in the end.
    assert task_of(Manifest("tints", "x", only, manifest.root)).selects == "validation/knn@1"
