"""load_model and embed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metrixkit
from metrixkit.data.transforms import Transform, eval_transform_config
from metrixkit.embedding.images import EmbeddingModel, load_model
from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = ImageEncoder("small", dim=8)
    run = tmp_path_factory.mktemp("run")
    save_model(encoder, run / "model", eval_transform_config(Transform(), encoder.image_size))
    return run


@pytest.fixture(scope="module")
def model(folder: Path) -> EmbeddingModel:
    return load_model(folder)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    found = []
    for i, (height, width) in enumerate([(40, 60), (90, 33), (32, 32), (50, 50), (37, 64)]):
        found.append(tmp_path / f"{i}.png")
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(found[-1])
    return found


def test_paths_pictures_and_pixels_agree(model: EmbeddingModel, paths: list[Path]) -> None:
    embeddings = model.embed(paths)
    assert embeddings.shape == (5, 8)
    assert embeddings.dtype == torch.float32
    assert embeddings.device.type == "cpu"
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))
    pictures = [Image.open(p) for p in paths]
    pixels = [torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]
    assert torch.equal(embeddings, model.embed([str(p) for p in paths]))
    assert torch.equal(embeddings, model.embed(pictures))
    assert torch.equal(embeddings, model.embed(pixels))
    assert torch.equal(embeddings, model.embed(p.read_bytes() for p in paths))
    assert torch.equal(embeddings, model.embed([paths[0], *pictures[1:3], *pixels[3:]]))


def test_batches_do_not_matter(model: EmbeddingModel, paths: list[Path]) -> None:
    whole = model.embed(paths)
    torch.testing.assert_close(model.embed(paths, batch_size=2), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.embed(paths[3]), whole[3:4], atol=1e-6, rtol=1e-5)
    assert model.embed([]).shape == (0, 8)
    with pytest.raises(InputError, match="batch_size 0"):
        model.embed(paths, batch_size=0)


def test_a_batch_of_pixels_and_the_saved_transform(model: EmbeddingModel) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (3, 3, 48, 64), dtype=torch.uint8, generator=generator)
    embeddings = model.embed(batch)
    assert embeddings.shape == (3, 8)
    torch.testing.assert_close(model.embed(batch[1]), embeddings[1:2], atol=1e-6, rtol=1e-5)
    transformed = torch.stack([model.transform(x) for x in batch])
    assert transformed.shape == (3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.encoder(transformed), embeddings)
    (embeddings * torch.ones(8, requires_grad=True)).sum().backward()  # a normal tensor, not one of inference mode


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.zeros(3, 8, 8)], r"image 0 is a torch.float32 tensor .* expected uint8"),
        ([torch.zeros(8, 8, 3, dtype=torch.uint8)], r"expected uint8 \(3, H, W\)"),
        (torch.zeros(8, 8, dtype=torch.uint8), r"expected \(3, H, W\) or \(N, 3, H, W\)"),
        ([np.zeros((8, 8, 3))], "image 0 is a ndarray: expected a path"),
        (["absent.png"], "absent.png"),
    ],
)
def test_what_is_no_image_is_refused(model: EmbeddingModel, inputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.embed(inputs)


def test_run_folder_and_model_folder_are_the_same_model(folder: Path, model: EmbeddingModel) -> None:
    again = metrixkit.load_model(str(folder / "model"))
    assert again.fingerprint == model.fingerprint
    assert len(model.fingerprint) == 64
    assert again.embedding_dim == 8


def test_the_fingerprint_follows_whatever_changes_an_embedding(folder: Path, model: EmbeddingModel) -> None:
    other = load_model(folder)
    with torch.no_grad():
        next(other.encoder.parameters())[0, 0, 0, 0] += 1e-3
    assert other.fingerprint != model.fingerprint
    config = eval_transform_config(Transform(resize=32), 32)
    assert EmbeddingModel(model.encoder, config).fingerprint != model.fingerprint


def test_a_hub_name_is_fetched(folder: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, "model.safetensors" in allow_patterns))
        return str(folder / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_model("owner/name").fingerprint == model.fingerprint
    assert asked == [("owner/name", True)]

    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"the Hugging Face hub did not give it \(OSError: no network\)"):
        load_model("owner/name")


def test_places_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has neither model/ nor model.safetensors"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(InputError, match="no such folder"):
        load_model("absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        load_model(tmp_path / "file")


def test_own_classes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_export_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    image_size = 16\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 4, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    encoder = ImageEncoder("own_export_net:Net", dim=3)
    save_model(encoder, tmp_path / "model", eval_transform_config(Transform(), 16))
    x = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    with pytest.raises(InputError, match="'own_export_net:Net' is code of the module 'own_export_net'.*trust=True"):
        load_model(tmp_path)
    assert torch.equal(
        load_model(tmp_path, trust=True).embed(x),
        EmbeddingModel(encoder, eval_transform_config(Transform(), 16)).embed(x),
    )


@pytest.mark.gpu
def test_on_a_gpu(folder: Path, model: EmbeddingModel, paths: list[Path]) -> None:
    on_gpu = load_model(folder, device="cuda")
    assert on_gpu.fingerprint == model.fingerprint
    torch.testing.assert_close(on_gpu.embed(paths), model.embed(paths), atol=2e-3, rtol=0)


def test_importing_the_package_does_not_import_torch(repository: Path) -> None:
    code = "import sys, metrixkit; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=repository, check=True)
    assert not hasattr(metrixkit, "train_model")
