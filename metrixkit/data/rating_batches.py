"""Training batches of a recommender: liked pairs with items that their users did not like, drawn with replacement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from metrixkit.data.sets.ratings import RatingSplit
from metrixkit.errors import InputError
from metrixkit.seam import Batch


class RatingBatches:
    """Batches of (user, liked item, other items), each a pure function of seed, epoch and position.

    Liked pairs are drawn evenly and with replacement. The other items are drawn evenly, with replacement, among all
    that are not liked by the user in training: items rated low, and those held out for the test, may be among them.

    Args:
        split: Whose ``liked`` pairs to train on.
        batch_size: Liked pairs of a batch, B.
        negatives: Other items for each, K.
        steps: Batches of an epoch.
        seed: Of the drawing.

    Raises:
        InputError: A size below 1, or a user who likes every item, for whom nothing can be drawn.
    """

    def __init__(
        self, split: RatingSplit, batch_size: int = 256, negatives: int = 10, steps: int = 256, seed: int = 0
    ) -> None:
        for name, value in (("batch_size", batch_size), ("negatives", negatives), ("steps", steps)):
            if value < 1:
                raise InputError(f"sampler.{name}={value}: expected 1 or more.")
        self.split, self.batch_size, self.negatives, self.steps, self.seed = split, batch_size, negatives, steps, seed
        self._items = len(split.ratings.item_ids)
        self._liked = np.sort(split.liked[:, 0] * self._items + split.liked[:, 1])
        full = np.flatnonzero(np.bincount(split.liked[:, 0]) >= self._items)
        if len(full):
            raise InputError(
                f"user {str(split.ratings.user_ids[full[0]])!r} likes all {self._items} items in training, so there is "
                f"nothing to compare them with ({len(full)} such users). Leave such users out."
            )
        self._epoch, self._position = 0, 0

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self.steps

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on at ``{"epoch": e, "position": k}``."""
        self._epoch, self._position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches with ``modalities`` user (B,), item (B,) and negatives (B, K), int64 indices."""
        start, self._position = self._position, 0
        for position in range(start, self.steps):
            yield self.draw(self._epoch, position)

    def draw(self, epoch: int, position: int) -> Batch:
        """Return one batch."""
        rng = np.random.default_rng((self.seed, epoch, position))
        chosen = self.split.liked[rng.integers(len(self.split.liked), size=self.batch_size)]
        others = rng.integers(self._items, size=(self.batch_size, self.negatives))
        again = self._is_liked(chosen[:, :1], others)
        while again.any():
            others[again] = rng.integers(self._items, size=int(again.sum()))
            again = self._is_liked(chosen[:, :1], others)
        names = self.split.ratings.user_ids
        return Batch(
            ids=names[chosen[:, 0]].tolist(),
            modalities={
                "user": torch.from_numpy(chosen[:, 0].copy()),
                "item": torch.from_numpy(chosen[:, 1].copy()),
                "negatives": torch.from_numpy(others),
            },
        )

    def _is_liked(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        keys = users * self._items + items
        place = np.minimum(np.searchsorted(self._liked, keys), len(self._liked) - 1)
        return np.asarray(self._liked[place] == keys)
