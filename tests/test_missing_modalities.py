"""Runs on several modalities from their data to the robustness door, and what these refuse."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit import config as configs
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.errors import InputError
from metrixkit.models.modality_trunks import ModalityInput
from metrixkit.models.multimodal import Multimodal, MultimodalInputs
from metrixkit.retrieval import draw_mask, fuse, write_masks
from metrixkit.tasks.missing_modalities import MissingModalities, flat
from metrixkit.tasks.modality_data import MissingSettings, text_codes, use
from metrixkit.tasks.modality_encoding import encoder_of

pytestmark = pytest.mark.usefixtures("blank_pictures")

CONFIG = """
task: missing-modality
data: {{name: captions, table: {table}, root: {root}, columns: {{caption: null}}, modalities: {{front: features, back: features}}}}
sampler: {{name: m-per-class, batch_size: 24, m: 3}}
model: {{name: multimodal, dim: 8, width: 16}}
method: {{name: gmc, weight: 0.2, dmm: {{margin: 0.1}}, drop: 0.1}}
loss: multi_similarity
optimizer: {{name: adam, lr: 0.01}}
training: {{epochs: 2, tensorboard: false, accelerator: cpu}}
evaluation: {{recall_at: [1], validation: 0.25}}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty-four classes of eight items with two sequences each; some lack one of them."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = ["id,split,label,front,back"]
    for label in range(24):
        centre = rng.normal(size=4)
        for item in range(8):
            key = f"{label}-{item}"
            cells = []
            for name in ("front", "back"):
                np.save(
                    folder / f"{name}-{key}.npy", (centre + 0.4 * rng.normal(size=(3 + item, 4))).astype(np.float32)
                )
                cells.append("" if item == 7 and (name == "front") == (label % 2 == 0) else f"{name}-{key}.npy")
            rows.append(f"{key},{'train' if label < 16 else 'test'},c{label},{','.join(cells)}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    from metrixkit.train import main

    folder = tmp_path_factory.mktemp("run")
    (folder / "c.yaml").write_text(CONFIG.format(table=table / "table.csv", root=table))
    assert main([str(folder / "c.yaml"), "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_tells_what_every_subset_is_worth(run):
    results = json.loads((run / "results.json").read_text())
    metrics = results["metrics"]
    parts = [metrics[f"{name}/recall@1"] for name in ("front", "back", "front+back")]
    assert metrics["subsets/recall@1"] == pytest.approx(np.mean(parts))
    assert results["counts"]["test_items"] == 64
    assert results["counts"]["lacking"] == 8
    assert results["selected"] == "best"
    assert "observed" in (run / "subsets.md").read_text()
    assert (run / "pictures" / "subsets.png").exists()
    assert len(pd.read_csv(run / "subsets.csv")) == 4
    assert (run / "report.html").exists()


@pytest.mark.slow
def test_the_door_draws_curves_and_shares_its_masks(run, tmp_path, capsys):
    from metrixkit.robustness import main

    out = tmp_path / "out"
    assert main([str(run), "--rates", "0,0.5,1", "--seeds", "0,1", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "| front+back |" in told
    assert str(out / "robustness.png") in told
    found = json.loads((out / "robustness.json").read_text())
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    table = {row["subset"]: row for row in found["table"]}
    assert table["front"]["recall@1"] == pytest.approx(metrics["front/recall@1"])
    assert set(found["areas"]["recall@1"]) == {"query", "gallery", "both"}
    again = tmp_path / "again"
    assert main([str(run), "--masks", str(out / "masks.csv"), "--out", str(again)]) == 0
    rows = [pd.read_csv(place / "rows.csv") for place in (out, again)]
    drawn = [part[part["kind"] == "rate"].drop(columns=["run", "subset"]).reset_index(drop=True) for part in rows]
    assert len(drawn[0]) == 18
    pd.testing.assert_frame_equal(*drawn)
    capsys.readouterr()
    other = write_masks([draw_mask(["elsewhere"], ("front", "back"), 0.5, 0)], tmp_path / "other.csv")
    assert main([str(run), "--masks", str(other)]) == 2
    assert "says nothing of the item" in capsys.readouterr().err
    assert main([str(run), "--rates", "half"]) == 2
    assert main([str(run), str(run)]) == 2
    assert main([str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_the_door_as_a_process(repository):
    command = [sys.executable, "-m", "metrixkit", "robustness"]
    told = subprocess.run([*command, "--help"], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert "--masks F.csv" in told
    refused = subprocess.run([*command, "x", "--seeds", "a"], cwd=repository, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("metrixkit robustness: --seeds 'a'")


def test_every_way_to_fill_and_from_disk(run):
    from metrixkit.judging.missing_runs import restore

    task, model = restore(run)
    values = {
        fill: flat(task.evaluate(model, "test", fill=fill))
        for fill in ("mean", "renormalized", "zeros", "mean_embedding")
    }
    # A cosine does not see the length, and with everything there the joint branch answers whatever the filling.
    assert values["mean"]["front/recall@1"] == values["renormalized"]["front/recall@1"]
    task.settings.in_memory = False
    task._items.clear()
    assert flat(task.evaluate(model, "test", fill="mean")) == pytest.approx(values["mean"])
    means = task.mean_features(model)
    assert means.shape == (2, 16)
    items = task.items("train")
    batch = items.load(np.flatnonzero(items.present[:, 0]).tolist())
    only = model.features(
        model.prepare({k: v for k, v in batch.items() if k.startswith("front")}), batch, len(batch["front"])
    )
    assert torch.allclose(means[0], only[:, 0].mean(dim=0), atol=1e-5)


def test_embed_says_what_it_used(run, table, tmp_path, capsys):
    from metrixkit.embed import main
    from metrixkit.judging.missing_runs import restore

    rows = pd.read_csv(table / "table.csv", keep_default_na=False)
    test = rows[rows["split"] == "test"].drop(columns="split")
    test.to_csv(table / "mine.csv", index=False)
    assert main([str(run), str(table / "mine.csv"), "--out", str(tmp_path / "out")]) == 0
    told = pd.read_csv(tmp_path / "out" / "table.csv", keep_default_na=False)
    assert set(told["used"]) == {"front", "back", "front+back"}
    vectors = np.load(tmp_path / "out" / "embeddings.npy")
    task, model = restore(run)
    items = task.items("test")
    encode = encoder_of(model, "mean")
    row = items.ids.index(told["id"][7])  # the eighth item of a class lacks one
    present = torch.from_numpy(items.present[[row]])
    assert present.sum() == 1
    with torch.no_grad():
        assert np.allclose(vectors[7], encode(items.load([row]), present)[0].numpy(), atol=1e-5)
    test.assign(front="", back="").to_csv(table / "none.csv", index=False)
    assert main([str(run), str(table / "none.csv"), "--out", str(tmp_path / "x")]) == 2
    assert "has none of front, back (64)" in capsys.readouterr().err


def small(branches=True, outputs=0):
    torch.manual_seed(0)
    forms = {"a": ModalityInput("features", 3), "b": ModalityInput("text", 0)}
    return Multimodal(MultimodalInputs(forms, outputs), dim=5, width=6, branches=branches).eval()


def test_an_item_is_encoded_by_what_is_there():
    model = small()
    batch = {"a": torch.randn(4, 6, 3), "b": torch.randint(1, 257, (4, 7))}
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    with torch.no_grad():
        found = encoder_of(model, "mean")(batch, present)
        x = model.prepare(batch)
        joint = model.joint(x, batch, torch.ones(4, 2).bool())
        assert torch.allclose(found[[0, 3]], joint[[0, 3]], atol=1e-6)
        assert torch.allclose(found[1], model.part("a", x["a"])[1], atol=1e-6)
        assert torch.allclose(found[2], model.part("b", x["b"])[2], atol=1e-6)
        zeros = encoder_of(model, "zeros")(batch, present)
        assert torch.allclose(zeros, model.joint(x, batch, present), atol=1e-6)
        assert not torch.allclose(zeros[1], joint[1], atol=1e-3)
        three = Multimodal(MultimodalInputs({n: ModalityInput("features", 3) for n in "abc"}), dim=5, width=6).eval()
        data = {n: torch.randn(2, 4, 3) for n in "abc"}
        two = torch.tensor([[True, False, True]] * 2)
        x3 = three.prepare(data)
        parts = torch.stack([three.part(n, x3[n]) for n in "abc"], dim=1)
        assert torch.allclose(encoder_of(three, "mean")(data, two), fuse(parts, two), atol=1e-6)
    with pytest.raises(InputError, match="has no branches"):
        encoder_of(small(branches=False), "mean")


def manifest(rows, modalities=("a", "b"), **columns):
    items = pd.DataFrame(rows, columns=["id", "split", *modalities]).assign(**columns)
    texts = pd.DataFrame({name: pd.Series(dtype="str") for name in ("id", "caption", "item", "split")})
    from pathlib import Path

    return PairManifest("own", "given", items.astype("str"), texts, dict.fromkeys(modalities, "text"), Path("."))


def test_data_and_settings_that_do_not_fit():
    rows = [("1", "train", "x", "y"), ("2", "test", "x", "")]
    own = manifest(rows, label=["l", "m"], target=["1.5", "high"])
    with pytest.raises(InputError, match="Did you mean 'a'|has no 'c'"):
        use(own, MissingSettings(modalities=["c"]), 0)
    with pytest.raises(InputError, match=r"item '2' has none of b"):
        use(own, MissingSettings(modalities=["b"]), 0)
    task = MissingModalities(own, MissingSettings(kind="regression", select_by="pearson"))
    with pytest.raises(InputError, match=r"item '2' has target='high', not a number"):
        task.targets("test")
    with pytest.raises(InputError, match=r"no column 'colour'"):
        MissingModalities(own, MissingSettings(target="colour")).targets("test")
    with pytest.raises(InputError, match="lower is better"):
        MissingModalities(own, MissingSettings(kind="regression", select_by="mae"))
    with pytest.raises(InputError, match="Did you mean"):
        MissingModalities(own, MissingSettings(select_by="subsets/recall@3"))
    assert text_codes("é").tolist() == [0xC3 + 1, 0xA9 + 1]
    raw = {
        "task": "missing-modality",
        "data": "mosei",
        "loss": "absolute_error",
        "method": "gmc",
        "model": "multimodal",
    }
    resolved = configs.resolve(raw)
    assert resolved["evaluation"]["select_by"] == "subsets/recall@1"
    assert resolved["method"]["dmm"] is None
    resolved = configs.resolve(raw | {"method": {"name": "gmc", "dmm": {}}})
    assert resolved["method"]["dmm"]["ramp"] == {"offset": 12.0, "first": 1}
    with pytest.raises(InputError, match=r"method\.dmm\.margn"):
        configs.resolve(raw | {"method": {"name": "gmc", "dmm": {"margn": 1}}})


def test_validation_holds_out_whole_classes():
    rows = [(str(i), "train" if i < 16 else "test", "x", "y") for i in range(20)]
    own = manifest(rows, label=[f"c{i // 2}" for i in range(20)])
    held = use(own, MissingSettings(validation=0.25), 3)
    classes = {split: set(held.part(split).items["label"]) for split in held.splits}
    assert {split: len(names) for split, names in classes.items()} == {"train": 6, "validation": 2, "test": 2}
    assert not classes["train"] & classes["validation"]
    assert use(own, MissingSettings(validation=0.25, hold_out="items"), 3).counts()["validation"] == 4
    assert "validation" not in use(own, MissingSettings(protocol="paper"), 3).splits


def test_sentiment_from_a_pickle(tmp_path, monkeypatch):
    from metrixkit.train import main

    monkeypatch.setenv("METRIXKIT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    content = {}
    for split, n in (("train", 48), ("valid", 16), ("test", 16)):
        labels = rng.uniform(-3, 3, size=(n, 1, 1))
        content[split] = {
            name: (labels + noise * rng.normal(size=(n, 4, 3))).astype(np.float32)
            for name, noise in (("text", 0.3), ("audio", 1.0), ("vision", 3.0))
        } | {"labels": labels}
    (tmp_path / "mosei_data.pkl").write_bytes(pickle.dumps(content))
    overrides = [f"data.path={tmp_path / 'mosei_data.pkl'}", "training.epochs=2", "training.tensorboard=false"]
    overrides += ["sampler.batch_size=16", "model.dim=8", "model.width=8", "optimizer.lr=0.02"]
    assert main(["configs/mosei_dmm.yaml", *overrides, "--run", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "results.json").read_text())["metrics"]
    assert {"mae", "pearson", "accuracy", "weighted_f1", "subsets/mae", "text+vision/pearson"} <= set(metrics)
    assert metrics["mae"] > 0
    from metrixkit.report.text import format_value

    assert format_value("subsets/mae", 0.7) == "0.700"


def test_jobs_refuse_what_does_not_belong_together(table, tmp_path):
    from metrixkit.train import main

    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(table=table / "table.csv", root=table))
    assert main([str(path), "loss=absolute_error", "--run", str(tmp_path / "a")]) == 2
    assert main([str(path), "model=factors", "--run", str(tmp_path / "b")]) == 2
    assert main([str(path), "data=glyphs", "--run", str(tmp_path / "c")]) == 2
