"""Classification splits of sets that are mostly split by classes: both sides share their classes, and so does what is
held out for selection.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metrixkit import config as configs
from metrixkit.data import CUB, Cars, Manifest, TinyImageNet, with_held_out


@pytest.fixture
def only_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every listed file for present."""
    monkeypatch.setattr("metrixkit.data.files.present", lambda paths: [True] * len(paths))


def shares_its_classes(manifest: Manifest, classes: int) -> None:
    held = with_held_out(manifest, 0.1, seed=3)
    named = {split: set(held.part(split).labels) for split in ("train", "validation", "test")}
    assert {len(names) for names in named.values()} == {classes}
    assert held.part("test").ids == manifest.part("test").ids
    assert held.counts()["validation"] == pytest.approx(0.1 * manifest.counts()["train"], rel=0.05)


@pytest.mark.data
@pytest.mark.usefixtures("only_lists")
def test_cub_and_cars(shared_data: Path) -> None:
    for reader, classes in ((CUB, 200), (Cars, 196)):
        shares_its_classes(reader(str(shared_data), split="classification").read(), classes)


@pytest.mark.slow
@pytest.mark.data
def test_half_of_cub_and_tiny_imagenet(shared_data: Path) -> None:
    found = CUB(str(shared_data), split="classification", classes="1-50").read()
    assert found.split_name == "cub-first50-classification"
    shares_its_classes(found, 50)
    shares_its_classes(TinyImageNet(str(shared_data / "tiny-imagenet-20")).read(), 20)


@pytest.mark.parametrize(
    ("data", "split"),
    [
        ({"name": "cub", "split": "classification"}, "classification"),
        ({"name": "cars", "split": "classification"}, "classification"),
        ({"name": "torchvision", "dataset": "FGVCAircraft"}, "classification"),
        ({"name": "torchvision", "dataset": "FGVCAircraft", "split": "zero-shot"}, "zero-shot"),
    ],
)
def test_the_papers_sets_are_a_line_in_the_config(repository: Path, data: dict[str, str], split: str) -> None:
    raw = yaml.safe_load((repository / "configs/cub_classification.yaml").read_text())
    config = configs.resolve({**raw, "data": data})
    assert config["data"]["split"] == split
    assert configs.build(config, "data").split == split
