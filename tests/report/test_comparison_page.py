"""The page of several runs: tables, first sentence, links, nothing that loads or runs."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml

from metrixkit import compare as door
from metrixkit.comparison import compare
from metrixkit.report.comparison_page import comparison_page, plain_sentence
from metrixkit.report.comparison_plot import comparison_plot

EVIL = "<script>alert(1)</script>\"'"


def run(folder, share, loss, seed=0, before=0.3, page=True):
    folder.mkdir(parents=True)
    ranks = np.where(np.arange(200) < 200 * share + seed, 1, 9)
    np.savez(folder / "predictions.npz", query_ids=np.array([f"q{i}" for i in range(200)]), rank_of_first=ranks)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "data": {"name": EVIL}, "loss": loss}))
    metrics = {"recall@1": float((ranks == 1).mean()), "map@r": share / 2, "utilization": 0.2}
    results = {"metrics": metrics, "before": {"recall@1": before}, "data": EVIL, "split": "s", "counts": {"queries": 200},
               "seconds": {"training": 60.4}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    if page:
        (folder / "report.html").write_text("x")
    return folder


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    for seed in range(2):
        run(root / f"a {EVIL.replace('/', '%2F')} #{seed}", 0.6, {"name": "clean", "tag": EVIL}, seed)
    run(root / "mixed", 0.7, {"name": "metrix", "weight": 0.4}, page=False)
    run(root / "worse", 0.2, {"name": "metrix", "weight": 9.0})
    (root / "under way" / "checkpoints").mkdir(parents=True)
    return root


def test_page_holds_tables_links_and_notes(runs, tmp_path):
    out = comparison_page(compare([runs]), tmp_path / "out" / "deep" / "c.html", "python -m x '<y>'")
    text = out.read_text()
    assert not re.search(r"https?:|<script|@import|url\(|onerror", text)
    assert "default-src 'none'" in text
    titles = re.findall("<h2.*?>(.*?)</h2>", text)
    assert titles == ["Results", "Differences", "Picture", "What differs", "Runs", "Left out", "How to repeat it"]
    assert "60.2 ± 0.4" in text
    assert "training LOST" in text
    assert "loss.weight=9.0" in text
    assert "under way" in text
    assert "not trained yet" in text
    assert len(re.findall("<img", text)) == 1
    links = re.findall('href="([^#"].*?)"', text)
    assert len(links) == 3  # one run has no page
    for link in links:
        assert link.startswith("./../../runs/")
        assert (out.parent / unquote(link)).read_text() == "x"
    assert not list(out.parent.glob("*.part"))


def test_first_sentence_names_the_best_row(runs, tmp_path):
    found = compare([runs])
    sentence = plain_sentence(found)
    assert sentence.startswith(
        "The best row, loss=metrix loss.weight=0.4, has a recall@1 of 70.0 % (a single run), 9.7 points above"
    )
    assert "95 % interval over queries +" in sentence
    against = plain_sentence(compare([runs], against="weight=0.4"))
    assert against.startswith(
        "The reference, loss=metrix loss.weight=0.4, is the best row: recall@1 70.0 % (a single run); next is"
    )
    assert "9.7 points below it" in against
    assert plain_sentence(compare([runs / "worse"])) == "worse: recall@1 is 20.0 % (a single run)."
    run(tmp_path / "b", 0.705, {"name": "metrix", "weight": 0.5})
    near = plain_sentence(compare([runs / "mixed", tmp_path / "b"]))
    assert "0.5 points above" in near
    assert "interval over queries +0.0 to" in near
    assert "may be chance" in near


def test_one_row_has_no_differences(runs, tmp_path):
    text = comparison_page(compare([runs / "mixed"]), tmp_path / "c.html").read_text()
    assert re.findall("<h2.*?>(.*?)</h2>", text) == ["Results", "Picture", "Runs"]


def test_plot_says_what_it_shows(runs, tmp_path):
    from PIL import Image

    with Image.open(comparison_plot(compare([runs]), tmp_path / "p.png")) as picture:
        assert "standard deviation" in picture.text["Description"]


def test_door_writes_the_page(runs, tmp_path, capsys):
    assert (
        door.main([str(runs), "--html", str(tmp_path / "new" / "c.html"), "--csv", str(tmp_path / "new" / "c.csv")])
        == 0
    )
    assert f"page: {tmp_path / 'new' / 'c.html'}" in capsys.readouterr().out
    assert "How to repeat it" in (tmp_path / "new" / "c.html").read_text()
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert door.main([str(runs), "--html", str(blocked / "c.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert Path(blocked).read_text() == ""
