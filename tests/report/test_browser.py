"""Pages in a real browser: no message on the console, no request, nothing runs, nothing wider than a phone."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imsave

from metrixkit.report import write_report
from metrixkit.report.markup import document, safe

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")]
EVIL = """</pre><script>document.title = "ran"; console.log("ran")</script><img src="http://127.0.0.1:9/x.png" onerror=console.log(2)>"""
# Runs in the tested page's frame's parent, so that the page itself needs no script: measures it at a phone's width.
PHONE = """<body><iframe src="{name}" style="width:390px;height:800px;border:0"></iframe><script>
onload = () => {{ const page = document.querySelector("iframe").contentDocument.documentElement;
document.title = page.scrollWidth + "/" + page.clientWidth; }};</script>"""


def visit(page, tmp_path):
    """Return the page as the browser built it, what stood on its console, and the addresses it asked for."""
    log = tmp_path / "net.json"
    run = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
            "--disable-background-networking", "--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own requests (its clock, its lists) have no origin; those of a page do.
    asked = {e["url"] for e in events if "url" in e and e.get("initiator", "not an origin") != "not an origin"}
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line], asked


def test_what_is_looked_for_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(f"<body>{EVIL}</body>")
    dom, console, asked = visit(page, tmp_path)
    assert "<title>ran</title>" in dom
    assert any('"ran"' in line for line in console)
    assert asked == {"http://127.0.0.1:9/x.png"}


def test_report_runs_nothing_and_asks_for_nothing(tmp_path):
    folder = tmp_path / "a run"
    (folder / "pictures").mkdir(parents=True)
    imsave(folder / "pictures" / "wide.png", np.zeros((40, 3000)), metadata={"Description": EVIL})
    (folder / "config.yaml").write_text(f"data: {EVIL}\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss/total": 0.5}\n')
    metrics = {"recall@1": 0.6, EVIL: 0.5, "utilization": 0.3}
    results = {"metrics": metrics, "before": {"recall@1": 0.5}, "last": metrics, "command": EVIL, "split": EVIL,
               "definitions": {"recall@1": EVIL, "convention": EVIL}, "counts": {EVIL: 1}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    page = write_report(folder)
    dom, console, asked = visit(page, tmp_path)
    assert console == []
    assert asked == set()
    assert "Of 100 test pictures, 60 find" in dom
    assert dom.count("<img") == 2
    (folder / "phone.html").write_text(PHONE.format(name="report.html"))
    dom, _, _ = visit(folder / "phone.html", tmp_path)
    wide, shown = re.search(r"<title>(\d+)/(\d+)</title>", dom).groups()
    assert wide == shown  # nothing but tables and pictures scrolls sideways, each by itself


def test_the_policy_holds_where_escaping_would_not(tmp_path):
    page = tmp_path / "hole.html"
    page.write_text(document("hole", [EVIL, safe("<b>")]))
    dom, console, asked = visit(page, tmp_path)
    assert "<title>hole</title>" in dom
    assert asked == set()
    assert all("Content Security Policy" in line for line in console)
