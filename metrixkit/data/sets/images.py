"""Images of one's own, without code: a folder per class, or a table of paths and labels."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from metrixkit.data.files import OnMissing, settle_missing
from metrixkit.data.held_out import share_of_each_class
from metrixkit.data.listed_paths import locate_listed
from metrixkit.data.manifest import Manifest, split_classes
from metrixkit.data.tables import SPLIT_WORDS, column, read_table, split_cells
from metrixkit.errors import InputError, did_you_mean

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
)


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
        items, root, where = self._from_folders() if self.table is None else self._from_table()
        if self.similar_names == "error":
            _refuse_similar(sorted(set(items["label"])), where)
        items, absent = settle_missing(items, self.on_missing, self.verify, where, root)
        if "split" in items.columns:
            if self.test_share is not None:
                raise InputError(
                    f"{where}: data.test_share divides classes, and the splits are given here; leave it out."
                )
            split_name = "given" if self.split == "classes" else "given-known-classes"
        else:
            items["split"], split_name = self._divide(items, where)
        lonely = {"query": "gallery", "gallery": "query"}
        for split, other in lonely.items():
            if split in set(items["split"]) and other not in set(items["split"]):
                raise InputError(f"{where}: there is a split {split!r} and none called {other!r}; they come together.")
        searches = {"test": ("train", "validation")} if self.split == "photos" else {}
        return Manifest("images", split_name, items, root, len(absent), absent=absent, searches=searches)

    def _divide(self, items: pd.DataFrame, where: str) -> tuple[list[str], str]:
        """Return the split of each item where none is given, and what that division is called."""
        ids, labels = items["id"].tolist(), items["label"].tolist()
        if self.test_share == 0:
            return ["train"] * len(items), "all-train"
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

    def _from_folders(self) -> tuple[pd.DataFrame, Path, str]:
        root = Path(str(self.root)).expanduser()
        where = f"images below {root}"
        if not root.is_dir():
            raise InputError(f"images: data.root={self.root} is not a folder (looked at {root.absolute()}).")
        found = image_files(root)
        below = [path.relative_to(root).parts for path in found]
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
        rows = []
        for path in found:
            parts = path.relative_to(root).parts
            folders = parts[1:-1] if splits else parts[:-1]
            if not folders:
                raise InputError(
                    f"{where}: {path} lies in no class folder; expected one folder per class, such as "
                    f"{root / 'NAME' / path.name}, or a table (data.table)."
                )
            rows.append(("/".join(parts), str(path), "/".join(folders), SPLIT_WORDS.get(parts[0].lower(), "")))
        if not rows:
            raise InputError(f"{where}: empty, no file ends in {', '.join(sorted(SUFFIXES))}.")
        items = pd.DataFrame(rows, columns=["id", "path", "label", "split"], dtype="str")
        return (items if splits else items.drop(columns="split")), root, where

    def _from_table(self) -> tuple[pd.DataFrame, Path, str]:
        given = Path(str(self.table)).expanduser()
        below = Path(self.root).expanduser() / given if self.root is not None else given
        file = given if given.is_file() or not below.is_file() else below
        root = Path(self.root).expanduser() if self.root is not None else file.parent
        table, names = read_table(file, self.separator), self.columns
        paths = column(table, names.path, file, "data.columns.path")
        columns = {
            "id": paths if names.id is None else column(table, names.id, file, "data.columns.id"),
            "path": locate_listed(root, paths),
            "label": column(table, names.label, file, "data.columns.label"),
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
        return items, root, str(file)


def image_files(root: Path) -> list[Path]:
    """Return the image files below a folder, hidden ones left out, links to folders followed."""
    found, visited = [], set()
    # Links are followed, since photographs often lie elsewhere; a link to a folder above would never end.
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(name for name in below if not _hidden(name))
        names = sorted(name for name in files if not _hidden(name) and Path(name).suffix.lower() in SUFFIXES)
        found += [Path(folder) / name for name in names]
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse_similar(labels: list[str], where: str) -> None:
    seen: dict[str, str] = {}
    for label in labels:
        plain = " ".join(unicodedata.normalize("NFC", label).casefold().split())
        # Blanks beside a slash are blanks at the edge of a folder's name.
        plain = "/".join(part.strip() for part in plain.split("/"))
        other = seen.setdefault(plain, label)
        if other != label:
            raise InputError(
                f"{where}: the classes {other!r} and {label!r} bear one name in two spellings. Rename one, or, if they "
                "are two classes, set data.similar_names=keep."
            )
