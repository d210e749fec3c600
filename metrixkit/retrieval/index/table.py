"""Which id stands at which position of an index, which label it bears, and which positions are tombstones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.labels import read_labels

BLOCK = 2**16  # ids hashed at a time
NO_MATCH = "no match"  # what match() answers where no item is near enough
Filter = Iterable[str] | np.ndarray | Callable[[str], bool]


class Table:
    """Ids and labels in the order of the vectors.

    Args:
        ids: (N,) unicode; ids of tombstones may stand again further on.
        labels: (N,) unicode, or None where items bear none.
        dead: (N,) bool, True for tombstones; None for no tombstone.

    Attributes:
        dead_count: Tombstones.
    """

    def __init__(self, ids: np.ndarray, labels: np.ndarray | None = None, dead: np.ndarray | None = None) -> None:
        self.all_ids, self.all_labels = ids, labels
        self.dead = np.zeros(len(ids), dtype=bool) if dead is None else dead
        self.dead_count = int(self.dead.sum())
        self._where: dict[str, int] | None = None

    def __len__(self) -> int:
        """Return the number of items, tombstones left out."""
        return len(self.all_ids) - self.dead_count

    @property
    def ids(self) -> np.ndarray:
        """(N,) ids in the order of the vectors, tombstones left out."""
        return self.all_ids[~self.dead] if self.dead_count else self.all_ids

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) labels in the order of :attr:`ids`, or None."""
        if self.all_labels is None:
            return None
        return self.all_labels[~self.dead] if self.dead_count else self.all_labels

    @property
    def alive(self) -> np.ndarray | None:
        """(positions,) bool, or None where all are."""
        return ~self.dead if self.dead_count else None

    def positions(self, ids: np.ndarray, what: str) -> np.ndarray:
        """Return the (n,) int64 positions of ids.

        Raises:
            InputError: An id that is not in the index.
        """
        where = self._lookup()
        found = np.fromiter((where.get(name, -1) for name in ids.tolist()), dtype=np.int64, count=len(ids))
        if (found < 0).any():
            unknown = ids[found < 0]
            raise InputError(
                f"{what}: {str(unknown[0])!r} is not in the index ({len(unknown)} of {len(ids)} ids are not)."
                + did_you_mean(str(unknown[0]), list(where)[:10_000] if len(where) > 20 else where)
            )
        return found

    def name(self, positions: np.ndarray) -> np.ndarray:
        """Return the ids at positions of any shape; "" at -1."""
        if not len(self.all_ids):
            return np.full(positions.shape, "", dtype="<U1")
        if positions.max(initial=-1) >= len(self.all_ids):
            raise InputError(
                f"the index answers with vector {positions.max()} of {len(self.all_ids)}: its file is damaged. Load it "
                "with verify=True to see which, or build it again."
            )
        names: np.ndarray = self.all_ids[positions]
        missing = positions < 0
        if missing.any():
            names[missing] = ""
        return names

    def refuse_known(self, ids: np.ndarray, what: str) -> None:
        """Raise InputError if an id is in the index already."""
        where = self._lookup()
        known = [name for name in ids.tolist() if name in where]
        if known:
            raise InputError(
                f"{what}: {known[0]!r} is in the index already ({len(known)} of {len(ids)} ids are). Replace its "
                "vector with update(), or remove() it first."
            )

    def append(self, ids: np.ndarray, labels: np.ndarray | None) -> None:
        """Add items behind the last."""
        start = len(self.all_ids)
        self.all_ids = np.concatenate([self.all_ids, ids])
        if self.all_labels is not None and labels is not None:
            self.all_labels = np.concatenate([self.all_labels, labels])
        self.dead = np.concatenate([self.dead, np.zeros(len(ids), dtype=bool)])
        if self._where is not None:
            self._where.update(zip(ids.tolist(), range(start, start + len(ids)), strict=True))

    def bury(self, positions: np.ndarray) -> None:
        """Make tombstones of items."""
        if self._where is not None:
            for name, position in zip(self.all_ids[positions].tolist(), positions.tolist(), strict=True):
                if self._where[name] == position:  # an update has put the id elsewhere already
                    del self._where[name]
        self.dead[positions] = True
        self.dead_count = int(self.dead.sum())

    def delete(self, positions: np.ndarray) -> None:
        """Take items out; those behind move up."""
        keep = np.ones(len(self.all_ids), dtype=bool)
        keep[positions] = False
        self.all_ids, self.dead = self.all_ids[keep], self.dead[keep]
        self.all_labels = None if self.all_labels is None else self.all_labels[keep]
        self.dead_count, self._where = int(self.dead.sum()), None

    def allowed(self, chosen: Filter | None) -> np.ndarray | None:
        """Return the (positions,) bool that a search may find, or None for all.

        Args:
            chosen: Ids, where one named twice counts once; or a (len,) mask in the order of :attr:`ids`, bool or of
                zeros and ones; or a function of an id; or None.

        Raises:
            InputError: An unknown id, a mask of another length, or something else.
        """
        if chosen is None:
            return self.alive
        mask = self._mask(chosen)
        if not self.dead_count:
            return mask
        allowed = np.zeros(len(self.all_ids), dtype=bool)
        allowed[np.flatnonzero(~self.dead)[mask]] = True
        return allowed

    def _mask(self, chosen: Filter) -> np.ndarray:
        """Return the (len,) bool of allowed items, in the order of :attr:`ids`."""
        if callable(chosen):
            return np.fromiter((bool(chosen(name)) for name in self.ids.tolist()), dtype=bool, count=len(self))
        if isinstance(chosen, str | bytes):
            raise InputError(f"filter={chosen!r}: expected ids (a list of them), a mask or a function, found one text.")
        if isinstance(chosen, Tensor):
            chosen = chosen.detach().cpu().numpy()
        if isinstance(chosen, Iterable) and not isinstance(chosen, np.ndarray | Sequence):
            chosen = list(chosen)  # a set, a series
        array = np.asarray(chosen)
        if array.dtype.kind == "b" or self._is_mask(array):
            if array.shape != (len(self),):
                raise InputError(
                    f"filter: a mask of shape {array.shape} for {len(self)} items; expected one value an item, in the "
                    "order of index.ids."
                )
            return array.astype(bool)
        mask = np.zeros(len(self.all_ids), dtype=bool)
        if array.size:
            mask[self.positions(read_labels(chosen, "filter").astype(str), "filter")] = True
        return mask[~self.dead]

    def _is_mask(self, array: np.ndarray) -> bool:
        """Tell whether numbers are a mask and not ids: zeros and ones, repeated as no list of ids would be.

        Raises:
            InputError: They may be either.
        """
        if array.dtype.kind not in "iuf" or array.ndim != 1 or not array.size or not np.isin(array, (0, 1)).all():
            return False
        if len(array) > len(np.unique(array)):
            return True
        known = self._lookup()
        named = all(str(int(number)) in known for number in array)
        if len(array) == len(self) and named:
            raise InputError(
                f"filter={array.tolist()}: may be a mask, or the ids '0' and '1'. Give a mask as bool "
                "(np.array(mask, dtype=bool)), and ids as text (['0', '1'])."
            )
        return len(array) == len(self)

    def _lookup(self) -> dict[str, int]:
        if self._where is None:
            where = dict(zip(self.all_ids.tolist(), range(len(self.all_ids)), strict=True))
            if self.dead_count:
                alive = np.flatnonzero(~self.dead)
                where = dict(zip(self.all_ids[alive].tolist(), alive.tolist(), strict=True))
            self._where = where
        return self._where


