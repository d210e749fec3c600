"""A recommender from its file of ratings to its result: the door, its protocol, and settings that do not fit."""

import json

import numpy as np
import pytest
import torch

from metrixkit import config as configs
from metrixkit.data.sets.ratings import RatingTable
from metrixkit.errors import InputError
from metrixkit.losses import BPR, CMLMinTriplet, Contrastive, DynamicMixedMargin
from metrixkit.methods import Recommender
from metrixkit.models import Factors
from metrixkit.seam import Batch
from metrixkit.tasks.recommendation import Recommendation, RecommendationSettings, hold_out

GROUPS = 4


@pytest.fixture
def ratings(tmp_path):
    """Users like most items of their own group and rate some others low."""
    rng = np.random.default_rng(0)
    rows = ["user,item,rating"]
    for user in range(40):
        for item in range(48):
            same = item % GROUPS == user % GROUPS
            if rng.random() < (0.7 if same else 0.05):
                rows.append(f"u{user},i{item},{5 if same else 2}")
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


CONFIG = """
task: recommendation
data: {{name: ratings, path: {path}}}
sampler: {{name: rated-pairs, batch_size: 32, negatives: 4, steps: 30}}
model: {{name: factors, dim: 8}}
method: recommender
loss: {{name: dmm, loss: {{name: cml_min_triplet, margin: 0.5}}}}
optimizer: {{name: adam, lr: 0.03}}
training: {{epochs: 3, tensorboard: false}}
"""


def test_the_door_trains_and_beats_popularity(ratings, tmp_path, capsys):
    from metrixkit.train import main

    config = tmp_path / "rec.yaml"
    config.write_text(CONFIG.format(path=ratings))
    assert main([str(config), "--run", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "popularity, without any training: ndcg@10" in told
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    metrics = result["metrics"]
    assert metrics["ndcg@10"] > 2 * metrics["popularity/ndcg@10"]
    assert metrics["ndcg@10"] > result["before"]["ndcg@10"]
    assert result["selected"] == "best"
    assert result["counts"]["validation_liked"] == round(0.1 * result["counts"]["train_liked"])
    assert "item_recall@10" in result["definitions"]
    assert (tmp_path / "run" / "model" / "users.txt").read_text().split()[0].startswith("u")
    assert (tmp_path / "run" / "users.csv").exists()
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_the_papers_protocol_files_the_test_epochs(ratings, tmp_path):
    from metrixkit.train import main

    config = tmp_path / "rec.yaml"
    config.write_text(CONFIG.format(path=ratings))
    arguments = [str(config), "evaluation.protocol=paper", "loss=bpr", "sampler.negatives=1", "training.epochs=2"]
    assert main([*arguments, "--run", str(tmp_path / "run")]) == 0
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    assert result["selected"] == "last"
    assert result["metrics"]["oracle/ndcg@10"] >= result["metrics"]["ndcg@10"]
    assert result["counts"]["validation_liked"] == 0


def test_validation_pairs_are_candidates_and_test_pairs_stay(ratings):
    split = RatingTable(str(ratings)).read()
    train, validation = hold_out(split, 0.25, seed=1)
    assert len(train) + len(validation) == len(split.liked)
    assert not set(map(tuple, train.tolist())) & set(map(tuple, validation.tolist()))
    task = Recommendation(split, RecommendationSettings(), "dot", train, validation)
    # A model that knows the test pairs and nothing else: they stand in front of every validation pair.
    model = Factors(40, 48, dim=48, max_norm=None)
    with torch.no_grad():
        model.item.weight.copy_(torch.eye(48))
        model.user.weight.zero_()
        model.user.weight[tuple(torch.from_numpy(split.held_out.T.copy()))] = 1.0
    assert task.test(model)["ndcg@10"] == len(np.unique(split.held_out[:, 0])) / 40
    task.settings.at.append(1)
    asked = len(np.unique(validation[:, 0]))
    assert task.watch(model)["validation/hit_rate@1"] < asked / 40 / 2


def test_vectors_stay_in_the_ball_and_lookups_agree():
    model = Factors(5, 7, dim=3, max_norm=1.0)
    users, items = model.vectors()
    assert users.norm(dim=1).max() <= 1 + 1e-6
    assert torch.allclose(model.user(torch.arange(5)), users, atol=1e-6)
    assert torch.allclose(model.item(torch.arange(7)), items, atol=1e-6)
    with pytest.raises(InputError, match=r"model\.items=0"):
        Factors(5, 0)


def test_the_method_hands_the_three_parts_to_the_loss():
    torch.manual_seed(0)
    model = Factors(5, 7, dim=3)
    index = {"user": torch.tensor([0, 4]), "item": torch.tensor([1, 2]), "negatives": torch.tensor([[3, 4], [5, 6]])}
    output = Recommender(model, CMLMinTriplet(0.5))(Batch(["0", "4"], modalities=index))
    users, items = model.vectors()
    far = torch.stack([(users[[0, 4]] - items[[3, 5]]).norm(dim=1), (users[[0, 4]] - items[[4, 6]]).norm(dim=1)]).amin(
        0
    )
    expected = (0.5 + (users[[0, 4]] - items[[1, 2]]).norm(dim=1) - far).clamp(min=0).mean()
    assert torch.allclose(output.losses["total"], expected)
    with pytest.raises(InputError, match="takes something else"):
        Recommender(model, Contrastive())
    assert Recommender(model, DynamicMixedMargin(BPR())).needs().batch_coupled


def test_settings_that_do_not_fit(ratings):
    raw = {"task": "recommendation", "data": {"name": "ratings", "path": str(ratings)}, "loss": "bpr"}
    raw |= {"method": "recommender", "model": "factors", "sampler": "rated-pairs"}
    assert configs.settings(configs.resolve(raw), "evaluation").select_by == "ndcg@10"
    with pytest.raises(InputError, match="recall_at"):
        configs.resolve(raw | {"evaluation": {"recall_at": [1]}})
    task = RecommendationSettings(select_by="recall@1")
    split = RatingTable(str(ratings)).read()
    with pytest.raises(InputError, match=r"select_by='recall@1' is not computed"):
        Recommendation(split, task, "dot", split.liked, split.liked[:0])
    with pytest.raises(InputError, match="0 <= x < 1"):
        hold_out(split, 1.0, 0)
    assert "with task=recommendation" in configs.help_text()


def test_ratings_are_no_images_and_the_reverse(ratings, tmp_path, capsys):
    from metrixkit.train import main

    config = tmp_path / "rec.yaml"
    config.write_text(CONFIG.format(path=ratings))
    assert (
        main(["configs/glyphs_metrix.yaml", "data=ratings", f"data.path={ratings}", "--run", str(tmp_path / "a")]) == 2
    )
    assert "holds no images" in capsys.readouterr().err
    assert main([str(config), "data=glyphs", "--run", str(tmp_path / "b")]) == 2
    assert "task=recommendation needs data=ratings" in capsys.readouterr().err
