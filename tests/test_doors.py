"""The doors as a user opens them: subprocesses from the repository's root, on Glyphs and on a folder of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metrixkit import embed, evaluate, train

pytestmark = pytest.mark.usefixtures("blank_pictures")

TINY = [
    "data.train_classes=40", "data.test_classes=20", "sampler.batch_size=40", "sampler.m=4", "model.dim=32",
    "training.epochs=1", "training.accelerator=cpu", "loader.workers=0", "evaluation.recall_at=[1,2,5000]",
]  # fmt: skip


def door(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run, made by the door."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    done = door(repository, "metrixkit.train", "configs/glyphs_metrix.yaml", *TINY, "--run", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_a_run_leaves_what_the_design_promises(run: Path) -> None:
    for name in (
        "config.yaml", "environment.json", "metrics.jsonl", "results.json", "checkpoints/last.pt", "checkpoints/best.pt",
        "model/model.safetensors", "model/config.json", "predictions.npz", "report.html", "log.txt", "pictures/retrieval.png",
        "pictures/curves.png",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    results = json.loads((run / "results.json").read_text())
    assert {
        "metrics",
        "selected",
        "before",
        "last",
        "protocol",
        "split",
        "counts",
        "definitions",
        "seconds",
        "seed",
        "versions",
        "command",
    } <= results.keys()
    assert results["selected"] == "best"
    assert results["counts"]["test"] > 0
    assert 0 <= results["metrics"]["recall@1"] <= results["metrics"]["recall@2"] <= 1
    assert results["command"].startswith("python -m metrixkit.train configs/glyphs_metrix.yaml data.train_classes=40")
    assert {"utilization", "alignment", "uniformity", "map@r", "r_precision"} <= results["metrics"].keys()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/recall@1" in line for line in lines)
    assert any("gradient_ratio/mixed_to_clean" in line and "lambda" in line and "loss/clean" in line for line in lines)


def test_what_is_printed(run: Path) -> None:
    said = (run / "stdout").read_text()
    for word in ("before training", "recall@1", "training ", "report:", "retrieval.png", "curves.png"):
        assert word in said
    # k = 5000 lies beyond the gallery: defined, with a warning; nothing else may warn.
    warnings = (run / "stderr").read_text()
    assert "5000" in warnings
    assert "Traceback" not in warnings


def test_a_finished_run_is_refused_with_the_two_ways_on(
    run: Path, capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    for extra in ([], ["--resume"]):
        status = train.main([str(repository / "configs/glyphs_metrix.yaml"), *TINY, "--run", str(run), *extra])
        assert status == 2
        message = capsys.readouterr().err
        assert "finished run" in message
        assert "--run OTHER_FOLDER" in message
        assert "delete" in message


@pytest.mark.filterwarnings("ignore:.*5000")
def test_evaluate_repeats_the_numbers_of_the_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "again.json"
    assert evaluate.main([str(run), "--out", str(out), "loader.workers=0"]) == 0
    again, before = json.loads(out.read_text())["metrics"], json.loads((run / "results.json").read_text())["metrics"]
    for name in ("recall@1", "map@r", "utilization"):
        assert again[name] == pytest.approx(before[name], abs=1e-9)


def test_embed_then_evaluate_the_embeddings(run: Path, tmp_path: Path) -> None:
    settings = ["data=glyphs", "data.train_classes=40", "data.test_classes=20"]
    assert embed.main([str(run), *settings, "--out", str(tmp_path)]) == 0
    vectors, table = (
        np.load(tmp_path / "embeddings.npy"),
        pd.read_csv(tmp_path / "table.csv", dtype=str, keep_default_na=False),
    )
    assert vectors.shape == (len(table), 32)
    files = ["--embeddings", str(tmp_path / "embeddings.npy"), "--table", str(tmp_path / "table.csv")]
    assert evaluate.main([*files, "--split", "test", "--out", str(tmp_path / "r.json")]) == 0
    expected = json.loads((run / "results.json").read_text())["metrics"]["recall@1"]
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["recall@1"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_every_door_is_a_programme(run: Path, repository: Path, tmp_path: Path) -> None:
    done = door(repository, "metrixkit.evaluate", str(run), "--out", str(tmp_path / "again.json"), "loader.workers=0")
    assert done.returncode == 0, done.stderr
    done = door(repository, "metrixkit.embed", str(run), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    done = door(repository, "metrixkit", "compare", str(run))
    assert done.returncode == 0, done.stderr
    files = ["--embeddings", str(tmp_path / "embeddings.npy"), "--table", str(tmp_path / "table.csv")]
    done = door(repository, "metrixkit.index", "build", *files, "--out", str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_data_list_and_check(repository: Path, tmp_path: Path) -> None:
    done = door(repository, "metrixkit.data", "list")
    assert done.returncode == 0, done.stderr
    for name in ("cub", "cars", "sop", "inshop", "omniglot", "images", "glyphs"):
        assert name in done.stdout
    done = door(repository, "metrixkit", "data", "check", str(photos(tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_console_name_of_the_doors(repository: Path) -> None:
    done = door(repository, "metrixkit")
    assert done.returncode == 2
    assert "evaluate" in done.stdout
    done = door(repository, "metrixkit", "evalute")
    assert done.returncode == 2
    assert "Did you mean 'evaluate'" in done.stderr


def photos(folder: Path, classes: int = 12, each: int = 6, size: int = 40) -> Path:
    """Write a folder a class, of noisy plain colours."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class{c:02d}").mkdir(parents=True, exist_ok=True)
        colour = rng.integers(0, 255, 3)
        for i in range(each):
            pixels = np.clip(colour + rng.integers(-30, 30, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c:02d}/{i}.png")
    return folder


OWN = [
    "model.backbone=small", "model.weights=none", "model.image_size=32", "model.freeze_batch_norm=false", "sampler.batch_size=12",
    "training.epochs=1", "training.accelerator=cpu", "training.tensorboard=false", "loader.workers=0", "evaluation.recall_at=[1,2]",
]  # fmt: skip


def own(repository: Path, folder: Path, *settings: str) -> int:
    """Train on own images in this process; return the status."""
    return train.main(
        [
            str(repository / "configs/own_images.yaml"),
            f"data.root={folder}/photos",
            *OWN,
            *settings,
            "--run",
            f"{folder}/run",
        ]
    )


@pytest.mark.slow
def test_own_images_by_folder_and_by_table(repository: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    assert own(repository, tmp_path) == 0
    files = sorted((tmp_path / "photos").rglob("*.png"))
    table = pd.DataFrame(
        {
            "file": [f.relative_to(tmp_path / "photos").as_posix() for f in files],
            "sku": [f"0{f.parent.name[-2:]}" for f in files],
        }
    )
    table.to_csv(tmp_path / "products.csv", index=False)
    (tmp_path / "run").rename(tmp_path / "first")
    status = own(
        repository, tmp_path, f"data.table={tmp_path}/products.csv", "data.columns.path=file", "data.columns.label=sku"
    )
    assert status == 0
    predicted = np.load(tmp_path / "run/predictions.npz")
    assert all(str(label).startswith("0") for label in predicted["query_labels"])  # labels stay text


def test_settings_and_data_that_cannot_work(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "afile").write_text("")
    table = tmp_path / "products.csv"
    table.write_text("file,sku\nclass00/0.png,1\n")
    (tmp_path / "empty").mkdir()
    cases = [
        (["model.backbone=timm/resnet5O"], ["resnet50"]),
        (["model.backbone=small", "model.train=last:99"], ["last:99"]),
        ([f"data.root={tmp_path}/empty"], ["empty"]),
        ([f"data.root={tmp_path}/absent"], ["absent"]),
        ([f"data.table={table}", "data.columns.path=file", "data.columns.label=skoo"], ["skoo", "sku"]),
        (["sampler.batch_size=3", "sampler.m=4"], ["batch_size"]),
        (["sampler=shuffle", "sampler.batch_size=5000"], ["5000"]),
        (["training.accumulate=2"], ["accumulate_coupled"]),
        (["training.warmup_epochs=1"], ["warmup_epochs"]),
        (["training.accelerator=cuda"], ["cuda"]),
        (["loss.loss=nca"], ["positive-negative", "constant"]),
        (["evaluation.select_by=recall@3"], ["recall@3", "recall@"]),
    ]
    for settings, words in cases:
        status = own(repository, tmp_path, *settings)
        message = capsys.readouterr().err
        assert status == 2, (settings, message)
        assert "Traceback" not in message
        for word in words:
            assert word in message, (settings, message)
        for left in (tmp_path / "run/checkpoints").glob("*.pt"):
            left.unlink()
    status = train.main(
        [
            str(repository / "configs/own_images.yaml"),
            f"data.root={tmp_path}/photos",
            *OWN,
            "--run",
            f"{tmp_path}/afile/run",
        ]
    )
    assert status == 2
    assert "--run: cannot write" in capsys.readouterr().err


def test_a_truncated_image_is_named(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "photos")
    broken = tmp_path / "photos/class03/2.png"
    broken.write_bytes(broken.read_bytes()[:200])
    assert own(repository, tmp_path) == 2
    assert "class03/2.png" in capsys.readouterr().err


def test_nan_in_the_loss_names_step_and_ids(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "nanloss.py").write_text(
        "from torch import nn\n\n\nclass Nan(nn.Module):\n    def forward(self, embeddings, labels):\n        return embeddings.sum() * float('nan')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert own(repository, tmp_path, "loss=nanloss:Nan") == 2
    message = capsys.readouterr().err
    for word in ("nan at step 0", "class", "last.pt"):
        assert word in message


@pytest.mark.slow
def test_an_unfinished_run_needs_resume_and_the_same_settings(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos")
    assert own(repository, tmp_path) == 0
    (tmp_path / "run/results.json").unlink()
    assert own(repository, tmp_path) == 2
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--run OTHER_FOLDER" in message
    command = [
        str(repository / "configs/own_images.yaml"),
        f"data.root={tmp_path}/photos",
        *OWN,
        "--run",
        f"{tmp_path}/run",
        "--resume",
    ]
    assert train.main([*command, "optimizer.lr=0.1"]) == 2
    assert "optimizer.lr: 3e-05 -> 0.1" in capsys.readouterr().err
    assert train.main(command) == 0


@pytest.mark.slow
def test_the_papers_protocol_files_the_oracle_apart(repository: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    assert own(repository, tmp_path, "evaluation.protocol=paper", "training.epochs=3") == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["selected"] == "last"
    assert results["protocol"] == "paper"
    assert "validation" not in results["counts"]
    history = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    watched = [line["test/recall@1"] for line in history if "test/recall@1" in line and line["step"] > 0]
    assert len(watched) == 3
    assert results["metrics"]["oracle/recall@1"] == max(watched)
    assert results["metrics"]["median10/recall@1"] == sorted(watched)[1]
    assert results["metrics"]["recall@1"] == results["last"]["recall@1"] == watched[-1]
    assert not (tmp_path / "run/checkpoints/best.pt").exists()


@pytest.mark.slow
def test_queries_search_a_gallery(repository: Path, tmp_path: Path) -> None:
    for split, classes in (("train", 8), ("query", 5), ("gallery", 5)):
        photos(tmp_path / "photos" / split, classes=classes, each=1 if split == "query" else 4)
    assert own(repository, tmp_path) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert (results["counts"]["queries"], results["counts"]["gallery"]) == (5, 20)
    # One query a class: there is no pair of them whose distance could be told.
    assert "alignment" not in results["metrics"]
    assert {"utilization", "uniformity"} <= set(results["metrics"])
    predicted = np.load(tmp_path / "run/predictions.npz")
    assert predicted["neighbour_ids"].shape == (5, 10)
    assert not set(predicted["query_ids"]) & set(predicted["neighbour_ids"].ravel())


@pytest.mark.sample(1)
@pytest.mark.parametrize("settings", [["training.precision=bf16"], ["loss=pml", "loss.loss=ProxyAnchorLoss", "training.precision=bf16"], ["loss.loss=proxy_anchor", "method.proxy_lr=10"], ["model.train=last:1", "model.layer_decay=0.5", "optimizer=sgd", "schedule=step"]])  # fmt: skip
def test_other_ways_to_train(repository: Path, tmp_path: Path, settings: list[str]) -> None:
    photos(tmp_path / "photos")
    assert own(repository, tmp_path, *settings) == 0
    assert json.loads((tmp_path / "run/results.json").read_text())["metrics"]["recall@1"] > 0.5


def test_singletons_and_other_hopeless_data(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "photos", classes=10, each=1)
    assert own(repository, tmp_path) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--embeddings", "E.npy"], ["--embeddings E.npy and --table T.csv go together"]),
        (["--embeddings", "absent.npy", "--table", "t.csv"], ["--embeddings absent.npy: no such file"]),
        (["--embeddings", "t.csv", "--table", "t.csv"], ["--embeddings t.csv: not readable as an array"]),
        (["--embeddings", "flat.npy", "--table", "t.csv"], ["expected an array of two dimensions"]),
        (["--embeddings", "e.npy", "--table", "short.csv"], ["short.csv has 3 rows, but there are 6 embeddings"]),
        (
            ["--embeddings", "e.npy", "--table", "t.csv", "--label", "lable"],
            ["no column 'lable'", "Did you mean 'label'", "--label"],
        ),
        (
            ["--embeddings", "e.npy", "--table", "t.csv", "--split", "val"],
            ["no row of the table is of split 'validation'"],
        ),
        (["--embeddings", "nan.npy", "--table", "t.csv"], ["row 2", "x2"]),
        ([], ["which model?"]),
        (["nowhere/at-all"], ["nowhere/at-all"]),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: list[str],
) -> None:
    from metrixkit import evaluate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.save("e.npy", vectors)
    np.save("flat.npy", vectors[0])
    vectors[2, 1] = np.nan
    np.save("nan.npy", vectors)
    table = pd.DataFrame({"id": [f"x{i}" for i in range(6)], "label": list("aabbcc"), "split": ["test"] * 6})
    table.to_csv("t.csv", index=False)
    table[:3].to_csv("short.csv", index=False)
    assert evaluate.main(words) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for word in expected:
        assert word in message


def test_evaluate_takes_the_test_rows_of_a_table(tmp_path: Path) -> None:
    from metrixkit.data.row_table import read_row_table
    from metrixkit.judging.labelled import choose

    vectors = np.eye(4)[[0, 1, 0, 2, 3, 3]]
    for words, count in ((["train", "train", "Test", "test", "test", "test"], 4), (["test"] * 6, 6), ([""] * 6, 6)):
        pd.DataFrame({"label": list("ababcc"), "split": words}).to_csv(tmp_path / "t.csv", index=False)
        items = read_row_table(tmp_path / "t.csv", 6, "label")
        queries, gallery, _ = choose(items, vectors, None)
        assert (len(queries.ids), gallery) == (count, None)
    pd.DataFrame({"label": list("ababcc"), "split": ["Query"] * 3 + ["Gallery"] * 3}).to_csv(tmp_path / "t.csv")
    queries, gallery, _ = choose(read_row_table(tmp_path / "t.csv", 6, "label"), vectors, None)
    assert gallery is not None
    assert (len(queries.ids), len(gallery.ids)) == (3, 3)


def test_evaluate_finds_queries_and_gallery_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from metrixkit import evaluate

    np.save(tmp_path / "e.npy", np.eye(4)[[0, 1, 0, 2]])
    pd.DataFrame({"label": list("abab"), "split": ["query", "query", "gallery", "gallery"]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    assert (
        evaluate.main(
            [
                "--embeddings",
                f"{tmp_path}/e.npy",
                "--table",
                f"{tmp_path}/t.csv",
                "evaluation.recall_at=[1]",
                "evaluation.metrics=[]",
            ]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "2 queries against a gallery of 2" in said
    assert "50.0 %" in said


def test_embed_refuses_what_does_not_fit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from metrixkit import embed

    (tmp_path / "empty").mkdir()
    for source, word in (
        (["absent"], "no file or folder at absent"),
        ([f"{tmp_path}/empty"], "no images in"),
        (["data=glyphs", "x.png"], "not both"),
    ):
        assert embed.main([str(run), *source, "--out", f"{tmp_path}/out"]) == 2
        assert word in capsys.readouterr().err
    photos(tmp_path / "photos", classes=2, each=2)
    assert embed.main([str(run), f"{tmp_path}/photos", "--out", f"{tmp_path}/out"]) == 0
    table = pd.read_csv(tmp_path / "out/table.csv", dtype=str)
    assert list(table["id"]) == ["class00/0.png", "class00/1.png", "class01/0.png", "class01/1.png"]
    assert list(table["label"]) == ["class00", "class00", "class01", "class01"]
