"""docs/index.md says what the code does: its blocks are run in order, and what their comments promise is checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")
def test_every_block_of_the_page_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (repository / "docs" / "index.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    promised = 0
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "docs/index.md", "exec"), names)
        for call, answer in re.findall(r"^(choose_factory\(.*?\)\.factory) +# (\S+)$", block, re.M):
            assert eval(call, names) == answer
            promised += 1
    assert promised == 3
    assert (tmp_path / "shop" / "CURRENT").read_text().strip() == "v0002"
    *four, fifth = names["found"].tolist()
    assert four == [f"shoes/{i}.jpg" for i in range(4)]
    assert int(fifth.removeprefix("shoes/").removesuffix(".jpg")) % 50 == 4  # it was removed: another of its class
    assert names["threshold"].false_rejection_rate < 0.5
    assert names["threshold"].measured_false_match_rate == 0.01
    assert "IVF16,SQ8" in capsys.readouterr().out
