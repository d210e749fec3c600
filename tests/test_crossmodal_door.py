"""Texts and videos from a table to a result: training, evaluation, loading, index, and settings that do not fit."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import metrixkit
from metrixkit import config as configs
from metrixkit.embedding.images import EmbeddingModel, load_image_model
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.models.text import train_vocabulary
from metrixkit.retrieval import crossmodal
from metrixkit.tasks.crossmodal import CrossModalSettings, check_selects, with_rsum

pytestmark = pytest.mark.usefixtures("blank_pictures")

WORDS = ["red", "blue", "old", "new", "big", "tiny"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """36 videos, each two words; their features are those of the words, 4 vectors with noise, and two captions each."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    means = {word: rng.normal(size=12) for word in WORDS}
    rows = ["id,caption,split"]
    (folder / "features").mkdir()
    (folder / "texts").mkdir()
    for number, (first, second) in enumerate([(a, b) for a in WORDS for b in WORDS]):
        split = "test" if number % 4 == 0 else "train"
        name = f"v{number}"
        rows += [f"{name},a {first} thing that is {second},{split}", f"{name},{first} and {second},{split}"]
        x = means[first] + 0.5 * np.roll(means[second], 3) + 0.1 * rng.normal(size=(4, 12))
        np.save(folder / "features" / f"{name}.npy", x.astype(np.float32))
        for caption in range(2):
            np.save(folder / "texts" / f"{name}#{caption}.npy", x.mean(0)[:7].astype(np.float32))
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