def read_new_ids(values: Any, name: str, count: int | None = None) -> np.ndarray:
    """Return ids as (n,) unicode.

    Args:
        values: (n,) integers or strings of any origin, or one string.
        name: What the caller calls them, for messages.
        count: How many are expected, or None where that shows later.

    Raises:
        InputError: Not one value an item, missing, empty, reserved ("no match"), or there twice.
    """
    ids = read_labels([values] if isinstance(values, str) else values, name).astype(str)
    if count is not None:
        check_count(ids, count, name)
    listed = ids.tolist()
    unique = set(listed)
    if len(unique) < len(listed):
        seen: set[str] = set()
        twice = next(x for x in listed if x in seen or seen.add(x))  # type: ignore[func-returns-value]
        places = np.flatnonzero(ids == twice)
        raise InputError(
            f"{name}: {twice!r} stands at positions {places[0]} and {places[1]} "
            f"({len(listed) - len(unique)} ids too many). Ids must be unique: a search answers with them."
        )
    for reserved in ("", NO_MATCH):
        if reserved in unique:
            raise InputError(
                f"{name}: {reserved!r} at position {listed.index(reserved)} cannot be an id; it is how a search says "
                "that it found nothing."
            )
    return ids


def refuse_repeated(ids: np.ndarray, dead: np.ndarray, where: str, others: str) -> None:
    """Raise InputError where an id of a file stands twice among those that are no tombstones.

    They are hashed block by block, for the file may be larger than memory.
    """
    alive = np.flatnonzero(~dead)
    hashes = np.empty(len(alive), dtype=np.uint64)
    for start in range(0, len(alive), BLOCK):
        piece = slice(start, start + BLOCK)
        hashes[piece] = pd.util.hash_array(ids[alive[piece]].astype(object), categorize=False)
    ordered = np.sort(hashes)
    common = ordered[1:][ordered[1:] == ordered[:-1]]
    suspects = ids[alive[np.isin(hashes, common)]].tolist() if len(common) else []
    if len(set(suspects)) < len(suspects):
        twice = next(name for name in suspects if suspects.count(name) > 1)
        raise InputError(f"{where}: id {twice!r} stands there twice.{others}")


def check_count(values: np.ndarray, count: int, name: str) -> None:
    """Raise InputError unless there is one value for each of `count` embeddings."""
    if len(values) != count:
        raise InputError(f"{name} has {len(values)} values but there are {count} embeddings; each needs exactly one.")


def read_new_labels(values: Any, name: str, count: int) -> np.ndarray | None:
    """Return labels as (n,) unicode, or None for None; InputError where there is not one for each of `count` items."""
    if values is None:
        return None
    labels = read_labels(values, name).astype(str)
    check_count(labels, count, name)
    return labels
