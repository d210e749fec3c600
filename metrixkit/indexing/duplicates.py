"""Near-duplicates and doubtful labels as tables people can work through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit import config as configs
from metrixkit import saved_runs
from metrixkit.data.loader import default_workers
from metrixkit.embedding.images import load_image_model
from metrixkit.errors import InputError
from metrixkit.files import check_file, write_text
from metrixkit.indexing.inputs import Given
from metrixkit.inference import default_device, embed_items
from metrixkit.retrieval import doubtful_labels, near_duplicates
from metrixkit.source import make_decode, read_data, run_config
from metrixkit.spreadsheet import csv_text
from metrixkit.visible import one_line

SHOWN = 10
PER_ITEM = 10  # pairs of each item that are listed at least
LARGE = 0.5  # share of all items from which on a group is no group of copies
MOST_PAIRS = 50_000_000  # counted; beyond, it takes too long, and the embedding has collapsed


def from_run(run: str, overrides: Sequence[str] = ()) -> Given:
    """Embed all items of a run's data set, every split, with its model.

    Args:
        run: A run folder.
        overrides: ``key=value`` of its data, loader and evaluation settings.

    Raises:
        InputError: No run, or data that cannot be read.
    """
    if not (Path(run) / saved_runs.CONFIG).is_file():
        raise InputError(f"{run} is no run folder (it has no config.yaml). Give one, or --embeddings and --table.")
    with run_config(run, overrides) as config:
        embedder = load_image_model(run, default_device())
        items = read_data(config).items
    workers = configs.settings(config, "loader").workers
    vectors = embed_items(
        embedder.encoder,
        items,
        embedder.transform,
        batch_size=configs.settings(config, "evaluation").batch_size,
        workers=default_workers() if workers is None else workers,
        decode=make_decode(config, embedder.encoder.image_size),
    )
    return Given(items, vectors.numpy(), embedder.fingerprint, run)


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates as tables.

    Attributes:
        pairs: A row a pair, the largest groups first: group (numbered from 1), size (items of the group), score, and of
            both id, label, split, path; same_label and same_split (text "yes", "no", or "" where nobody told). Of each
            item the nearest `PER_ITEM` are listed at least.
        groups: A row an item that has a near-duplicate: group, size, id, label, split, path. All of them.
        total: Pairs there are.
    """

    pairs: pd.DataFrame
    groups: pd.DataFrame
    total: int


def duplicate_pairs(given: Given, threshold: float) -> Duplicates:
    """Return near-duplicates.

    Args:
        given: Embeddings with id, label, path and split.
        threshold: Cosine from which two items are taken for one.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.near_duplicates.near_duplicates`.
    """
    found = near_duplicates(given.vectors, threshold, given.ids, most=MOST_PAIRS, per_item=PER_ITEM)
    sizes = np.bincount(found.group, minlength=len(found.group))[found.group]
    order = np.lexsort((-found.scores, found.group[found.first], -sizes[found.first]))
    first, second = found.first[order], found.second[order]
    table: dict[str, object] = {
        "group": pd.factorize(found.group[first])[0] + 1,
        "size": sizes[first],
        "score": found.scores[order].round(6),
    }
    for name in ("label", "split"):
        values = given.items[name].to_numpy()
        known = (values[first] != "") & (values[second] != "")
        table[f"same_{name}"] = np.where(known, np.where(values[first] == values[second], "yes", "no"), "")
    for name in ("id", "label", "split", "path"):
        for which, rows in (("a", first), ("b", second)):
            table[f"{name}_{which}"] = given.items[name].to_numpy()[rows]
    members = np.flatnonzero(sizes > 1)
    members = members[np.lexsort((members, found.group[members], -sizes[members]))]
    groups = pd.DataFrame({"group": pd.factorize(found.group[members])[0] + 1, "size": sizes[members]})
    for name in ("id", "label", "split", "path"):
        groups[name] = given.items[name].to_numpy()[members]
    return Duplicates(pd.DataFrame(table), groups, found.total)


