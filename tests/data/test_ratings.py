"""Ratings: the released split on toy and real rows, names of columns, and files that do not fit."""

import json
from pathlib import Path

import pytest

from metrixkit.data.sets.ratings import read_ratings, split_ratings
from metrixkit.errors import InputError

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures" / "dmm.json").read_text())["recommender_split"]


def table(tmp_path, rows, head="user_id,item_id,rating", name="r.csv"):
    path = tmp_path / name
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_the_released_split(tmp_path):
    inputs, outputs = FIXTURE["inputs"], FIXTURE["outputs"]
    rows = [f"{u},{i},{r}" for u, i, r in zip(*(inputs[c] for c in ("user_id", "item_id", "rating")), strict=True)]
    split = split_ratings(read_ratings(table(tmp_path, rows)))
    assert sorted(map(tuple, split.liked.tolist())) == sorted(map(tuple, outputs["train_positive_pairs"]))
    seen = set(map(tuple, split.seen.tolist()))
    candidates = [(u, i) for u in range(3) for i in range(5) if (u, i) not in seen]
    assert candidates == list(map(tuple, outputs["candidates"]))
    wanted = {pair for pair, label in zip(candidates, outputs["labels"], strict=True) if label}
    assert set(map(tuple, split.held_out.tolist())) == wanted


@pytest.mark.data
def test_amazon_digital_music(shared_data):
    split = split_ratings(read_ratings(shared_data / "amazon_digital_music" / "train.csv"))
    assert split.counts() == {
        "users": 5541,
        "items": 3568,
        "ratings": 51764,
        "train": 38823,
        "train_liked": 31295,
        "test": 12941,
        "test_liked": 10394,
        "users_with_liked_test_items": 4066,
        "users_without_liked_training_items": 131,
    }


@pytest.mark.slow
@pytest.mark.data
def test_movielens(shared_data):
    ratings = read_ratings(shared_data / "ml-latest-small" / "ratings.csv")
    assert (len(ratings), len(ratings.user_ids), len(ratings.item_ids)) == (100836, 610, 9724)


def test_numbers_sort_as_numbers_and_dat_files_are_read(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("10::a::5::1\n2::b::3::1\n1::a::4.5::1\n")
    ratings = read_ratings(path)
    assert ratings.user_ids.tolist() == ["1", "2", "10"]
    assert ratings.users.tolist() == [2, 1, 0]
    assert ratings.values.tolist() == [5, 3, 4.5]


@pytest.mark.parametrize(
    ("rows", "head", "said"),
    [
        (["1,2,good"], "user,item,rating", "row 1 is 'good', not a number"),
        (["1,2,nan"], "user,item,rating", "finite"),
        (["1,2,3", "1,2,4"], "user,item,rating", "more than once"),
        (["1,2,3"], "user,thing,rating", "no column of items"),
        (["1,,3"], "user,item,rating", "item"),
    ],
)
def test_files_that_do_not_fit(tmp_path, rows, head, said):
    with pytest.raises(InputError, match=said):
        read_ratings(table(tmp_path, rows, head))


def test_all_ratings_below_the_threshold(tmp_path):
    ratings = read_ratings(table(tmp_path, [f"{i},{i},3" for i in range(8)]))
    with pytest.raises(InputError, match="the highest is 3"):
        split_ratings(ratings)
    assert len(split_ratings(ratings, threshold=3).held_out) == 2
    with pytest.raises(InputError, match="between 0 and 1"):
        split_ratings(ratings, test=1.0)


def test_an_absent_file():
    with pytest.raises(InputError, match="does not exist"):
        read_ratings("nowhere.csv")
