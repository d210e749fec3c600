"""The folder ``datasets/`` of this repository looks like the Hugging Face package of that name.

Started from the root, transformers and timm believe that package to be installed. What the toolkit uses of them must
work all the same.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import importlib.util
import sys
import tempfile
import warnings

assert importlib.util.find_spec("datasets") is not None, "the folder does not mislead anybody: is it there?"

import timm
import torch
from transformers import CLIPConfig, CLIPModel

from metrixkit.models import ImageEncoder

shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
config = CLIPConfig(
    text_config=dict(**shape, vocab_size=50, max_position_embeddings=8),
    vision_config=dict(**shape, image_size=32, patch_size=16),
    projection_dim=8,
)
clip = CLIPModel(config).eval()
images = torch.rand(2, 3, 32, 32)
with torch.no_grad():
    scores = clip(input_ids=torch.tensor([[1, 2, 3]]), pixel_values=images).logits_per_image
assert scores.shape == (2, 1)
with tempfile.TemporaryDirectory() as folder:
    clip.save_pretrained(folder)
    encoder = ImageEncoder("transformers/" + folder, "pretrained", pooling="token", dim=4)
assert encoder(images).shape == (2, 4)
assert timm.create_model("resnet10t", num_classes=0).eval()(images).shape == (2, 512)
assert ImageEncoder("timm/resnet10t", dim=4)(images).shape == (2, 4)
print("built and run")
"""


@pytest.mark.slow
def test_clip_and_timm_start_from_the_root(repository: Path) -> None:
    assert (repository / "datasets").is_dir()
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("built and run")
