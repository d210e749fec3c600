"""The report page: what it holds, what it says first, that nothing in it can run or load; the table for the screen."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imsave

from metrixkit.errors import InputError
from metrixkit.report import format_table, format_value, write_report
from metrixkit.report.sentence import interval, plain_sentence

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
        self.open, self.sources, self.text, self.alts, self.links, self.attributes = [], [], "", [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.attributes += [key for key, _ in attributes]
        self.sources += [value for key, value in attributes if key == "src"]
        self.links += [value for key, value in attributes if key == "href"]
        self.alts += [value for key, value in attributes if key == "alt"]

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
    assert page.alts == ["Training. What was logged over the steps of training: loss.", "retrieval panel"]
    assert all(link == "#" + link[1:] and f'id="{link[1:]}"' in text for link in page.links)
    assert [link[1:] for link in page.links] == ["results", "pictures", "counts", "how-to-repeat-it", "configuration"]
    assert (tmp_path / "pictures" / "curves.png").is_file()
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert "default-src 'none'" in text
    assert "width=device-width" in text
    assert "prefers-color-scheme: dark" in text
    assert not list(tmp_path.glob("*.part"))


def test_page_says_plainly_who_won(tmp_path):
    assert "recall@1 rose from 60.9 % before training to 63.4 % (+2.5 points)" in Page(write(tmp_path)).text
    lost = RESULTS | {"metrics": {"recall@1": 0.54}}
    assert (
        "Training lost: recall@1 fell from 60.9 % before the first step to 54.0 %" in Page(write(tmp_path, lost)).text
    )
    same = RESULTS | {"metrics": {"recall@1": 0.609}}
    assert "Training gained nothing" in Page(write(tmp_path, same)).text
    alone = {"metrics": {"recall@1": 0.5}}
    assert "recall@1: 50.0 %." in Page(write(tmp_path, alone)).text


def test_missing_pieces_are_left_out(tmp_path):
    text = write_report(tmp_path).read_text()
    assert tmp_path.name in text
    assert "<h2" not in text
    text = write(tmp_path, {"metrics": {"recall@1": 0.5}, "before": None, "counts": {}})
    assert re.findall("<h2.*?>(.*?)</h2>", text) == ["Results"]


def test_bad_files_are_explained(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "absent")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results.json is no JSON"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match="expected names and values"):
        write_report(tmp_path)


def ranks(folder, hits, count):
    """Write predictions of which `hits` of `count` queries are right; one more has no relevant item."""
    first = np.r_[np.ones(hits, int), np.full(count - hits, 7), 0]
    np.savez(folder / "predictions.npz", query_ids=np.array([f"q{i}" for i in range(count + 1)]), rank_of_first=first)


def first_line(text):
    return re.search('<p class="plain">(.*?)</p>', text)[1]


def test_the_first_line_is_plain(tmp_path):
    ranks(tmp_path, 634, 1000)
    text = write(tmp_path)
    expected = r"Of 100 pictures of classes never seen in training, 63 \((60|61) to (66|67) with 95 % confidence\) find another picture of the same class first; before training it was 61."
    assert re.fullmatch(expected, first_line(text)), first_line(text)
    assert text.index('class="plain"') < text.index("<h2")
    assert "percentile bootstrap over queries" in text


def test_the_interval_is_that_of_the_bootstrap(tmp_path):
    ranks(tmp_path, 634, 1000)
    found = interval("recall@1", RESULTS, tmp_path / "predictions.npz")
    hits = np.r_[np.ones(634), np.zeros(366)]
    drawn = np.random.default_rng(5).choice(hits, (4000, 1000)).mean(1)
    np.testing.assert_allclose(found, np.quantile(drawn, [0.025, 0.975]), atol=2e-3)
    # That of the result file comes first, in either form; predictions of another recall have no say.
    kept = RESULTS | {"intervals": {"recall@1": [0.5, 0.7]}}
    assert interval("recall@1", kept, tmp_path / "predictions.npz") == (0.5, 0.7)
    kept = RESULTS | {"intervals": {"recall@1": {"low": 0.5, "high": 0.7, "level": 0.95}}}
    assert interval("recall@1", kept, tmp_path / "absent.npz") == (0.5, 0.7)
    # Twenty of twenty right: resampling cannot vary, which is no certainty.
    kept = RESULTS | {"intervals": {"recall@1": [1.0, 1.0]}}
    assert interval("recall@1", kept, tmp_path / "absent.npz") is None
    ranks(tmp_path, 600, 1000)
    assert interval("recall@1", RESULTS, tmp_path / "predictions.npz") is None
    assert interval("map@r", RESULTS, tmp_path / "predictions.npz") is None
    (tmp_path / "predictions.npz").write_bytes(b"PK broken")
    with pytest.raises(InputError, match="predictions.npz cannot be read"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("change", "within", "expected"),
    [
        ({}, None, "Of 100 pictures of classes never seen in training, 63 find another picture of the same class first; before training it was 61."),
        ({"split": "own"}, None, "Of 100 test pictures, 63 find"),
        ({"split": "own", "counts": {"classes_seen_in_training": 0}}, None, "Of 100 pictures of classes never seen"),
        ({"counts": {"classes_seen_in_training": 3}}, None, "Of 100 test pictures, 63 find"),
        ({"counts": {"in_own_gallery": 0}}, None, "63 find a picture of the same class in the gallery first;"),
        ({"before": {"recall@1": 0.633}}, None, "Of 1,000 pictures of classes never seen in training, 634 find another picture of the same class first; before training it was 633."),
        ({}, (0.631, 0.636), "Of 1,000 pictures of classes never seen in training, 634 (631 to 636 with"),
        ({"before": {"recall@1": 0.1}}, None, "before training it was only 10."),
        ({"before": {"recall@1": 0.634}}, None, "before training it was the same."),
        ({"before": None}, None, "find another picture of the same class first."),
        ({"metrics": {"recall@4": 0.5}}, None, "50 find another picture of the same class among the first 4."),
        ({"metrics": {"map@r": 0.5}, "before": {"map@r": 0.4}}, None, "map@r is 50.0 %; before training it was 40.0 %."),
        ({"metrics": {"t2v/recall@1": 0.5}}, None, "t2v/recall@1 is 50.0 %."),
        ({"metrics": {}}, None, ""),
    ],
)  # fmt: skip
def test_the_first_line_fits_the_run(change, within, expected):
    assert expected in plain_sentence(RESULTS | change, within)
    assert bool(expected) == bool(plain_sentence(RESULTS | change, within))


def test_metrics_stand_beside_what_they_mean(tmp_path):
    definitions = {"recall@1": "Share one. Ties lose.", "map@r": "Mean two. Ties lose.", "convention": "All of it."}
    metrics = {"recall@1": 0.5, "map@r": 0.4, "utilization": 0.2, "own": 0.1}
    text = write(tmp_path, {"metrics": metrics, "definitions": definitions | {"rerank": "Sees all queries."}})
    rows = re.findall("<tr><td class=.name.>(.*?)</td>.*?<td class=.meaning.>(.*?)</td></tr>", text)
    told = dict(rows)
    assert "How many queries find a picture of their own class first." in told["recall@1"]
    assert "Share one." in told["recall@1"]
    assert "Ties lose" not in told["recall@1"] + told["map@r"]
    assert text.count("Ties lose.") == 1
    assert "squared distance to the nearest training item" in told["utilization"]
    assert told["own"] == ""
    assert "All of it." in text
    assert "rerank: Sees all queries." in text
    assert "is worth nothing" in text


HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp;"""


