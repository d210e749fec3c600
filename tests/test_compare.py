"""Tables over many runs: grouping, names, numbers, the paired bootstrap, and what is refused or said plainly."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from metrixkit import compare, config
from metrixkit.comparison import compare as comparison_of
from metrixkit.errors import InputError
from metrixkit.paired import paired_bootstrap, read_answers
from metrixkit.records import find_runs, labels
from metrixkit.report.comparison import as_csv, as_latex, as_markdown, as_text, main_table
from metrixkit.report.comparison_page import plain_sentence
from metrixkit.report.text import lower_is_better

QUERIES = 400


def write_run(
    folder: Path,
    ranks: np.ndarray,
    settings: dict[str, Any],
    before: float | dict[str, float] = 0.5,
    ids: np.ndarray | None = None,
    **results: Any,
) -> Path:
    """Write what a finished run leaves, as far as compare reads it."""
    (folder / "checkpoints").mkdir(parents=True)
    seed = settings.pop("seed", 0)
    whole = {"seed": seed, "data": {"name": "toy", "root": str(folder)}, "loader": {"workers": seed}, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    ids = np.array([f"q{i}" for i in range(len(ranks))]) if ids is None else ids
    np.savez(folder / "predictions.npz", query_ids=ids, rank_of_first=ranks)
    asked = ranks[ranks > 0]
    metrics = {f"recall@{k}": float((asked <= k).mean()) for k in (1, 2, 10)}
    metrics |= {"map@r": metrics["recall@1"] / 2, "recall@1/optimistic": 1.0, "utilization": 0.25 + seed / 100}
    content = {
        "metrics": metrics, "before": before if isinstance(before, dict) else {"recall@1": before}, "data": "toy", "split": "zero-shot", "protocol": "validation",
        "counts": {"queries": len(ranks), "gallery": len(ranks), "train": 7}, "seconds": {"training": 10.0 + seed}, "seed": seed,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content | results))
    return folder


def ranks_of(share: float, seed: int, count: int = QUERIES) -> np.ndarray:
    """Return ranks of which about `share` are 1, easier queries first; the seed moves some."""
    hard = np.linspace(0, 1, count) + np.random.default_rng(seed).normal(0, 0.1, count)
    return np.where(hard < share, 1, np.where(hard < share + 0.1, 2, 11)).astype(np.int64)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three rows: clean (3 seeds), mixed (2 seeds), and a bad one (1 seed); one run under way, one not begun."""
    root = tmp_path / "runs"
    clean, mixed = {"loss": {"name": "contrastive", "margin": 0.5}}, {"loss": {"name": "metrix", "weight": 0.4}}
    for seed in range(3):
        write_run(root / f"a/clean-seed={seed}", ranks_of(0.6, seed), {"seed": seed, **clean})
    for seed in range(2):
        write_run(root / f"b/mixed-seed={seed}", ranks_of(0.7, seed), {"seed": seed, **mixed})
    write_run(root / "b/worse", ranks_of(0.3, 0), {"loss": {"name": "metrix", "weight": 9.0}})
    (root / "b/unfinished/checkpoints").mkdir(parents=True)
    (root / "b/unfinished/checkpoints/last.pt").write_text("x")
    return root


def test_groups_names_means_and_deviations(runs: Path) -> None:
    found = comparison_of([runs])
    assert [row.label for row in found.rows] == ["loss=contrastive", "loss=metrix loss.weight=0.4", "loss=metrix loss.weight=9.0"]  # fmt: skip
    assert [len(row.records) for row in found.rows] == [3, 2, 1]
    assert list(found.metrics) == ["recall@1", "recall@2", "recall@10", "map@r", "utilization"]
    values = [float((ranks_of(0.6, seed) == 1).mean()) for seed in range(3)]
    spread = found.rows[0].metrics["recall@1"]
    mean = sum(values) / 3
    assert spread.mean == pytest.approx(mean)
    assert spread.sd == pytest.approx((sum((v - mean) ** 2 for v in values) / 2) ** 0.5)
    assert found.rows[2].metrics["recall@1"].sd is None
    assert found.rows[0].seconds is not None
    assert found.rows[0].seconds.mean == pytest.approx(11)
    assert found.left_out == [(runs / "b/unfinished", "unfinished")]


