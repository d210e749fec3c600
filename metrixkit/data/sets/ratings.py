"""Ratings of items by users, and the row split under which recommenders of this kind are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.data.roots import data_roots
from metrixkit.data.tables import column, read_table
from metrixkit.errors import InputError, listed, near_name

NAMES = {
    "user": ("user", "user_id", "userid", "user id"),
    "item": ("item", "item_id", "itemid", "movieid", "movie_id", "item id", "asin", "product_id"),
    "rating": ("rating", "ratings", "score", "stars"),
}


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who rated what, and how.

    Attributes:
        user_ids: (U,) unicode names, in order of their index.
        item_ids: (I,) unicode names, likewise.
        users: (N,) int64 in [0, U).
        items: (N,) int64 in [0, I).
        values: (N,) float64 ratings.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    users: np.ndarray
    items: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        """Return the number of ratings."""
        return len(self.users)


@dataclass(frozen=True, eq=False)
class RatingSplit:
    """Ratings divided for training and evaluation; pairs are (n, 2) int64 of user and item index.

    Attributes:
        ratings: What was divided.
        liked: Training pairs rated at least the threshold: the positives.
        seen: All training pairs, whatever their rating; never recommended again.
        held_out: Test pairs rated at least the threshold; what a recommender should find.
        test_rows: Test rows of any rating.
    """

    ratings: Ratings
    liked: np.ndarray
    seen: np.ndarray
    held_out: np.ndarray
    test_rows: int

    def counts(self) -> dict[str, int]:
        """Return what the numbers of a recommender rest on."""
        return {
            "users": len(self.ratings.user_ids),
            "items": len(self.ratings.item_ids),
            "ratings": len(self.ratings),
            "train": len(self.seen),
            "train_liked": len(self.liked),
            "test": self.test_rows,
            "test_liked": len(self.held_out),
            "users_with_liked_test_items": len(np.unique(self.held_out[:, 0])),
            "users_without_liked_training_items": len(self.ratings.user_ids) - len(np.unique(self.liked[:, 0])),
        }


class RatingTable:
    """Ratings of a table with a row for each, divided by row.

    Args:
        path: The table; a relative one is looked for below the data roots too.
        threshold: A rating of at least this counts as liked.
        test: Share of the rows held out, in [0, 1); 0 trains on all of them, and then nothing is judged.
        split_seed: Of the division; 1000 is the DMM release's.
        user: The column of users; null finds it.
        item: The column of items; null finds it.
        rating: The column of ratings; null finds it.
    """

    def __init__(
        self,
        path: str,
        threshold: float = 4.0,
        test: float = 0.25,
        split_seed: int = 1000,
        user: str | None = None,
        item: str | None = None,
        rating: str | None = None,
    ) -> None:
        self.path, self.threshold, self.test, self.split_seed = path, threshold, test, split_seed
        self.user, self.item, self.rating = user, item, rating

    def read(self) -> RatingSplit:
        """Return the ratings, divided.

        Raises:
            InputError: See :func:`read_ratings` and :func:`split_ratings`.
        """
        path = Path(self.path).expanduser()
        if not path.is_absolute() and not path.exists():
            path = next((root / path for root in data_roots() if (root / path).exists()), path)
        ratings = read_ratings(path, self.user, self.item, self.rating)
        return split_ratings(ratings, self.threshold, self.test, self.split_seed)


def read_ratings(
    path: str | Path, user: str | None = None, item: str | None = None, rating: str | None = None
) -> Ratings:
    """Read a table with a row for each rating.

    Args:
        path: CSV, TSV, parquet or JSON lines; ``::`` between cells, as in MovieLens' ``.dat`` files, is read as well.
        user: The column of users; None finds ``user``, ``user_id``, ``userId``.
        item: The column of items; None finds ``item``, ``item_id``, ``movieId``, ...
        rating: The column of ratings; None finds ``rating``.

    Returns:
        The ratings, users and items indexed in the order of their names (numerically where all names are numbers).

    Raises:
        InputError: No such file or column, an empty cell, a rating that is no number, or a pair that is rated twice.
    """
    path = Path(path).expanduser()
    table = _dat(path) if path.suffix.lower() == ".dat" else read_table(path)
    cells = {}
    for role, wanted in (("user", user), ("item", item), ("rating", rating)):
        cells[role] = column(table, wanted or _find(table, role, path), path, f"data.{role}")
    try:
        values = np.array(cells["rating"], dtype=np.float64)
    except ValueError:
        row = next(i for i, text in enumerate(cells["rating"]) if not _is_number(text))
        raise InputError(f"{path}: the rating in row {row + 1} is {cells['rating'][row]!r}, not a number.") from None
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"{path}: the rating in row {row + 1} is {cells['rating'][row]!r}; expected a finite number.")
    user_ids, users = _index(cells["user"])
    item_ids, items = _index(cells["item"])
    pairs = users * len(item_ids) + items
    _, first, counts = np.unique(pairs, return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[counts > 1].min())
        raise InputError(
            f"{path}: user {cells['user'][row]!r} rates item {cells['item'][row]!r} more than once (first in row "
            f"{row + 1}; {int((counts > 1).sum())} such pairs). Keep one rating of each pair, for example the last."
        )
    return Ratings(user_ids, item_ids, users, items, values)


def split_ratings(ratings: Ratings, threshold: float = 4.0, test: float = 0.25, seed: int = 1000) -> RatingSplit:
    """Divide ratings by row: neither by user nor by time, as the released DMM does.

    Args:
        ratings: All of them.
        threshold: A rating of at least this counts as liked.
        test: Share of the rows that is held out, in [0, 1).
        seed: Of scikit-learn's ``train_test_split``; 1000 is the release's.

    Raises:
        InputError: No rating reaches the threshold, or none on one side; a share outside [0, 1).
    """
    if not 0 <= test < 1:
        raise InputError(
            f"the share of test ratings is {test}; expected a number between 0 and 1 (excluded); 0 holds none out."
        )
    if len(ratings) < 2:
        raise InputError(f"{len(ratings)} ratings cannot be divided into training and test.")
    liked = ratings.values >= threshold
    if not liked.any():
        raise InputError(
            f"no rating reaches {threshold:g} (the highest is {ratings.values.max():g}), so nothing is liked. "
            "Lower data.threshold."
        )
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(ratings))
    train, held = train_test_split(rows, test_size=test, random_state=seed) if test else (rows, rows[:0])
    pairs = np.stack([ratings.users, ratings.items], axis=1)
    for name, some in (("training", train), ("test", held)):
        if (test or name == "training") and not liked[some].any():
            raise InputError(
                f"none of the {len(some)} {name} ratings reaches {threshold:g}. Lower data.threshold or take another "
                "data.split_seed."
            )
    return RatingSplit(ratings, pairs[train[liked[train]]], pairs[train], pairs[held[liked[held]]], len(held))


def _find(table: pd.DataFrame, role: str, path: Path) -> str:
    for name in table.columns:
        if str(name).strip().lower() in NAMES[role]:
            return str(name)
    raise InputError(
        f"{path} has no column of {role}s; its columns are {listed(table.columns)}.{near_name(role, table.columns)} "
        f"Name it by data.{role}."
    )


def _dat(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"the table {path.absolute()} does not exist.")
    # Latin-1 is what MovieLens publishes; any bytes are text in it.
    numbered = enumerate(path.read_text(encoding="latin-1").splitlines(), start=1)
    rows: list[list[str]] = []
    for number, line in numbered:
        cells = line.split("::")
        if line.strip() and (len(cells) < 3 or (rows and len(cells) != len(rows[0]))):
            raise InputError(f"{path}, line {number}: expected user::item::rating::timestamp, got {line[:60]!r}.")
        rows += [cells] if line.strip() else []
    if not rows:
        raise InputError(f"the table {path} is empty: it has no rows.")
    return pd.DataFrame(rows).rename(columns={0: "user", 1: "item", 2: "rating"})


def _index(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted names and the place of each cell's name among them."""
    unique = sorted(set(names), key=lambda n: (0, int(n), n) if n.isdecimal() else (1, 0, n))
    place = {name: i for i, name in enumerate(unique)}
    return np.array(unique), np.array([place[name] for name in names], dtype=np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
