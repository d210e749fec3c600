"""Sheets of mixed images and curves over lambda: what is drawn, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metrixkit.errors import InputError
from metrixkit.report.mask_curve import accuracy_curve, mask_curve
from metrixkit.report.mix_sheet import Block, Cell, Row, heat, mix_sheet
from metrixkit.report.mixed import FIRST, SECOND

LINES = ("λ 0.50", "label 0.53", "mask 0.53")


def plain(shade, side=20):
    return np.full((side, side, 3), shade, dtype=np.uint8)


def block(rows=1, mask=None, mark=None):
    cell = Cell(plain(120), LINES, mask, mark)
    return Block(plain(10), plain(240), ("one $class", "another 日本"), [Row("cutmix", "a $note", [cell, cell])] * rows)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def count(path, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels(path) - wanted).max(-1) < 6).sum())


def test_a_sheet_shows_sources_mixtures_and_masks(tmp_path):
    half = np.repeat([[1.0, 0.0]], 20, axis=0).repeat(10, axis=1)
    path = mix_sheet(tmp_path / "deep" / "a.png", [block(2, half), block(1, half)], "Drawn with seed 3.", "a title")
    assert count(path, FIRST) > 500
    assert count(path, SECOND) > 300
    with Image.open(path) as picture:
        told = picture.text
    assert told["Kind"] == "photographs"
    assert "Drawn with seed 3." in told["Description"]
    assert "cutmix: a $note." in told["Description"]
    # The mask's halves: black for the partner. White cannot be told from the paper.
    black = count(path, "#000000")
    whole = mix_sheet(tmp_path / "b.png", [block(2, np.ones((20, 20))), block(1, np.ones((20, 20)))], "", "a title")
    assert black > 6 * 0.4 * (0.5 * 130) ** 2 / 2 + count(whole, "#000000")


def test_views_have_no_mask_and_ring_the_place(tmp_path):
    plain_view = mix_sheet(tmp_path / "a.png", [block()], "")
    ringed = mix_sheet(tmp_path / "b.png", [block(mark=(0.5, 0.5))], "")
    assert count(plain_view, FIRST) == 0  # the sources stand beside mixtures only
    assert (pixels(plain_view) != pixels(ringed)).any()


def test_heat_goes_from_dark_to_bright_and_bears_flat_maps():
    image = plain(128, 8)
    seen = heat(image, np.array([[0.0, 1.0], [-1.0, 3.0]]))
    assert seen.shape == (8, 8, 3)
    assert seen.dtype == np.uint8
    brightness = [int(part.sum()) for part in (seen[4:, :4], seen[:4, :4], seen[:4, 4:], seen[4:, 4:])]
    assert brightness == sorted(brightness)
    assert brightness[0] < brightness[-1]
    assert (heat(image, np.full((2, 2), 5.0)) == heat(image, np.zeros((1, 1)))).all()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "at least one pair"),
        ([Block(plain(0), plain(0), ("a", "b"), [Row("x", "", [])])], "one lambda"),
        ([block(41)], "41 rows"),
    ],
)
def test_a_sheet_refuses_what_it_cannot_draw(tmp_path, blocks, message):
    with pytest.raises(InputError, match=message):
        mix_sheet(tmp_path / "a.png", blocks, "")
    assert not (tmp_path / "a.png").exists()


def curve_rows(mixers):
    return pd.DataFrame(
        {
            "mixer": name, "lambda": lam, "mask_mean": lam, "mask_mean_deviation": 0.1, "pixel_deviation": 0.2,
            "nearly_binary": 0.5, "top1": 0.9, "top2": 0.4,
        }
        for name in mixers
        for lam in (0.0, 0.5, 1.0)
    )  # fmt: skip


@pytest.mark.parametrize("count_of_mixers", [1, 14])
def test_curves_bear_one_mixer_and_many(tmp_path, count_of_mixers):
    names = [f"mixer_{i}" for i in range(count_of_mixers)]
    slopes = pd.DataFrame({"mixer": names, "slope": 1.0})
    one = mask_curve(tmp_path / "a.png", curve_rows(names), slopes, "Measured.", "a $title")
    two = accuracy_curve(tmp_path / "b.png", curve_rows(names), "Measured.")
    for path in (one, two):
        assert count(path, "#2a6fbb") > 50
        with Image.open(path) as picture:
            assert "Measured." in picture.text["Description"]


def test_curves_refuse_missing_columns_and_no_rows(tmp_path):
    rows = curve_rows(["a"])
    slopes = pd.DataFrame({"mixer": ["a"], "slope": [1.0]})
    with pytest.raises(InputError, match="nearly_binary"):
        mask_curve(tmp_path / "a.png", rows.drop(columns="nearly_binary"), slopes, "")
    with pytest.raises(InputError, match="rows"):
        accuracy_curve(tmp_path / "a.png", rows.iloc[:0], "")
