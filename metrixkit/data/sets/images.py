"""Images of one's own, without code: a folder per class, or a table of paths and labels."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.held_out import share_of_each_class
from metrixkit.data.image_files import SUFFIXES, scan_images, told
from metrixkit.data.listed_paths import locate_listed
from metrixkit.data.manifest import Manifest, split_classes
from metrixkit.data.tables import SPLIT_WORDS, column, read_table, split_cells
from metrixkit.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns.

    Attributes:
        path: Image file, absolute or relative to the root.
        label: Class name.
        split: train, val, test, query or gallery; None takes the column ``split`` where there is one.
        id: Name of the item; None takes the path.
    """

    path: str = "path"
    label: str = "label"
    split: str | None = None
    id: str | None = None


_DEFAULT_COLUMNS = Columns()
DIVIDED = ("classes", "photos")


@dataclass(frozen=True)
class Found:
    """Images as a folder or a table sorts them.

    Attributes:
        items: Rows with id, path, label and, only where it is given, split; all text.
        root: Where they were read from.
        where: The same in words, for messages.
        passed_over: Names beside the images that were left out, by reason; see ``metrixkit.data.image_files``.
        absent: Images that are missing or broken and were left out, a line each.
    """

    items: pd.DataFrame
    root: Path
    where: str
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


