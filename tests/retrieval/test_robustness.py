"""Evaluation with modalities missing, of anybody's encoder, against evaluation by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.report.robustness_plot import robustness_plot
from metrixkit.retrieval import (
    ModalityItems,
    evaluate,
    merge,
    rate_masks,
    robustness,
    subset_masks,
)
from metrixkit.retrieval.missing.masks import Mask

NORM = torch.nn.functional.normalize


def data(count=120, classes=20, seed=0, present=None, dims=8):
    rng = torch.Generator().manual_seed(seed)
    labels = np.arange(count) % classes
    centres = torch.randn(classes, dims, generator=torch.Generator().manual_seed(99))
    arrays = {
        name: centres[labels] + noise * torch.randn(count, dims, generator=rng)
        for name, noise in (("a", 0.5), ("b", 1.2))
    }
    return ModalityItems.from_arrays(arrays, labels, [f"{seed}/{i}" for i in range(count)], present), arrays


def parts(batch, present):
    return torch.stack([NORM(batch["a"], dim=1), NORM(batch["b"], dim=1)], dim=1)


def test_subsets_are_what_evaluation_by_hand_says():
    items, arrays = data()
    found = robustness(parts, items, recall_at=(1,))
    table = found.table().set_index("subset")
    for subset, vectors in (
        ("a", arrays["a"]),
        ("b", arrays["b"]),
        ("a+b", NORM(arrays["a"], dim=1) + NORM(arrays["b"], dim=1)),
    ):
        by_hand = evaluate(vectors, items.targets, recall_at=(1,), metrics=("map@r",))
        assert table.loc[subset, "recall@1"] == by_hand["recall@1"]
        assert abs(table.loc[subset, "map@r"] - by_hand["map@r"]) < 1e-9
    assert table.loc["full", "recall@1"] == table.loc["a+b", "recall@1"] > table.loc["b", "recall@1"] + 0.1


def test_a_side_alone_loses_its_modalities():
    items, arrays = data()
    masks = rate_masks(items.ids, items.modalities, (0.0, 0.5, 1.0), (0, 1), available=items.present)
    found = robustness(parts, items, masks, recall_at=(1,))
    mask = next(m for m in masks if (m.side, m.rate, m.seed) == ("query", 0.5, 1))
    both = NORM(arrays["a"], dim=1) + NORM(arrays["b"], dim=1)
    weights = torch.from_numpy(mask.present).float()
    masked = NORM(arrays["a"], dim=1) * weights[:, :1] + NORM(arrays["b"], dim=1) * weights[:, 1:]
    ids = list(items.ids)
    by_hand = evaluate(masked, items.targets, both, items.targets, ids, ids, recall_at=(1,), metrics=())
    rows = found.rows
    row = rows[(rows["side"] == "query") & (rows["rate"] == 0.5) & (rows["seed"] == 1)].iloc[0]
    assert row["recall@1"] == by_hand["recall@1"]
    assert row["missing"] == mask.missing
    curve = found.curve()
    assert curve.groupby("side")["mean"].first().nunique() == 1  # at rate 0 nothing is missing anywhere
    assert (curve[curve["rate"] == 0]["deviation"] == 0).all()
    full = rows.loc[0, "recall@1"]
    for side, part in curve.groupby("side"):
        heights = part["mean"].to_numpy()
        assert abs(found.area()[side] - (heights[0] + 2 * heights[1] + heights[2]) / 4 / full) < 1e-12
        assert found.area()[side] < 1


def test_nothing_leaks_from_what_is_missing():
    items, _ = data()
    seen = []

    def spy(batch, present):
        seen.append((batch["a"][~present[:, 0]].abs().sum() + batch["b"][~present[:, 1]].abs().sum()).item())
        return parts(batch, present)

    robustness(spy, items, rate_masks(items.ids, items.modalities, (0.7,), (0,)), recall_at=(1,))
    assert len(seen) > 2
    assert not any(seen)


def test_each_item_is_encoded_once_for_each_pattern():
    items, _ = data()
    count = 0

    def counting(batch, present):
        nonlocal count
        count += len(present)
        return parts(batch, present)

    masks = [*subset_masks(items.ids, items.modalities), *rate_masks(items.ids, items.modalities, (0.2, 0.5, 0.9))]
    robustness(counting, items, masks, recall_at=(1,), batch_size=7)
    assert count == 3 * len(items)


def test_queries_against_a_gallery():
    queries, q = data(40, seed=1)
    gallery, g = data(120, seed=2)
    ids = [*queries.ids, *gallery.ids]
    masks = rate_masks(ids, queries.modalities, (0.8,), (0,), ("gallery",))
    found = robustness(parts, queries, masks, gallery=gallery, recall_at=(1,), metrics=())
    weights = torch.from_numpy(masks[0].of(gallery.ids, gallery.modalities)).float()
    masked = NORM(g["a"], dim=1) * weights[:, :1] + NORM(g["b"], dim=1) * weights[:, 1:]
    both = NORM(q["a"], dim=1) + NORM(q["b"], dim=1)
    by_hand = evaluate(both, queries.targets, masked, gallery.targets, recall_at=(1,), metrics=())
    assert found.rows.iloc[1]["recall@1"] == by_hand["recall@1"]


def test_what_is_missing_by_nature_stays_missing():
    present = np.ones((120, 2), dtype=bool)
    present[:30, 1] = False
    items, arrays = data(present=present)
    found = robustness(parts, items, recall_at=(1,))
    table = found.rows.set_index(["kind", "subset"])
    assert table.loc[("subset", "b"), "left_out"] == 30
    assert table.loc[("full", ""), "missing"] == 0.125
    by_hand = evaluate(arrays["b"][30:], items.targets[30:], recall_at=(1,), metrics=())
    assert table.loc[("subset", "b"), "recall@1"] == by_hand["recall@1"]
    assert found.counts["lacking"] == 30


def test_no_modality_observed_is_refused_unless_asked_for():
    items, _ = data()
    present = np.ones((len(items), 2), dtype=bool)
    present[3] = False
    mask = Mask(items.ids, items.modalities, present)
    with pytest.raises(InputError, match=r"of the item '0/3' no modality is observed"):
        robustness(parts, items, [mask], recall_at=(1,))

    def with_answer(batch, present):
        return torch.cat([NORM(batch["a"], dim=1), torch.ones(len(present), 1)], dim=1)

    assert len(robustness(with_answer, items, [mask], recall_at=(1,), allow_empty=True).rows) == 2
    with pytest.raises(InputError, match="no modality is observed"):
        robustness(parts, ModalityItems(items.ids, items.targets, items.modalities, present, items.load))


def test_classification_and_regression():
    items, arrays = data()
    train, _ = data(seed=5)
    for task in ("nearest_mean", "linear_probe"):
        table = robustness(parts, items, train=train, task=task).table().set_index("subset")
        assert table.loc["a+b", "accuracy"] > 0.9
        assert table.loc["b", "accuracy"] < table.loc["a", "accuracy"]
    numbers = arrays["a"].sum(dim=1).numpy()
    told = ModalityItems(items.ids, numbers, items.modalities, items.present, items.load)
    exact = robustness(lambda b, p: b["a"] * p[:, :1], told, task="regression", predict=lambda rows: rows.sum(dim=1))
    table = exact.table().set_index("subset")
    assert table.loc["a", "mae"] < 1e-5
    assert table.loc["b", "mae"] == pytest.approx(np.abs(numbers).mean(), abs=1e-5)
    assert exact.metrics[:2] == ("mae", "pearson")
    fitted = robustness(lambda b, p: b["a"], told, train=told, task="regression").table()
    assert fitted.iloc[0]["pearson"] > 0.99
    with pytest.raises(InputError, match="needs train"):
        robustness(parts, items, task="linear_probe")
    with pytest.raises(InputError, match="Did you mean 'regression'"):
        robustness(parts, items, task="regresion")


def test_results_in_every_form(tmp_path):
    items, _ = data(60)
    masks = [*subset_masks(items.ids, items.modalities), *rate_masks(items.ids, items.modalities, (0.0, 1.0), (0, 1))]
    one = robustness(parts, items, masks, recall_at=(1,))
    two = robustness(lambda b, p: parts(b, p).flip(2) + 0.3, items, masks, recall_at=(1,))
    both = merge({"first": one, "second": two})
    table = both.table()
    values = [r.table().set_index("subset").loc["a", "recall@1"] for r in (one, two)]
    row = table.set_index("subset").loc["a"]
    assert row["n"] == 2
    assert row["recall@1"] == pytest.approx(np.mean(values))
    assert row["recall@1/deviation"] == pytest.approx(np.std(values, ddof=1))
    assert set(both.areas_by_run()) == {"first", "second"}
    text = both.to_markdown()
    assert "| a+b |" in text
    assert "area / full" in text
    held = json.loads(json.dumps(both.to_dict()))
    assert len(held["rows"]) == 2 * len(one.rows)
    assert held["counts"]["runs"] == 2
    assert both.to_csv(tmp_path / "rows.csv").read_text().startswith("run,kind,subset,side,rate,seed,missing,left_out")
    picture = robustness_plot(tmp_path / "p.png", {"one": one, "two": two}, title="x")
    assert picture.stat().st_size > 10_000
    with pytest.raises(InputError, match="Did you mean 'recall@1'"):
        one.curve("recall@2")
    with pytest.raises(InputError, match="cannot stand in one table"):
        merge({"a": one, "b": robustness(parts, items, recall_at=(2,))})


def test_encoders_that_answer_wrongly():
    items, _ = data(20, 5)
    with pytest.raises(InputError, match="expected \\(20, d\\)"):
        robustness(lambda b, p: b["a"][:3], items)
    with pytest.raises(InputError, match="NaN or infinity for the item '0/0'"):
        robustness(lambda b, p: b["a"] / 0 * 0, items)
    with pytest.raises(InputError, match="says nothing of the item '0/0'"):
        robustness(parts, items, subset_masks(["other"], items.modalities))
    with pytest.raises(InputError, match="expected one of each"):
        ModalityItems.from_arrays({"a": torch.ones(3, 2)}, [1, 2, 3], present=np.ones((2, 1)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_device_does_not_matter(device):
    items, _ = data(60)
    found = robustness(lambda b, p: parts({k: v.to(device) for k, v in b.items()}, p), items, recall_at=(1,))
    assert found.table()["recall@1"].tolist() == robustness(parts, items, recall_at=(1,)).table()["recall@1"].tolist()


def test_masks_of_anybody_and_of_one_side_stand_in_the_table():
    items, _ = data()
    subsets = subset_masks(items.ids, items.modalities)
    given = replace(subsets[0], subset="", present=np.arange(len(items))[:, None] % 2 == np.arange(2))
    one = next(mask for mask in subsets if mask.subset == "a")
    found = robustness(parts, items, [replace(one, side="query"), replace(one, side="gallery"), one, given])
    table = found.table()
    assert table["subset"].tolist() == ["full", "a (query)", "a (gallery)", "a", "masks as given"]
    assert (table["n"] == 1).all()
    assert not len(found.curve())
    assert "masks as given" in found.to_markdown()


def test_what_a_side_lacks_is_told_of_that_side():
    present = np.ones((120, 2), dtype=bool)
    lacking = present.copy()
    lacking[::4, 1] = False
    queries, gallery = data(present=present)[0], data(seed=1, present=lacking)[0]
    ids = [*queries.ids, *gallery.ids]
    masks = rate_masks(ids, queries.modalities, (0.0,), (0,))
    rows = robustness(parts, queries, masks, gallery=gallery).rows
    rows = rows[rows["kind"] == "rate"].set_index("side")["missing"]
    assert rows["query"] == 0
    assert rows["gallery"] == 0.125
    assert rows["both"] == 0.0625


def test_ranks_are_no_percent():
    items, _ = data()
    found = robustness(parts, items, metrics=("mean_rank",))
    assert "mean_rank |" in found.to_markdown()
    assert "mean_rank %" not in found.to_markdown()
