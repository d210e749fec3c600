"""Each file of a run folder absent, empty, cut off or of another shape: every command answers with a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from metrixkit.__main__ import main
from metrixkit.training import checkpoint

CONFIG = """
data: {name: glyphs, train_classes: 12, test_classes: 4}
transform: {resize: 32, train: affine, flip: 0.0}
sampler: {name: m-per-class, batch_size: 20, m: 4}
model: {backbone: small, image_size: 32, dim: 16, pooling: avg}
loss: {name: contrastive}
training: {epochs: 1, accelerator: cpu, tensorboard: false}
loader: {workers: 0}
"""
FILES = (
    "config.yaml",
    "results.json",
    "environment.json",
    "metrics.jsonl",
    "predictions.npz",
    "before.npz",
    "checkpoints/last.pt",
    "checkpoints/best.pt",
    "model/config.json",
    "model/model.safetensors",
)
DAMAGES = ("absent", "empty", "half", "folder", "other", "bytes")
DOORS = {
    "evaluate": lambda run, out: ["evaluate", run],
    "compare": lambda run, out: ["compare", run, run, "--force", "--html", out / "page.html"],
    "sweep": lambda run, out: ["train", run.parent / "tiny.yaml", "--run", run.parent, "--sweep", "seed=0", "--list"],
    "embed": lambda run, out: ["embed", run, run.parent / "photos", "--out", out / "embedded"],
    "mix": lambda run, out: ["mix", run.parent / "photos", "--run", run, "--mixers", "mixup", "--out", out / "m.png"],
    "robustness": lambda run, out: ["robustness", run, "--out", out / "robustness"],
    "resume": lambda run, out: ["train", run.parent / "tiny.yaml", "--run", run, "--resume"],
    "unfinished": lambda run, out: ["train", run.parent / "tiny.yaml", "--run", run, "--resume"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run beside its config and a few photographs, its pictures left out."""
    from metrixkit.jobs import images

    place = tmp_path_factory.mktemp("finished")
    (place / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "draw_pictures", lambda *_, **__: None)
        patch.setattr(images, "draw_mixtures", lambda *_, **__: None)
        assert main(["train", str(place / "tiny.yaml"), "--run", str(place / "tiny-seed=0")]) == 0
    from PIL import Image

    for number in range(4):
        folder = place / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * number, 90, 120)).save(folder / f"{number}.png")
    return place


def damage(path: Path, how: str) -> None:
    """Do to a file what disks, copies and people do."""
    whole = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.touch()
    elif how == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "folder":
        path.mkdir()
    elif how == "bytes":
        path.write_bytes(b"\xff\xfe\x00\x80" * 50)
    elif how == "other" and path.suffix == ".pt":
        checkpoint.write(path, [torch.ones(2)])
    elif how == "other":
        path.write_text("[1, 2, 3]\n")


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", FILES)
def test_every_door_has_a_sentence(
    finished: Path, tmp_path: Path, door: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {}
    for how in DAMAGES:
        place = tmp_path / how
        shutil.copytree(finished, place)
        run = place / "tiny-seed=0"
        if door == "unfinished":
            (run / "results.json").unlink()
            if name == "results.json":
                return
        if not (run / name).exists():
            pytest.skip(f"this run leaves no {name}")
        damage(run / name, how)
        capsys.readouterr()
        status = main([str(word) for word in DOORS[door](run, place)])
        said = capsys.readouterr()
        assert status in (0, 1, 2), (how, said.err)
        assert "Traceback" not in said.err
        assert (status == 0) != bool(said.err.strip().startswith("metrixkit ")), (how, status, said.err)
        answers[how] = (status, said.err.strip()[:160])
    print(door, name, answers)
