"""Masks: subsets, seeded draws, files."""

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval.missing.masks import (
    Mask,
    draw_mask,
    rate_masks,
    read_masks,
    subset_masks,
    subsets,
    write_masks,
)

IDS = [f"item{i}" for i in range(2000)]
NAMES = ("text", "audio", "vision")


def test_subsets_are_all_but_the_empty_one():
    assert subsets(NAMES) == [
        ("text",), ("audio",), ("vision",), ("text", "audio"), ("text", "vision"), ("audio", "vision"), NAMES
    ]  # fmt: skip
    masks = subset_masks(IDS[:3], NAMES)
    assert [mask.subset for mask in masks][3:5] == ["text+audio", "text+vision"]
    assert masks[4].present.tolist() == [[True, False, True]] * 3


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 1.0])
def test_draws_have_their_rate_and_keep_one(rate):
    free = draw_mask(IDS, NAMES, rate, seed=1, keep_one=False)
    assert abs(free.missing - rate) < 0.03
    kept = draw_mask(IDS, NAMES, rate, seed=1)
    assert kept.present.any(axis=1).all()
    lost = ~free.present.any(axis=1)
    assert (kept.present[~lost] == free.present[~lost]).all()
    assert (kept.present[lost].sum(axis=1) == 1).all()
    if rate == 1:  # the one that stays is evenly chosen
        assert np.abs(kept.present.mean(axis=0) - 1 / 3).max() < 0.05


def test_draws_are_nested_and_depend_on_the_item_alone():
    low, high = (draw_mask(IDS, NAMES, rate, seed=4, keep_one=False).present for rate in (0.3, 0.6))
    assert (low | ~high).all()
    part = draw_mask(IDS[::-7], NAMES, 0.5, seed=4)
    assert (part.present == draw_mask(IDS, NAMES, 0.5, seed=4).of(IDS[::-7], NAMES)).all()
    assert (draw_mask(IDS, NAMES, 0.5, seed=5).present != draw_mask(IDS, NAMES, 0.5, seed=4).present).any()


def test_what_an_item_lacks_is_neither_drawn_nor_kept():
    available = np.tile([True, False, True], (len(IDS), 1))
    mask = draw_mask(IDS, NAMES, 0.9, seed=0, available=available)
    assert not mask.present[:, 1].any()
    assert mask.present.any(axis=1).all()
    available[5] = False
    with pytest.raises(InputError, match=r"item 'item5' no modality is observed"):
        draw_mask(IDS, NAMES, 0.1, seed=0, available=available)
    assert not draw_mask(IDS, NAMES, 0.1, seed=0, available=available, keep_one=False).present[5].any()


def test_files_hold_masks_whole(tmp_path):
    masks = [*subset_masks(IDS[:20], NAMES), *rate_masks(IDS[:20], NAMES, (0.25, 1.0), (0, 3), ("query", "both"))]
    path = write_masks(masks, tmp_path / "deep" / "masks.csv")
    drawn = [mask for mask in masks if not mask.subset]
    again = [mask for mask in read_masks(write_masks(drawn, path))]
    assert [(m.side, m.rate, m.seed, m.ids, m.subset) for m in again] == [
        (m.side, m.rate, m.seed, m.ids, "") for m in drawn
    ]
    assert all((a.present == b.present).all() for a, b in zip(again, drawn, strict=True))
    assert path.read_text().splitlines()[0] == "side,seed,rate,id,text,audio,vision"


def test_anybodys_file_is_one_mask(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("id,a,b\n007,1,0\n8,0,1\n")
    (mask,) = read_masks(path)
    assert (mask.ids, mask.modalities, mask.side, mask.subset) == (("007", "8"), ("a", "b"), "both", "")
    assert mask.of(["8"], ["b", "a"]).tolist() == [[True, False]]
    with pytest.raises(InputError, match="says nothing of the item '9'"):
        mask.of(["9"], ["a"])
    with pytest.raises(InputError, match="says nothing of the modality 'c'"):
        mask.of(["8"], ["c"])
    path.write_text("id,a\nx,1\ny,yes\n")
    with pytest.raises(InputError, match=r"row 2: a is 'yes', expected 0 or 1"):
        read_masks(path)
    path.write_text("name,a\nx,1\n")
    with pytest.raises(InputError, match="expected id"):
        read_masks(path)
    path.write_text("id,a,rate\nx,1,often\n")
    with pytest.raises(InputError, match="no number"):
        read_masks(path)
    with pytest.raises(InputError, match="do not exist"):
        read_masks(tmp_path / "none.csv")


def test_what_is_no_mask():
    with pytest.raises(InputError, match="expected a rate in"):
        draw_mask(IDS, NAMES, 1.5, 0)
    with pytest.raises(InputError, match="Did you mean 'query'"):
        Mask(("a",), ("x",), np.ones((1, 1), bool), side="querry")
    with pytest.raises(InputError, match="the id 'a' stands there twice"):
        Mask(("a", "a"), ("x",), np.ones((2, 1), bool))
    with pytest.raises(InputError, match=r"expected bool \(1, 2\)"):
        Mask(("a",), ("x", "y"), np.ones((1, 1), bool))
