"""Which modalities are observed: drawn with a seed, told by subset, written to a file that others can use.

N items, M modalities.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metrixkit.errors import InputError, did_you_mean
from metrixkit.files import write_text

Side = Literal["query", "gallery", "both"]
SIDES: tuple[str, ...] = get_args(Side)
_OWN = ("side", "seed", "rate", "id")


@dataclass(frozen=True, eq=False)
class Mask:
    """What is observed of some items.

    Attributes:
        ids: N item ids, unique.
        modalities: M names, the order of the columns of `present`.
        present: (N, M) bool, true where observed.
        side: Which side of a retrieval it holds for; the other one keeps what it has.
        subset: The modalities of a mask that is the same for all items, joined by "+"; "" for others.
        rate: Share of modalities that were asked to be missing, in [0, 1]; NaN for a subset.
        seed: That it was drawn with; -1 for a subset.

    Raises:
        InputError: Shapes that do not fit, ids or modalities given twice, an unknown side.
    """

    ids: tuple[str, ...]
    modalities: tuple[str, ...]
    present: NDArray[np.bool_]
    side: Side = "both"
    subset: str = ""
    rate: float = float("nan")
    seed: int = -1

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.present.shape != (len(self.ids), len(self.modalities)) or self.present.dtype != np.bool_:
            raise InputError(
                f"mask: present is {self.present.dtype} {self.present.shape}, expected bool "
                f"({len(self.ids)}, {len(self.modalities)}): items x modalities."
            )
        if self.side not in SIDES:
            raise InputError(f"mask: side={self.side!r}.{did_you_mean(self.side, SIDES)}")
        for what, names in (("id", self.ids), ("modality", self.modalities)):
            if len(set(names)) < len(names):
                raise InputError(f"mask: the {what} {_twice(names)!r} stands there twice.")

    @property
    def missing(self) -> float:
        """Share of the cells that are not observed."""
        return float(1 - self.present.mean()) if self.present.size else 0.0

    def of(self, ids: Sequence[str], modalities: Sequence[str]) -> NDArray[np.bool_]:
        """Return (len(ids), len(modalities)) bool: the mask in another order of items and modalities.

        Raises:
            InputError: An item or modality that the mask does not speak of.
        """
        for name in modalities:
            if name not in self.modalities:
                raise InputError(f"the mask says nothing of the modality {name!r}; it has {list(self.modalities)}.")
        rows = {key: row for row, key in enumerate(self.ids)}
        for key in ids:
            if key not in rows:
                raise InputError(
                    f"the mask (side {self.side}, rate {self.rate:g}, seed {self.seed}) says nothing of the item "
                    f"{key!r}; it has {len(self.ids):,} others. Was it made for another split?"
                )
        columns = [self.modalities.index(name) for name in modalities]
        return self.present[np.array([rows[key] for key in ids], dtype=np.int64)][:, columns]


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Return all 2^M - 1 subsets of modalities that are not empty, small ones first."""
    names = tuple(modalities)
    return [s for size in range(1, len(names) + 1) for s in itertools.combinations(names, size)]


def subset_masks(ids: Sequence[str], modalities: Sequence[str], side: Side = "both") -> list[Mask]:
    """Return one mask for each subset: the same modalities are there for all items (the published protocol)."""
    names = tuple(modalities)
    return [
        Mask(tuple(ids), names, np.tile([name in kept for name in names], (len(ids), 1)), side, "+".join(kept))
        for kept in subsets(names)
    ]


def draw_mask(
    ids: Sequence[str],
    modalities: Sequence[str],
    rate: float,
    seed: int,
    side: Side = "both",
    available: NDArray[np.bool_] | None = None,
    keep_one: bool = True,
) -> Mask:
    """Draw which modalities are missing, each of each item by itself with probability `rate`.

    What is drawn for an item depends on seed, id and modality only, not on the others: a part of a data set gets the
    same mask as within the whole, and what is missing at a rate is missing at all higher rates of that seed.

    Args:
        ids: N unique ids.
        modalities: M names.
        rate: Probability in [0, 1].
        seed: Of the drawing, >= 0.
        side: See :class:`Mask`.
        available: (N, M) bool, what the items have at all; None for everything.
        keep_one: Of an item that would lose all, the modality that is drawn last stays. At rate 1 each item thus keeps
            exactly one, evenly chosen, and the share missing is (M - 1) / M.

    Raises:
        InputError: A rate outside [0, 1], a negative seed, or an item without any available modality while `keep_one`.
    """
    if not 0 <= rate <= 1 or seed < 0:
        raise InputError(f"mask: rate={rate}, seed={seed}; expected a rate in [0, 1] and a seed >= 0.")
    names = tuple(modalities)
    there = np.ones((len(ids), len(names)), dtype=bool) if available is None else np.asarray(available, dtype=bool)
    places = np.array([[_uniform(seed, key, name) for name in names] for key in ids]).reshape(len(ids), len(names))
    present = there & (places >= rate)
    if keep_one:
        check_observed(there, ids)
        last = np.where(there, places, -1.0).argmax(axis=1)
        empty = ~present.any(axis=1)
        present[empty, last[empty]] = True
    return Mask(tuple(ids), names, present, side, "", float(rate), int(seed))


