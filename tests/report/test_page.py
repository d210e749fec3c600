"""The report page and the table for the screen."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imsave

from metrixkit.errors import InputError
from metrixkit.report import format_table, format_value, write_report

RESULTS = {
    "data": "CUB <200>",
    "metrics": {"recall@1": 0.634, "recall@1/optimistic": 0.64, "uniformity": -2.345},
    "selected": "best",
    "before": {"recall@1": 0.609, "uniformity": -2.1},
    "last": {"recall@1": 0.62, "uniformity": -2.4},
    "protocol": "validation",
    "split": "cub-first50-zero-shot",
    "counts": {"queries": 1487, "missing": 3},
    "definitions": {"recall@1": "Share of queries & more."},
    "seconds": {"train": 71.25},
    "seed": 1234,
    "versions": {"torch": "2.9"},
    "command": "python -m metrixkit.train configs/cub_metrix.yaml",
}


class Page(HTMLParser):
    """Checks that tags are closed in order, and keeps sources and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(folder, results=RESULTS):
    (folder / "results.json").write_text(json.dumps(results))
    return write_report(folder).read_text(encoding="utf-8")


def test_page_holds_everything_and_loads_nothing(tmp_path):
    (tmp_path / "pictures").mkdir()
    imsave(tmp_path / "pictures" / "retrieval_panel.png", np.zeros((4, 4)))
    (tmp_path / "config.yaml").write_text("loss:\n  name: <Own>\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/total": 0.5}\n')
    page = Page(text := write(tmp_path))
    for piece in (
        "CUB <200>",
        "63.4 %",
        "60.9 %",
        "62.0 %",
        "-2.345",
        "1,487",
        "Share of queries & more.",
        "name: <Own>",
    ):
        assert piece in page.text, piece
    for piece in ("cub-first50-zero-shot", "1234", "71.2", "python -m metrixkit.train", "selected (best)", "2.9"):
        assert piece in page.text, piece
    assert [source[:22] for source in page.sources] == ["data:image/png;base64,"] * 2
    assert (tmp_path / "pictures" / "curves.png").is_file()
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert not list(tmp_path.glob("*.part"))


def test_page_says_plainly_who_won(tmp_path):
    assert "recall@1 rose from 60.9 % before training to 63.4 % (+2.5 points)" in Page(write(tmp_path)).text
    lost = RESULTS | {"metrics": {"recall@1": 0.54}}
    assert (
        "Training lost: recall@1 fell from 60.9 % before the first step to 54.0 %" in Page(write(tmp_path, lost)).text
    )
    same = RESULTS | {"metrics": {"recall@1": 0.609}}
    assert "Training changed nothing" in Page(write(tmp_path, same)).text
    alone = {"metrics": {"recall@1": 0.5}}
    assert "recall@1: 50.0 %." in Page(write(tmp_path, alone)).text


def test_missing_pieces_are_left_out(tmp_path):
    text = write_report(tmp_path).read_text()
    assert tmp_path.name in text
    assert "<h2>" not in text
    text = write(tmp_path, {"metrics": {"recall@1": 0.5}, "before": None, "counts": {}})
    assert re.findall("<h2>(.*?)</h2>", text) == ["Results"]


def test_bad_files_are_explained(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "absent")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results.json: is not JSON"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="expected an object"):
        write_report(tmp_path)


def test_values_are_percent_only_where_they_are_shares():
    assert format_value("recall@1", 0.6344) == "63.4 %"
    assert format_value("validation/map@r", 0.5) == "50.0 %"
    assert format_value("t2v/recall@10", 1.0) == "100.0 %"
    assert format_value("utilization", 0.68242) == "0.682"
    assert format_value("test/uniformity", -2.3456) == "-2.346"
    assert format_value("alignment", 0.95) == "0.950"
    assert format_value("t2v/median_rank", 3.0) == "3.0"


def test_table_for_the_screen():
    text = format_table(RESULTS["metrics"], RESULTS["before"])
    assert text.splitlines() == [
        "recall@1     63.4 %   before 60.9 %, +2.5   (64.0 % if ties are won)",
        "uniformity   -2.345   before -2.100, -0.245",
    ]
    assert format_table({}) == ""