def test_what_must_be_said_is_said(runs: Path) -> None:
    found = comparison_of([runs])
    bad = "loss=metrix loss.weight=9.0"
    change = 100 * (float((ranks_of(0.3, 0) == 1).mean()) - 0.5)
    assert f"{bad}: training LOST, recall@1 {change:+.1f} against the model before its first step" in found.notes
    assert any(note.startswith(f"{bad}: WORSE than loss=contrastive in recall@1, recall@2") for note in found.notes)
    assert len(found.notes) == 2
    text = as_text(found)
    assert "left out: 1" in text
    assert "b/unfinished: unfinished" in text


def test_a_loss_within_the_interval_is_not_called_one(tmp_path: Path) -> None:
    ranks = ranks_of(0.6, 0)
    changed = ranks.copy()
    changed[:11], changed[-10:] = 11, 1  # eleven lost, ten won
    write_run(tmp_path / "a", ranks, {"x": 1})
    write_run(tmp_path / "b", changed, {"x": 2})
    found = comparison_of([tmp_path])
    gap = found.rows[1].differences["recall@1"]
    assert gap.low < gap.value < 0 < gap.high
    assert found.notes == []


def test_the_interval_is_that_of_resampled_queries() -> None:
    rng = np.random.default_rng(5)
    ours = [rng.random(QUERIES) < p for p in (0.7, 0.72, 0.69)]
    theirs = [rng.random(QUERIES) < p for p in (0.6, 0.65)]
    found = paired_bootstrap(ours, theirs, seed=3)
    gaps = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    drawn = gaps[rng.integers(0, QUERIES, (10_000, QUERIES))].mean(1)  # the plain way, with other numbers drawn
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.value == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(low, abs=0.002)
    assert found.high == pytest.approx(high, abs=0.002)
    assert paired_bootstrap(ours, theirs, seed=3) == found
    assert paired_bootstrap(ours, theirs, seed=4) != found


def test_the_interval_covers_at_its_level_and_uses_the_pairing() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        luck = rng.random(300)  # the same query is easy or hard for both
        found = paired_bootstrap([luck < 0.62], [(luck < 0.6) ^ (rng.random(300) < 0.05)], trial, resamples=1_000)
        covered += found.low <= 0.62 - (0.6 * 0.95 + 0.4 * 0.05) <= found.high
        assert found.high - found.low < 0.08  # unpaired it would be 0.15
    assert 0.91 < covered / 300 < 0.98


def test_a_model_against_itself_differs_by_nothing() -> None:
    hits = [np.arange(50) % 3 == 0]
    assert paired_bootstrap(hits, hits) == paired_bootstrap(hits * 2, hits)
    assert vars(paired_bootstrap(hits, hits)) == {"value": 0.0, "low": 0.0, "high": 0.0}
    for ours, theirs in (([], hits), (hits, [np.ones(49)]), ([np.ones(0)], [np.ones(0)])):
        with pytest.raises(InputError, match="paired bootstrap"):
            paired_bootstrap(ours, theirs)