def suspects(given: Given, k: int) -> tuple[pd.DataFrame, int]:
    """Return items whose k nearest all bear another label, the most suspicious first.

    Returns:
        A row an item: id, label, proposed (the label most of its neighbours bear), votes (how many of the k), score and
        nearest_id (of the nearest item), split, path; and how many items were not judged, for they are alone in their
        class.

    Raises:
        InputError: As :func:`~metrixkit.retrieval.doubtful_labels.doubtful_labels`.
    """
    found = doubtful_labels(given.vectors, given.items["label"].tolist(), k, given.ids)
    items = given.items
    table = pd.DataFrame(
        {
            "id": items["id"].to_numpy()[found.rows],
            "label": items["label"].to_numpy()[found.rows],
            "proposed": items["label"].to_numpy()[found.voted],
            "votes": found.votes,
            "score": found.scores.round(6),
            "nearest_id": items["id"].to_numpy()[found.nearest],
            "split": items["split"].to_numpy()[found.rows],
            "path": items["path"].to_numpy()[found.rows],
        }
    )
    return table, found.alone


def summary(found: Duplicates, doubtful: pd.DataFrame, alone: int, count: int, threshold: float, k: int) -> list[str]:
    """Return the lines for people: how many of what, the pairs across splits by split, and the first of each table."""
    pairs, groups = found.pairs, int(found.groups["group"].max()) if len(found.groups) else 0
    lines = [
        f"{found.total} pairs of {len(found.groups)} items (of {count}) at {threshold:g} or above, in {groups} groups"
    ]
    if groups and found.groups["size"].max() > LARGE * count and count > 2 * PER_ITEM:
        lines.append(
            f"  the largest group holds {found.groups['size'].max()} of {count} items: a threshold too low, or an "
            "embedding that has collapsed"
        )
    which = "them"
    if found.total > len(pairs):
        which = "those listed"
        lines.append(f"  {len(pairs)} pairs are listed, the {PER_ITEM} nearest of each item")
    across = pairs[pairs["same_split"] == "no"]
    met = across.apply(lambda row: " / ".join(sorted((row["split_a"], row["split_b"]))), axis=1)
    for splits, number in met.value_counts().items() if len(across) else []:
        lines.append(f"  {number} of {which} across {splits}")
    other = int((pairs["same_label"] == "no").sum())
    if other:
        lines.append(f"  {other} of {which} bear different labels")
    for row in pairs.head(SHOWN).itertuples():
        first, second = (f"{name} ({label})" for name, label in ((row.id_a, row.label_a), (row.id_b, row.label_b)))
        lines.append(f"  {row.score:.4f}  {one_line(first)}  {one_line(second)}")
    lines.append(f"{len(doubtful)} items whose {k} nearest all bear another label (perhaps wrong, perhaps hard)")
    for row in doubtful.head(SHOWN).itertuples():
        lines.append(f"  {one_line(row.id)}: {one_line(row.label)}, or {one_line(row.proposed)} ({row.votes} of {k})?")
    if alone:
        lines.append(f"{alone} items are alone in their class and were not judged")
    return lines


def write_tables(found: Duplicates, doubtful: pd.DataFrame, out: str | Path) -> tuple[Path, Path, Path]:
    """Write the pairs to `out`, and beside it the groups as ``NAME-groups.csv`` and the doubtful labels as
    ``NAME-labels.csv``; return the three paths.

    Raises:
        InputError: `out` does not end in .csv, or cannot be written.
    """
    path, groups, labels = table_files(out)
    for table, target in ((found.pairs, path), (found.groups, groups), (doubtful, labels)):
        write_text(target, csv_text(table), "--out")
    return path, groups, labels


def table_files(out: str | Path) -> tuple[Path, Path, Path]:
    """Return where the pairs, the groups and the doubtful labels are written, after a look whether they can be.

    Raises:
        InputError: `out` does not end in .csv, or one of them cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() != ".csv":
        raise InputError(f"--out {out}: expected a name that ends in .csv.")
    groups, labels = (path.with_name(f"{path.stem}-{what}.csv") for what in ("groups", "labels"))
    return check_file(path, "--out"), check_file(groups, "--out"), check_file(labels, "--out")