class Images:
    """A folder of images, or a table that lists some.

    Without a table every folder that holds images is a class, and its path below the root is its label: ``a/x`` and
    ``b/x`` are two classes. If the folders directly below the root are called train, val, test, query or gallery they
    are the splits, and labels begin below them. With a table, each row is an item. Where no split is given, classes
    are divided as wholes with a seed, so that the test classes are never trained on; or, with ``split="photos"``, the
    photos of each class, which is what a shop searches: new photos of things that it knows.

    Args:
        root: The folder; with a table, where relative paths start (None is the folder of the table).
        table: ``.csv``, ``.tsv``, ``.parquet`` or ``.jsonl``, as given or below `root`.
        columns: Which columns hold what.
        separator: Between the cells of a text table; None is found out.
        split: What is divided where no split is given. "classes": the test classes are new, and their items search one
            another. "photos": a share of each class's photos are the test split and search all others, those of
            training and validation; every class keeps one there, and one of a single photo is only searched. Where
            splits are given, "photos" lets the given test items search the given training items.
        test_share: Share of the classes (or photos) for the test split, in [0, 1); None is one half of the classes, one
            fifth of the photos; 0 trains on everything, and then nothing is judged. Only where no split is given.
        seed: Seed of that division.
        similar_names: Two labels that differ only in case, blanks or Unicode form are mostly one class spelt twice:
            "error" refuses them, "keep" takes them for two classes.
        on_missing: "error" refuses missing files, "drop" leaves the items out and counts them.
        verify: Whether to decode every file while reading, so that broken ones count as missing.
    """

    def __init__(
        self,
        root: str | None = None,
        table: str | None = None,
        columns: Columns = _DEFAULT_COLUMNS,
        separator: str | None = None,
        split: Literal["classes", "photos"] = "classes",
        test_share: float | None = None,
        seed: int = 0,
        similar_names: Literal["error", "keep"] = "error",
        on_missing: OnMissing = "error",
        verify: bool = False,
    ) -> None:
        if root is None and table is None:
            raise InputError("images: name a folder (data.root=FOLDER), a table (data.table=FILE.csv), or both.")
        if table is None and (columns != _DEFAULT_COLUMNS or separator is not None):
            raise InputError("images: data.columns and data.separator belong to a table; name it with data.table=FILE.")
        if split not in DIVIDED:
            raise InputError(f"images: data.split={split!r} is not known.{did_you_mean(str(split), DIVIDED)}")
        if test_share is not None and not 0.0 <= test_share < 1.0:
            raise InputError(
                f"images: data.test_share must lie between 0 (trains on everything) and 1 (excluded), not {test_share}."
            )
        self.root, self.table, self.columns, self.separator = root, table, columns, separator
        self.split, self.test_share, self.seed, self.similar_names = split, test_share, seed, similar_names
        self.on_missing, self.verify = on_missing, verify

    def read(self) -> Manifest:
        """Return the manifest; labels and ids are strings, ids are the paths below the root or as in the table.

        Raises:
            InputError: Nothing is found, a column is wrong, a cell is empty, ids repeat, two labels are one name in
                two spellings, a split is unknown, classes cannot be divided, or files are missing.
        """
        found = self.find()
        if "split" in found.items.columns:
            self.refuse_share(found)
            items, split_name = found.items, "given" if self.split == "classes" else "given-known-classes"
        else:
            items, split_name = self.divide(found)
        lonely = {"query": "gallery", "gallery": "query"}
        for split, other in lonely.items():
            if split in set(items["split"]) and other not in set(items["split"]):
                raise InputError(
                    f"{found.where}: there is a split {split!r} and none called {other!r}; they come together."
                )
        return Manifest(
            "images",
            split_name,
            items,
            found.root,
            len(found.absent),
            absent=found.absent,
            searches=self.searches,
            passed_over=found.passed_over,
        )

    @property
    def searches(self) -> dict[str, tuple[str, ...]]:
        """Splits that search other splits than themselves: with ``split="photos"`` the test photos."""
        return {"test": ("train", "validation")} if self.split == "photos" else {}

    def find(self, loose: bool = False) -> Found:
        """Return the images as they are sorted, classes not divided where no split is given.

        Args:
            loose: Also take images that nobody gave a label (they lie in no class folder, or in a table without one);
                theirs is "".

        Raises:
            InputError: As :meth:`read`, but for what is said of splits.
        """
        found = self._from_folders(loose) if self.table is None else self._from_table(loose)
        if self.similar_names == "error":
            _refuse_similar(sorted(set(found.items["label"])), found.where)
        items, absent = settle_missing(found.items, self.on_missing, self.verify, found.where, found.root)
        return replace(found, items=items, absent=absent)

    def refuse_share(self, found: Found) -> None:
        """Raise InputError where a share is to be divided though splits are given."""
        if self.test_share is not None:
            raise InputError(
                f"{found.where}: data.test_share divides classes, and the splits are given here; leave it out."
            )

    def divide(self, found: Found) -> tuple[pd.DataFrame, str]:
        """Return the items with a column ``split`` where none is given, and what that division is called.

        Raises:
            InputError: The classes cannot be divided so.
        """
        splits, name = self._splits(found.items["id"].tolist(), found.items["label"].tolist(), found.where)
        return found.items.assign(split=splits), name

    def _splits(self, ids: list[str], labels: list[str], where: str) -> tuple[list[str], str]:
        if self.test_share == 0:
            return ["train"] * len(ids), "all-train"
        if self.split == "classes":
            share = 0.5 if self.test_share is None else self.test_share
            chosen = split_classes(labels, share, self.seed, where=where)
            splits = ["test" if label in chosen else "train" for label in labels]
            return splits, f"zero-shot-share{share:g}-seed{self.seed}"
        share = 0.2 if self.test_share is None else self.test_share
        test = share_of_each_class(ids, labels, share, self.seed)
        if len({label for identity, label in zip(ids, labels, strict=True) if identity in test}) < 2:
            raise InputError(
                f"{where}: data.split=photos holds out photos of each class, and fewer than two classes have two. Add "
                "photos, or set data.test_share=0 to train on everything without a test."
            )
        splits = ["test" if identity in test else "train" for identity in ids]
        return splits, f"known-classes-share{share:g}-seed{self.seed}"

    def _from_folders(self, loose: bool) -> Found:
        root = Path(str(self.root)).expanduser()
        where = f"images below {root}"
        if not root.is_dir():
            raise InputError(f"images: data.root={self.root} is not a folder (looked at {root.absolute()}).")
        scan = scan_images(root)
        below = [name.split("/") for name in scan.files]
        # Folders without an image in them (notes, annotations) say nothing of how images are sorted.
        top = sorted({parts[0] for parts in below if len(parts) > 1})
        named = [name for name in top if name.lower() in SPLIT_WORDS]
        splits = len(top) > 1 and named == top
        deep = any(len(parts) > 2 for parts in below if parts[0] in named)
        if len(named) > 1 and deep and not splits:
            odd = next(name for name in top if name not in named)
            raise InputError(
                f"{where}: the folders {', '.join(named)} look like splits, and {odd!r} beside them does not, though "
                "it holds images. Move it elsewhere, or, if all of them are classes, name them by a table (data.table)."
            )
        outside = [name for name, parts in zip(scan.files, below, strict=True) if len(parts) < (3 if splits else 2)]
        if outside and not loose:
            raise InputError(
                f"{where}: {root / outside[0]} lies in no class folder ({len(outside):,} of {len(below):,} images do "
                f"not); expected one folder per class, such as {root / 'NAME' / outside[0]}, or a table (data.table)."
            )
        rows = []
        for name, parts in zip(scan.files, below, strict=True):
            folders = parts[1:-1] if splits else parts[:-1]
            split = SPLIT_WORDS[parts[0].lower()] if splits and len(parts) > 1 else ""
            rows.append((name, str(root / name), "/".join(folders), split))
        if not rows:
            line = told(scan.passed_over)
            raise InputError(
                f"no images in {root}: empty, no file ends in {', '.join(sorted(SUFFIXES))}"
                + (f"; {line}." if line else ".")
            )
        items = pd.DataFrame(rows, columns=["id", "path", "label", "split"], dtype="str")
        passed = {reason: tuple(names) for reason, names in scan.passed_over.items()}
        return Found(items if splits else items.drop(columns="split"), root, where, passed)

    def _from_table(self, loose: bool) -> Found:
        given = Path(str(self.table)).expanduser()
        below = Path(self.root).expanduser() / given if self.root is not None else given
        file = given if given.is_file() or not below.is_file() else below
        root = Path(self.root).expanduser() if self.root is not None else file.parent
        table, names = read_table(file, self.separator), self.columns
        paths = column(table, names.path, file, "data.columns.path")
        # A table without labels can be embedded, though nothing can be trained on it.
        unlabelled = loose and names.label == _DEFAULT_COLUMNS.label and names.label not in table.columns
        columns = {
            "id": paths if names.id is None else column(table, names.id, file, "data.columns.id"),
            "path": locate_listed(root, paths),
            "label": [""] * len(paths) if unlabelled else column(table, names.label, file, "data.columns.label"),
        }
        if names.split is not None or "split" in table.columns:
            columns["split"] = split_cells(column(table, names.split or "split", file, "data.columns.split"), file)
        items = pd.DataFrame(columns, dtype="str")
        twice = items["id"].duplicated()
        if twice.any():
            row = int(twice.to_numpy().argmax())
            raise InputError(
                f"{file}, row {row + 1}: {items['id'][row]!r} stands there for the second time "
                f"({int(twice.sum())} such rows). "
                + (
                    "A path names one item; give ids with data.columns.id."
                    if names.id is None
                    else "Ids must be unique."
                )
            )
        return Found(items, root, str(file))


def _refuse_similar(labels: list[str], where: str) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        plain = " ".join(unicodedata.normalize("NFC", label).casefold().split())
        # Blanks beside a slash are blanks at the edge of a folder's name.
        plain = "/".join(part.strip() for part in plain.split("/"))
        other = seen.setdefault(plain, label)
        if other != label:
            alike = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", label)
            shown = (
                f"{other!r} and {label!r} (they look alike and differ in Unicode form: {other!a}, {label!a})"
                if alike
                else f"{other!r} and {label!r}"
            )
            raise InputError(
                f"{where}: the classes {shown} bear one name in two spellings. Rename one, or, if they are two "
                "classes, set data.similar_names=keep."
            )