def test_queries_are_paired_by_id_and_those_without_answer_left_out(tmp_path: Path) -> None:
    ranks = ranks_of(0.6, 0)
    ranks[::7] = 0
    ids = np.array([f"q{i}" for i in range(QUERIES)])
    order = np.random.default_rng(0).permutation(QUERIES)
    write_run(tmp_path / "a", ranks, {"x": 1})
    write_run(tmp_path / "b", ranks[order], {"x": 2}, ids=ids[order])
    found = comparison_of([tmp_path]).rows[1].differences["recall@1"]
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert len(read_answers(tmp_path / "b/predictions.npz").hits("recall@1")) == (ranks > 0).sum()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "paper"}, ["protocol 'validation' and 'paper'"]),
        ({"split": "own"}, ["split 'zero-shot' and 'own'"]),
        ({"data": "other"}, ["data 'toy' and 'other'"]),
        ({"counts": {"queries": 9, "gallery": 9}}, ["queries 400 and 9"]),
        ({"ids": np.array([f"r{i}" for i in range(QUERIES)])}, ["different queries"]),
        ({"evaluation": {"distance": "dot"}}, ["distance 'cosine' and 'dot'"]),
    ],
)
def test_what_is_not_comparable_needs_force(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    write_run(tmp_path / "one", ranks_of(0.6, 0), {"x": 1})
    settings = {"x": 2} | ({"evaluation": change.pop("evaluation")} if "evaluation" in change else {})
    write_run(tmp_path / "two", ranks_of(0.6, 1), settings, **change)
    with pytest.raises(InputError, match="not comparable") as caught:
        comparison_of([tmp_path])
    found = comparison_of([tmp_path], force=True)
    for word in [*words, "one", "two"]:
        assert word in str(caught.value)
        assert word in found.notes[0]
    if "ids" in change:
        assert not found.rows[1].differences
        assert any("no interval, they were asked different queries" in note for note in found.notes)


def test_the_same_seed_twice_needs_force(tmp_path: Path) -> None:
    for name in ("one", "copy"):
        write_run(tmp_path / name, ranks_of(0.6, 0), {"x": 1})
    with pytest.raises(InputError, match="the same settings and seed 0"):
        comparison_of([tmp_path])
    assert len(comparison_of([tmp_path], force=True).rows[0].records) == 2


def test_no_interval_without_the_predictions_of_the_numbers(runs: Path) -> None:
    (runs / "a/clean-seed=1/predictions.npz").unlink()
    found = comparison_of([runs])
    assert all(not row.differences for row in found.rows)
    assert "predictions.npz is missing" in found.rows[1].unpaired
    assert "+" in as_text(found)  # the plain difference is still there
    write_predictions = runs / "b/worse/predictions.npz"
    np.savez(write_predictions, query_ids=np.array([f"q{i}" for i in range(QUERIES)]), rank_of_first=ranks_of(0.9, 0))
    found = comparison_of([runs], against="0.4")
    assert found.rows[2].unpaired == "predictions.npz does not repeat the recall@1 of results.json"


def test_classes_named_are_compared_and_paired_like_retrieval(tmp_path: Path) -> None:
    ids = np.array([f"q{i}" for i in range(QUERIES)])
    for name, share, seed in (("vanilla", 0.5, 0), ("mixed", 0.8, 0), ("mixed", 0.8, 1)):
        first, own = ranks_of(0.6, 0), ranks_of(share, seed)
        shares = {"top1": float((own <= 1).mean()), "top5": float((own <= 5).mean()), "nll": 1.5}
        recall = {"recall@1": float((first <= 1).mean())}
        folder = tmp_path / f"{name}-{seed}"
        write_run(folder, first, {"mixer": name, "seed": seed}, metrics=shares | recall)
        np.savez(folder / "predictions.npz", **{"query_ids": ids, "rank_of_first": first, "class_rank:top": own})
    found = comparison_of([tmp_path], against="vanilla")
    assert list(found.metrics) == ["top1", "top5", "recall@1"]
    mixed = next(row for row in found.rows if row.label == "mixer=mixed")
    assert set(mixed.differences) == {"top1", "top5", "recall@1"}
    gap = mixed.differences["top1"]
    assert gap.low > 0.2
    means = [np.mean([float((ranks_of(0.8, seed) <= 1).mean()) for seed in (0, 1)]), (ranks_of(0.5, 0) <= 1).mean()]
    assert gap.value == pytest.approx(means[0] - means[1])
    assert mixed.differences["recall@1"].value == 0
    # A run from before these ranks were kept still compares, without their interval.
    np.savez(tmp_path / "mixed-1/predictions.npz", query_ids=ids, rank_of_first=ranks_of(0.6, 0))
    mixed = next(row for row in comparison_of([tmp_path], against="vanilla").rows if row.label == "mixer=mixed")
    assert set(mixed.differences) == {"recall@1"}
    assert not mixed.unpaired


def test_what_is_better_when_lower(tmp_path: Path) -> None:
    for name, now in (("plain", 1.2), ("worse", 3.5)):
        write_run(tmp_path / name, ranks_of(0.5, 0), {"mixer": name}, metrics={"nll": now}, before={"nll": 3.0})
    found = comparison_of([tmp_path], ["nll"], "mixer=worse")
    assert [note for note in found.notes if "LOST" in note] == [
        "mixer=worse: training LOST, nll +0.500 against the model before its first step"
    ]
    assert plain_sentence(found).startswith("The best row, mixer=plain, has a nll of 1.200")
    assert lower_is_better("median10/validation/nll") is lower_is_better("t2v/median_rank") is True
    assert lower_is_better("recall@1") is False
    assert lower_is_better("utilization") is None


def test_another_reference_and_other_metrics(runs: Path) -> None:
    found = comparison_of([runs], ["recall@2", "recall@1"], "loss.weight=0.4")
    assert found.reference == 1
    assert not found.rows[1].differences
    assert found.rows[0].differences["recall@1"].value < 0
    assert main_table(found)[2][0].endswith("(reference)")
    for wrong, words in (("metrix", "2 rows are called 'metrix'"), ("nobody", "no row is called")):
        with pytest.raises(InputError, match=words):
            comparison_of([runs], against=wrong)
    with pytest.raises(InputError, match=r"no run has 'recal@1'\. Did you mean 'recall@1"):
        comparison_of([runs], ["recal@1"])


def test_names_hold_what_differs_and_no_more() -> None:
    proxy = {"name": "proxy_anchor", "scale": 32}
    one = {"loss": {"name": "contrastive", "margin": 0.5}, "lr": 3e-5, "same": [1]}
    assert labels([one, {**one, "loss": proxy}]) == ["loss=contrastive", "loss=proxy_anchor"]
    other = {**one, "loss": {"name": "contrastive", "margin": None}}
    assert labels([one, other, {**one, "loss": proxy}]) == [
        "loss=contrastive loss.margin=0.5", "loss=contrastive loss.margin=null", "loss=proxy_anchor",
    ]  # fmt: skip
    nested = [{"loss": {"name": "metrix", "loss": {"name": n, "k": 1}}} for n in ("a", "b")]
    assert labels(nested) == ["loss.loss=a", "loss.loss=b"]
    assert labels([one, {**one, "lr": 1e-4, "same": [1, 2]}, {k: v for k, v in one.items() if k != "same"}]) == [
        "lr=3e-05 same=[1]", "lr=0.0001 same=[1, 2]", "lr=3e-05 same=unset",
    ]  # fmt: skip


def test_settings_of_a_later_version_stand_at_their_defaults(tmp_path: Path, repository: Path) -> None:
    whole = config.load(repository / "configs/glyphs_metrix.yaml")
    older = yaml.safe_load(yaml.safe_dump(whole)) | {"seed": 1}
    del older["evaluation"]["neighbours"]
    del older["loss"]["loss"]["margin"]
    older["loss"]["loss"]["margin"] = whole["loss"]["loss"]["margin"]
    write_run(tmp_path / "a", ranks_of(0.6, 0), {**whole})
    write_run(tmp_path / "b", ranks_of(0.6, 1), older)
    assert len(comparison_of([tmp_path]).rows) == 1


def test_runs_are_found_once_in_natural_order_and_no_place_is_forgotten(tmp_path: Path) -> None:
    for seed in (10, 2, 1):
        write_run(tmp_path / f"runs/x-seed={seed}", ranks_of(0.6, seed), {"seed": seed})
    (tmp_path / "runs/x-seed=1/model").mkdir()
    assert [f.name for f in find_runs([tmp_path / "runs"])] == ["x-seed=1", "x-seed=2", "x-seed=10"]
    found = find_runs([tmp_path / "runs/../runs/x-seed=2", tmp_path / "runs", tmp_path / "absent"])
    assert [f.name for f in found] == ["x-seed=2", "x-seed=1", "x-seed=10", "absent"]
    assert comparison_of([tmp_path / "runs", tmp_path / "absent"]).left_out == [(tmp_path / "absent", "no such folder")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is no run folder and holds none"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(InputError, match="no finished run: .*absent: no such folder"):
        comparison_of([tmp_path / "absent"])


@pytest.mark.parametrize("name", ["results.json", "config.yaml"])
def test_broken_files_are_named(runs: Path, name: str) -> None:
    (runs / "b/worse" / name).write_text("{")
    with pytest.raises(InputError, match=rf"b/worse/{name} is (no JSON|not readable as YAML)"):
        comparison_of([runs])


def test_screen_markdown_and_latex_hold_the_same_cells(runs: Path) -> None:
    found = comparison_of([runs])
    spread = found.rows[0].metrics["recall@1"]
    cell = f"{100 * spread.mean:.1f} ± {100 * spread.sd:.1f}"
    gap = found.rows[1].differences["recall@1"]
    interval = f"{100 * gap.value:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    text, markdown, latex = as_text(found), as_markdown(found), as_latex(found)
    for shown in (text, markdown):
        assert cell in shown
        assert interval in shown
    assert "| loss=contrastive (reference) | 3 | " + cell in markdown
    assert cell.replace("±", r"$\pm$") in latex
    assert r"recall@1 \%" in latex
    assert latex.count(r"\begin{tabular}{lrrrrrrrr}") == 1
    assert latex.count(r"\end{tabular}") == 2
    assert f"${100 * gap.value:+.1f}$ [${100 * gap.low:+.1f}$, ${100 * gap.high:+.1f}$]" in latex
    for line in latex.splitlines():
        assert line.startswith("%") or "&" not in line or line.endswith(r" \\")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:5]} == {10}


