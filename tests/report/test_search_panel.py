"""The search panel and the tuning plot: what is drawn, what is said inside the PNG, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image

from metrixkit.errors import InputError
from metrixkit.report.search_panel import FOUND, Answer, search_panel
from metrixkit.report.tuning_plot import tuning_plot


def load(path: str) -> np.ndarray:
    return np.full((30, 50, 3), 12 * int(path), dtype=np.uint8)


def answers() -> list[Answer]:
    found = Answer("q $1$", "1", ["a", "b"], ["cat", ""], [0.9, 0.8], ["2", ""])
    return [found, Answer("q2", "3"), *[found] * 12]


def blue(path: Path) -> int:
    wanted = [int(FOUND[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int((np.abs(pixels - wanted).max(-1) < 6).sum())


def test_the_panel_draws_results_and_says_no_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    original = Axes.text
    monkeypatch.setattr(Axes, "text", lambda self, x, y, s, **k: (texts.append(s), original(self, x, y, s, **k))[1])
    out = search_panel(tmp_path / "new/p.png", answers(), load, rows=3, k=2, threshold="Below 0.5 nothing.")
    with Image.open(out) as picture:
        told = picture.text["Description"]  # type: ignore[attr-defined]
    assert "3 queries" in told
    assert "Below 0.5 nothing." in told
    assert "11 further queries are not drawn" in told
    assert texts.count("no match") == 1
    assert texts.count("no image") == 2
    assert blue(out) > 20
    assert blue(search_panel(tmp_path / "q.png", [Answer("q2", "3")], load)) == 0


def test_the_panel_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 answers"):
        search_panel(tmp_path / "p.png", [], load)
    with pytest.raises(InputError, match="k=0"):
        search_panel(tmp_path / "p.png", answers(), load, k=0)
    with pytest.raises(InputError, match="expected"):
        search_panel(tmp_path / "p.png", answers(), lambda _: np.zeros((3, 3)))
    assert not list(tmp_path.iterdir())


def test_the_tuning_plot_has_a_line_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    original = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **k: (drawn.append(k["label"]), original(self, *a, **k))[1])
    found = pd.DataFrame(
        {
            "factory": ["Flat", "IVF8,Flat", "IVF8,Flat"],
            "parameters": ["", "nprobe=1", "nprobe=4"],
            "queries_per_second": [100.0, 5000.0, 900.0],
            "bytes_per_vector": [32, 40, 40],
            "agreement@5": [1.0, 0.7, 0.95],
        }
    )
    out = tuning_plot(tmp_path / "t.png", found, "agreement@5", "$5")
    assert out.is_file()
    assert drawn == ["Flat\n32 bytes a vector", "IVF8,Flat\n40 bytes a vector"]
    with pytest.raises(InputError, match="agreement@9"):
        tuning_plot(tmp_path / "u.png", found, "agreement@9")
    with pytest.raises(InputError, match="rows"):
        tuning_plot(tmp_path / "u.png", found[:0], "agreement@5")
    assert not (tmp_path / "u.png").exists()