def rate_masks(
    ids: Sequence[str],
    modalities: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    sides: Sequence[Side] = ("query", "gallery", "both"),
    available: NDArray[np.bool_] | None = None,
    keep_one: bool = True,
) -> list[Mask]:
    """Return :func:`draw_mask` for all rates, seeds and sides; the sides of one rate and seed share their draw."""
    return [
        draw_mask(ids, modalities, rate, seed, side, available, keep_one)
        for side in sides
        for rate in rates
        for seed in seeds
    ]


def check_observed(present: NDArray[np.bool_], ids: Sequence[str]) -> None:
    """Raise InputError where an item has no modality at all, naming the first."""
    empty = np.flatnonzero(~present.any(axis=1))
    if len(empty):
        raise InputError(
            f"of the item {ids[empty[0]]!r} no modality is observed ({len(empty):,} such items of {len(ids):,}); "
            "nothing can be said of it. Leave such items out, or allow it with keep_one=False and allow_empty=True."
        )


def write_masks(masks: Sequence[Mask], path: str | os.PathLike[str]) -> Path:
    """Write masks as one CSV: columns side, seed, rate, id, and 0 or 1 for each modality.

    Raises:
        InputError: None given, masks of different modalities, or a modality that is called like another column.
    """
    if not masks:
        raise InputError("no masks to write.")
    names = masks[0].modalities
    if any(mask.modalities != names for mask in masks) or set(names) & set(_OWN):
        raise InputError(f"masks of one file share their modalities, none called {', '.join(_OWN)}; got {names}.")
    tables = [
        pd.DataFrame(
            {"side": mask.side, "seed": mask.seed, "rate": mask.rate, "id": list(mask.ids)}
            | {name: mask.present[:, column].astype(int) for column, name in enumerate(names)}
        )
        for mask in masks
    ]
    text = io.StringIO()
    pd.concat(tables).to_csv(text, index=False)
    out = Path(path)
    write_text(out, text.getvalue())
    return out


def read_masks(path: str | os.PathLike[str]) -> list[Mask]:
    """Read what :func:`write_masks` wrote, or any CSV with ``id`` and a column of 0 and 1 for each modality.

    The columns side, seed and rate may be absent: then it is one mask for both sides.

    Raises:
        InputError: No such file, no CSV, no ids or modalities, a cell that is neither 0 nor 1.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"the masks {path} do not exist.") from None
    except (ValueError, OSError) as error:
        raise InputError(f"the masks {path} are not readable as CSV ({error}).") from error
    names = tuple(str(name) for name in table.columns if name not in _OWN)
    if "id" not in table.columns or not names or table.empty:
        raise InputError(
            f"the masks {path} have the columns {list(table.columns)}; expected id, one for each modality, rows."
        )
    for name in names:
        odd = table[name][~table[name].isin(["0", "1"])]
        if len(odd):
            raise InputError(f"the masks {path}, row {odd.index[0] + 1}: {name} is {odd.iloc[0]!r}, expected 0 or 1.")
    keys = {"side": "both", "seed": "-1", "rate": "nan"}
    table = table.assign(**{key: usual for key, usual in keys.items() if key not in table.columns})
    found = []
    for (side, seed, rate), rows in table.groupby(list(keys), sort=False):
        try:
            numbers = float(str(rate) or "nan"), int(str(seed))
        except ValueError:
            raise InputError(f"the masks {path}: rate {rate!r} or seed {seed!r} is no number.") from None
        present = (rows[list(names)] == "1").to_numpy(dtype=bool)
        # A mask that is the same for every item and was not drawn is a subset.
        same = bool((present == present[0]).all()) and numbers[1] < 0
        subset = "+".join(n for n, kept in zip(names, present[0], strict=True) if kept) if same else ""
        found.append(Mask(tuple(rows["id"]), names, present, cast(Side, side), subset, *numbers))
    return found


def _uniform(seed: int, key: str, name: str) -> float:
    digest = hashlib.blake2b(f"{seed}\x1f{key}\x1f{name}".encode(), digest_size=8).digest()
    return float((int.from_bytes(digest, "big") >> 11) * 2.0**-53)


def _twice(names: Sequence[str]) -> str:
    return next(name for place, name in enumerate(names) if name in names[:place])