CONFIG = """
task: crossmodal
data: {{name: captions, table: {folder}/captions.csv, features: {{video: {folder}/features}}}}
sampler: {{name: one-per-item, batch_size: 8}}
model: {{name: video_text, dim: 16, text: {{width: 16, layers: 1, heads: 2}}, video: {{hidden: 16, temporal: mean}}}}
method: video_text
loss: {{name: dmm, ramp: {{offset: 1}}, loss: symmetric_cross_entropy}}
optimizer: {{name: adamw, lr: 0.01}}
training: {{epochs: 15, tensorboard: false}}
evaluation: {{validation: 0.2, recall_at: [1, 5], select_by: rsum}}
"""


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    from metrixkit.train import main

    folder = tmp_path_factory.mktemp("run")
    config = folder / "pairs.yaml"
    config.write_text(CONFIG.format(folder=table))
    with pytest.warns(UserWarning, match="asks for more than the"):
        # 9 test videos: recall@10 among them is 1 by definition, and said to be.
        assert main([str(config), "evaluation.recall_at=[1,5,10]", "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_training_leaves_results_model_ranks_and_a_page(run):
    result = json.loads((run / "results.json").read_text())
    assert result["split"] == "given"
    assert (result["selected"], result["protocol"]) == ("best", "validation")
    metrics = result["metrics"]
    assert metrics["t2v/mrr"] > result["before"]["t2v/mrr"] + 0.2
    assert metrics["rsum"] == pytest.approx(sum(metrics[f"{d}/recall@{k}"] for d in ("t2v", "v2t") for k in (1, 5, 10)))
    counts = result["counts"]
    assert (counts["texts"], counts["videos"], counts["most_texts"], counts["captions_test"]) == (18, 9, 2, 18)
    assert counts["validation"] == 5
    assert result["intervals"]["t2v/recall@1"]["low"] <= metrics["t2v/recall@1"]
    ranks = pd.read_csv(run / "ranks.csv")
    assert (ranks["rank"][ranks["direction"] == "t2v"] == 1).mean() == pytest.approx(metrics["t2v/recall@1"])
    page = (run / "report.html").read_text()
    assert "How many texts find their own video among the first 5." in page
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("logit_scale" in line or "logit_scale" in str(line) for line in logged)


def test_the_model_answers_for_itself(run, table):
    model = metrixkit.load_model(run)
    assert isinstance(model, PairEmbeddingModel)
    captions = pd.read_csv(table / "captions.csv")
    test = captions[captions["split"] == "test"]
    videos = list(dict.fromkeys(test["id"]))
    text = model.embed_text(test["caption"].tolist())
    paths = [str(table / "features" / f"{name}.npy") for name in videos]
    video = model.embed_video(paths)
    arrays = model.embed_video([np.load(path) for path in paths], batch_size=2)
    assert torch.allclose(video, arrays, atol=1e-6)
    owners = [videos.index(name) for name in test["id"]]
    found = with_rsum(crossmodal(text, video, owners, recall_at=(1, 5)), (1, 5))
    result = json.loads((run / "results.json").read_text())
    for name in ("t2v/recall@1", "v2t/mrr", "t2v/mean_rank"):
        assert found[name] == pytest.approx(result["metrics"][name])
    assert model.embed_text("red and blue").shape == (1, 16)
    assert model.embed_text([]).shape == (0, 16)
    assert model.fingerprint == metrixkit.load_model(run / "model").fingerprint
    before = model.fingerprint
    model.model.text.set_extra_state({"vocabulary": train_vocabulary(WORDS, 40)})
    assert model.fingerprint != before
    with pytest.raises(InputError, match="embeds texts and videos, not images"):
        load_image_model(run)
    assert not isinstance(model, EmbeddingModel)


def test_evaluate_repeats_the_run_and_groups_by_video(run, capsys, tmp_path):
    from metrixkit.evaluate import main

    assert main([str(run), "evaluation.recall_at=[1,5]", "--out", str(tmp_path / "e.json")]) == 0
    told = json.loads((tmp_path / "e.json").read_text())
    result = json.loads((run / "results.json").read_text())
    assert told["metrics"]["t2v/recall@1"] == pytest.approx(result["metrics"]["t2v/recall@1"])
    found = []
    for more in ([], ["--group-by", "video"]):
        out = tmp_path / f"{len(more)}.json"
        assert main([str(run), "evaluation.recall_at=[1]", "--split", "train", *more, "--out", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    # Two captions a video: among all of them its first one can only stand later than its video among the videos.
    assert found[1]["metrics"]["v2t/mean_rank"] < found[0]["metrics"]["v2t/mean_rank"]
    assert found[1]["metrics"]["t2v/mean_rank"] == found[0]["metrics"]["t2v/mean_rank"]
    assert "group_by=video" in found[1]["definitions"]["convention"]
    capsys.readouterr()
    for arguments, complaint in ((["--verify"], "belong to models of images"), (["--split", "query"], "no items in")):
        assert main([str(run), *arguments]) == 2
        assert complaint in capsys.readouterr().err


def test_an_index_of_videos_is_searched_by_words(run, table, tmp_path, capsys):
    from metrixkit.index import main

    place = str(tmp_path / "index")
    source = ["data=captions", f"data.table={table}/captions.csv", f"data.features.video={table}/features"]
    assert main(["build", str(run), *source, "--out", place]) == 0
    video = str(table / "features" / "v7.npy")
    capsys.readouterr()
    assert main(["search", place, "--text", "red and blue", "--video", video, "-k", "2", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["query"] for answer in answers] == ["red and blue", video]
    assert answers[1]["results"][0]["id"] == "v7"
    model = metrixkit.load_model(run)
    scores = (
        model.embed_text("red and blue") @ model.embed_video([table / "features" / f"v{i}.npy" for i in range(36)]).T
    )
    assert answers[0]["results"][0]["id"] == f"v{int(scores.argmax())}"
    assert main(["search", place, str(table)]) == 2
    assert "ask by --text or --video" in capsys.readouterr().err


def test_features_of_texts_and_the_papers_protocol(table, tmp_path):
    from metrixkit.train import main

    config = tmp_path / "pairs.yaml"
    config.write_text(CONFIG.format(folder=table))
    changes = ["evaluation.protocol=paper", "loss=max_margin", "training.epochs=2", f"data.text_features={table}/texts"]
    assert main([str(config), *changes, "--run", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["metrics"]["oracle/rsum"] >= result["metrics"]["rsum"]
    assert "validation" not in result["counts"]
    model = metrixkit.load_model(tmp_path / "run")
    assert model.embed_text([table / "texts" / "v3#0.npy", np.zeros(7, np.float32)]).shape == (2, 16)


def test_settings_that_do_not_fit(table, tmp_path, capsys, repository):
    from metrixkit.train import main

    config = tmp_path / "pairs.yaml"
    config.write_text(CONFIG.format(folder=table))
    for changes, complaint in (
        (["evaluation.select_by=t2v/recall@7"], "Did you mean 't2v/recall@"),
        (["evaluation.select_by=t2v/mean_rank"], "is better when lower"),
        (["model.modality=sound"], "model.modality='sound'"),
        (["loss=contrastive"], "takes a loss on matched pairs"),
        (["model=image"], "needs model=video_text"),
        (["data=glyphs"], "holds something else"),
        (["model.text.kindd=gru"], "model.text.kindd is not a setting"),
    ):
        assert main([str(config), *changes, "--run", str(tmp_path / "run" / complaint[:5])]) == 2, changes
        assert complaint in capsys.readouterr().err
    check_selects(CrossModalSettings(select_by="rsum"))
    assert "frames" not in configs.load(repository / "configs" / "glyphs_metrix.yaml")
    with pytest.raises(InputError, match="frames does not apply"):
        configs.load(repository / "configs" / "glyphs_metrix.yaml", ["frames.fps=2"])
    assert "with task=crossmodal" in configs.help_text()


@pytest.mark.parametrize("name", ["glyphs_video_text", "msrvtt_dmm"])
def test_the_configs_resolve(name, repository):
    config = configs.load(repository / "configs" / f"{name}.yaml")
    assert config["loss"]["loss"]["name"] == "symmetric_cross_entropy"
    assert configs.settings(config, "evaluation").select_by == "t2v/recall@1"


@pytest.mark.slow
def test_glyphs_in_motion(repository, tmp_path):
    from metrixkit.train import main

    config = repository / "configs" / "glyphs_video_text.yaml"
    small = ["data.characters=30", "sampler.batch_size=64", "training.epochs=6", "schedule.warmup_epochs=0"]
    assert main([str(config), *small, "--run", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["metrics"]["t2v/recall@10"] > 2 * result["before"]["t2v/recall@10"]
    assert (tmp_path / "run" / "pictures" / "retrieval.png").exists()
    model = metrixkit.load_model(tmp_path / "run")
    assert model.embed_video(torch.zeros(2, 8, 3, 32, 32, dtype=torch.uint8)).shape == (2, 128)


@pytest.mark.slow
def test_a_killed_run_continues_as_if_it_had_not_been(table, tmp_path, monkeypatch):
    from metrixkit.train import main
    from metrixkit.training.loop import Trainer

    config = tmp_path / "pairs.yaml"
    config.write_text(CONFIG.format(folder=table))
    arguments = [str(config), "training.epochs=3", "--run"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    finish = Trainer.finish_epoch

    def killed(self, progress, loss, metrics):
        finish(self, progress, loss, metrics)
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "finish_epoch", killed)
        assert main([*arguments, str(tmp_path / "parts")]) != 0
    # The vocabulary is that of the checkpoint, whatever would be learned today.
    assert main([*arguments, str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    assert whole["metrics"] == parts["metrics"]
    assert whole["last"] == parts["last"]
    assert metrixkit.load_model(tmp_path / "whole").fingerprint == metrixkit.load_model(tmp_path / "parts").fingerprint