def test_nothing_in_a_run_can_open_a_tag(tmp_path):
    folder = tmp_path / '<b>run\'s "name" & <script>'
    (folder / "pictures").mkdir(parents=True)
    imsave(folder / "pictures" / "<i onload=x>'\".png", np.zeros((4, 4)), metadata={"Description": HOSTILE})
    imsave(folder / "pictures" / "mixed.png", np.zeros((4, 4)), metadata={"Title": HOSTILE, "Kind": HOSTILE})
    (folder / "config.yaml").write_text(f"data:\n  root: {HOSTILE}\n")
    hostile = {
        "data": HOSTILE, "split": HOSTILE, "protocol": HOSTILE, "selected": HOSTILE, "command": [HOSTILE, "x"],
        "metrics": {HOSTILE: 0.5, "recall@1": 0.2}, "before": {HOSTILE: 0.1}, "counts": {HOSTILE: HOSTILE, "n": [HOSTILE]},
        "definitions": {HOSTILE: HOSTILE, "convention": HOSTILE, "other" + HOSTILE: HOSTILE}, "seed": HOSTILE,
        "seconds": {HOSTILE: 1.0}, "versions": {HOSTILE: HOSTILE},
    }  # fmt: skip
    page = Page(text := write(folder, hostile))
    assert page.text.count("<script>alert(1)</script>") >= 15
    assert not re.search(r"<(script|b|i)\b", text)
    assert len(re.findall("<img", text)) == 2
    assert not [key for key in page.attributes if key.startswith("on")]
    assert any(HOSTILE in alt for alt in page.alts)


def test_lost_training_is_a_warning_not_good_news(tmp_path):
    text = write(tmp_path, RESULTS | {"metrics": {"recall@1": 0.54}})
    assert '<p class="note"><strong>Training lost' in text
    assert "54 find another picture of the same class first; before training it was 61." in text


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "map.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(InputError, match=r"map.png: is no PNG"):
        write(tmp_path)
    assert not (tmp_path / "report.html").exists()


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


def test_other_tasks_are_judged_by_the_metric_that_they_name(tmp_path):
    results = {"task": "recommendation", "headline": "ndcg@10", "metrics": {"item_recall@1": 0.1, "ndcg@10": 0.25}}
    (tmp_path / "results.json").write_text(json.dumps({**results, "before": {"item_recall@1": 0.2, "ndcg@10": 0.05}}))
    page = write_report(tmp_path).read_text()
    assert "ndcg@10 is 25.0 %; before training it was 5.0 %." in page
    assert "Training lost" not in page
    assert "pictures of the class" not in page


def test_sentence_of_guessed_classes() -> None:
    results = {
        "task": "self-supervised",
        "headline": "knn@1",
        "metrics": {"knn@1": 0.207, "recall@1": 0.12},
        "before": {"knn@1": 0.182},
        "counts": {"classes_seen_in_training": 20},
    }
    assert plain_sentence(results, None) == (
        "Of 100 test pictures, 21 get their own class by the vote of the training pictures nearest to them; before "
        "training it was 18."
    )
