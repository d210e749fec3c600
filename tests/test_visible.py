"""What others named is shown and never obeyed: on terminals, in spreadsheets, in LaTeX and Markdown."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
from foreign import change_json, run_folder

from metrixkit.__main__ import main
from metrixkit.comparison import compare
from metrixkit.report.comparison import as_csv, as_latex, as_markdown, as_text
from metrixkit.spreadsheet import cell, csv_text
from metrixkit.visible import VisibleFormatter, one_line, visible

HOSTILE = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202eevil\x00"


def test_commands_are_spelled() -> None:
    assert visible(HOSTILE) == r"\x1b]0;title\x07\x1b[2J\x0d\x9b31m\u202eevil\x00"
    assert visible("a\udcff") == r"a\udcff"
    assert visible("Käse ± 3\t–\n日本") == "Käse ± 3\t–\n日本"
    assert one_line("a\nb\tc") == r"a\nb\tc"
    record = logging.LogRecord("x", logging.WARNING, "x", 1, "read %s", (HOSTILE,), None)
    assert "\x1b" not in VisibleFormatter("%(message)s").format(record)


def test_errors_of_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_folder(tmp_path, {"data": {"name": HOSTILE}})
    assert main(["evaluate", str(run)]) == 2
    change_json(run / "model/config.json", None, kind=HOSTILE)
    assert main(["embed", str(run), "photos", "--out", "o"]) == 2
    assert main(["compare", HOSTILE]) == 2
    told = capsys.readouterr()
    assert r"\x1b" in told.err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", told.err + told.out)


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\tx"])
def test_formulas_are_text(text: str) -> None:
    assert cell(text) == f"'{text}"
    table = pd.DataFrame({"id": [text, "a"], text: [-1.5, 2.0]})
    rows = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    assert rows[0][1] == f"'{text}"
    assert rows[1] == [f"'{text}", "-1.5"]


def test_no_line_begins_inside_a_cell() -> None:
    assert cell("a\r=1") == r"a\r=1"
    assert len(list(csv.reader(io.StringIO(csv_text(pd.DataFrame({"a": ["b\r=1", "c\n=1"]})), newline="")))) == 3


@pytest.mark.parametrize("value", ["-0.5", "+3", "1e-5", "a=b", "", -0.5, 3, None])
def test_numbers_stay(value: object) -> None:
    assert cell(value) == value


def test_tables_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = "50%_&#${x}~^\\input{/etc/passwd}\n=cmd()\x1b[2J"
    run = run_folder(tmp_path)
    change_json(run / "results.json", None, data=hostile, split="\n\\write18{id}")
    change_json(run / "results.json", "metrics", **{"=map@r": 0.25})
    found = compare([run], metrics=["recall@1", "=map@r"])
    text, latex, markdown = as_text(found), as_latex(found), as_markdown(found)
    for shown in (text, latex, markdown):
        assert "\x1b" not in shown.replace(text, "") or shown is text
    code = [line for line in latex.splitlines() if not line.startswith("%")]
    assert not any("write18" in line or "input" in line or "\x1b" in line for line in code)
    assert next(csv.reader(io.StringIO(as_csv(found))))[4].startswith(("recall", "'="))
    assert not any(c.startswith("=") for row in csv.reader(io.StringIO(as_csv(found))) for c in row)
    assert json.loads((run / "results.json").read_text())["data"] == hostile  # files hold what they are given


# --- every door ----------------------------------------------------------------------------------------------------

# Where CSV is written as it is: tables that commands of this package read again, ids and all.
READ_AGAIN = {
    "data/sets/glyphs.py", "data/sets/mosei.py", "embedding/folder.py", "embedding/parts.py", "indexing/items.py",
    "retrieval/missing/masks.py", "spreadsheet.py",
}  # fmt: skip


def calls(repository: Path) -> list[tuple[str, str, ast.Call]]:
    found = []
    for path in sorted((repository / "metrixkit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((path.relative_to(repository / "metrixkit").as_posix(), ast.unparse(node.func), node))
    return found


def test_every_reader_of_others_files_has_its_guard(repository: Path) -> None:
    for path, name, call in calls(repository):
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        last = name.rpartition(".")[2]
        where = f"{path}: {ast.unparse(call)[:100]}"
        assert name not in ("eval", "exec", "os.system", "pickle.load", "pickle.loads"), where
        if name == "yaml.load":  # words of a command line, as texts
            assert (path, words["Loader"]) == ("overrides.py", "yaml.BaseLoader"), where
        if last == "from_pretrained":
            assert words.get("trust_remote_code") == "False", where
        if name == "torch.load":
            assert words.get("weights_only") == "True", where
        if name == "np.load":
            assert words.get("allow_pickle", "False") == "False", where
        if name in ("yaml.safe_load", "yaml.full_load", "yaml.unsafe_load"):
            assert path == "foreign.py", where
        if name == "OmegaConf.load":
            assert path == "config.py", where  # the config that a person names
        if last == "import_module":
            assert path in ("families.py", "__main__.py", "_faiss.py"), where
        if last == "to_csv" and name != "result.to_csv" and name != "found.to_csv":
            assert path in READ_AGAIN, where
        if last == "lookup" and path in ("sheets/mixers.py", "losses/input_mixers.py", "methods/instance_mixup.py"):
            assert "by_caller" in words, where
