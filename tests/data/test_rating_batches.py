"""Batches of liked pairs: what may be drawn, evenness, and going on where one stopped."""

import numpy as np
import pytest
import torch

from metrixkit.data.rating_batches import RatingBatches
from metrixkit.data.sets.ratings import Ratings, RatingSplit
from metrixkit.errors import InputError


def split(liked, users=3, items=6):
    liked = np.asarray(liked)
    names = [np.array([str(i) for i in range(n)]) for n in (users, items)]
    ratings = Ratings(*names, liked[:, 0], liked[:, 1], np.full(len(liked), 5.0))
    return RatingSplit(ratings, liked, liked, liked[:0], 0)


LIKED = [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 5], [2, 2]]


def test_liked_items_are_never_drawn_against():
    batches = RatingBatches(split(LIKED), batch_size=64, negatives=7, steps=5, seed=1)
    liked = set(map(tuple, LIKED))
    seen = set()
    for batch in batches:
        assert batch.modalities["negatives"].shape == (64, 7)
        for user, item, others in zip(
            *(batch.modalities[k].tolist() for k in ("user", "item", "negatives")), strict=True
        ):
            assert (user, item) in liked
            seen.add((user, item))
            assert not any((user, other) in liked for other in others)
            if user == 0:
                assert set(others) == {5}
    assert seen == liked


def test_the_others_are_drawn_evenly():
    batches = RatingBatches(split(LIKED), batch_size=500, negatives=20, steps=1)
    batch = batches.draw(0, 0)
    of_user_1 = batch.modalities["negatives"][batch.modalities["user"] == 1].flatten()
    shares = torch.bincount(of_user_1, minlength=6) / len(of_user_1)
    assert shares[5] == 0
    assert (shares[:5] - 0.2).abs().max() < 0.05


def test_a_stopped_epoch_goes_on():
    batches = RatingBatches(split(LIKED), batch_size=8, steps=6, seed=3)
    batches.load_state_dict({"epoch": 2, "position": 0})
    whole = [b.modalities["negatives"] for b in batches]
    batches.load_state_dict({"epoch": 2, "position": 4})
    rest = [b.modalities["negatives"] for b in batches]
    assert len(whole) == 6
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    batches.load_state_dict({"epoch": 3, "position": 0})
    assert not torch.equal(next(iter(batches)).modalities["negatives"], whole[0])


def test_a_user_who_likes_everything():
    with pytest.raises(InputError, match="likes all 2 items"):
        RatingBatches(split([[0, 0], [0, 1], [1, 0]], 2, 2))
    with pytest.raises(InputError, match="negatives=0"):
        RatingBatches(split(LIKED), negatives=0)
