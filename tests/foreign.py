"""A run folder, a model folder and an index as somebody else might send them: made without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from metrixkit import config as configs
from metrixkit.data import Transform, eval_transform_config
from metrixkit.models import ImageEncoder, save_model

SETTINGS = """
data: {name: images, root: photos, test_share: 0.5}
transform: {resize: 16, train: affine, flip: 0.0}
sampler: {name: m-per-class, batch_size: 8, m: 2}
model: {backbone: small, image_size: 16, dim: 8, pooling: avg}
loss: {name: contrastive}
optimizer: {name: adam, lr: 1e-3}
training: {epochs: 1, accelerator: cpu, tensorboard: false}
loader: {workers: 0}
"""
# Whatever imports it leaves a file behind, and what it offers would pass for a data set and a backbone.
CODE = """
from pathlib import Path
from torch import nn
from metrixkit.data import Images, Manifest
(Path(__file__).parent / "imported").touch()
class Reader:
    def __init__(self, root: str = "photos") -> None:
        self.root = root
    def read(self) -> Manifest:
        return Images(root=self.root).read()
class Net(nn.Conv2d):
    image_size = 16
    def __init__(self):
        super().__init__(3, 4, 3)
class Loss(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.sum()
def shell(command: str = "true") -> str:
    (Path(__file__).parent / "called").touch()
    return command
"""


def photos(folder: Path, classes: int = 6, each: int = 3) -> Path:
    """Write images of a colour a class into `folder`/photos."""
    for label in range(classes):
        for number in range(each):
            place = folder / "photos" / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            colour = (40 * label, 255 - 40 * label, 20 * number)
            Image.new("RGB", (20, 20), colour).save(place / f"{number}.png")
    return folder / "photos"


def run_folder(folder: Path, changes: dict[str, Any] | None = None, backbone: str = "small") -> Path:
    """Write a finished run into `folder`/run; sections of its config are replaced by `changes`."""
    (folder / "settings.yaml").write_text(SETTINGS)
    config = configs.load(folder / "settings.yaml")
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **(changes or {})}))
    encoder = ImageEncoder("small", image_size=16, dim=8, pooling="avg")
    save_model(encoder, run / "model", eval_transform_config(Transform(resize=16), 16))
    if backbone != "small":
        change_json(run / "model/config.json", "encoder", backbone=backbone)
    results = {
        "metrics": {"recall@1": 0.5}, "before": {"recall@1": 0.3}, "last": {"recall@1": 0.5}, "data": "photos",
        "split": "zero-shot", "protocol": "validation", "task": "retrieval", "headline": "recall@1", "selected": "last",
        "counts": {"queries": 4, "gallery": 4}, "seconds": {"training": 1.0}, "seed": 0,
    }  # fmt: skip
    (run / "results.json").write_text(json.dumps(results))
    return run


def change_json(path: Path, section: str | None, **values: Any) -> None:
    """Set values in a JSON file, at its top or in a section."""
    content = json.loads(path.read_text())
    (content if section is None else content[section]).update(values)
    path.write_text(json.dumps(content))