def test_signs_that_mean_something_are_escaped(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ranks_of(0.6, 0), {"model": "a_b|c&50%$#"})
    write_run(tmp_path / "b", ranks_of(0.6, 1), {"model": "plain"})
    found = comparison_of([tmp_path])
    assert r"model=a\_b|c\&50\%\$\#" in as_latex(found)
    assert r"model=a\_b\|c&50%$#" in as_markdown(found)
    assert compare.main([str(tmp_path), "--plot", str(tmp_path / "p.png")]) == 0


def test_csv_holds_everything_in_full_precision(runs: Path) -> None:
    found = comparison_of([runs])
    table = list(csv.DictReader(as_csv(found).splitlines()))
    assert [line["reference"] for line in table] == ["1", "0", "0"]
    assert table[0]["seeds"] == "0 1 2"
    assert float(table[0]["recall@1/mean"]) == found.rows[0].metrics["recall@1"].mean
    assert float(table[1]["recall@1/low"]) == found.rows[1].differences["recall@1"].low
    assert float(table[0]["recall@1/before"]) == 0.5
    assert table[0]["recall@1/difference"] == table[0]["recall@1/low"] == table[2]["recall@1/sd"] == ""
    assert table[2]["map@r/difference"] != ""
    assert table[2]["folders"] == str(runs / "b/worse")


@pytest.mark.slow
def test_the_door_writes_all_files(runs: Path, repository: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / "out" / f"t.{kind}" for kind in ("csv", "markdown", "latex", "plot")}
    words = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    done = subprocess.run(
        [sys.executable, "-m", "metrixkit", "compare", str(runs), *words], cwd=repository, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loss=metrix loss.weight=0.4" in done.stdout
    assert done.stderr == ""
    for path in files.values():
        assert path.stat().st_size > 0
    with Image.open(files["plot"]) as picture:
        assert picture.width > 600


def test_mistakes_at_the_door(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for words, said in (
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(tmp_path / "file")], "is no run folder"),
        ([str(runs), "--metrics", "mapr"], "Did you mean 'map@r'"),
        ([str(runs), "--csv", str(tmp_path / "file/t.csv")], "cannot write"),
    ):
        assert compare.main(words) == 2
        message = capsys.readouterr().err
        assert said in message
        assert message.startswith("metrixkit compare: ")
