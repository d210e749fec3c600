"""What a verb is given: a model and images, or embeddings somebody made, with what is known about their rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metrixkit.data.arrays import read_matrix
from metrixkit.data.row_table import read_row_table
from metrixkit.embedding.images import EmbeddingModel, load_model
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.families import folders_trusted
from metrixkit.indexing.shards import own_device
from metrixkit.inference import embed_items
from metrixkit.source import read


@dataclass(frozen=True)
class Given:
    """Embeddings at hand.

    Attributes:
        items: N rows with id, label, path and split, all text; "" where nobody told.
        vectors: (N, d) numbers, perhaps a memory map.
        fingerprint: Of the model they come from, or None where that is not known.
        model: Where that model lies, or None.
        said: Lines for people on where the items come from.
    """

    items: pd.DataFrame
    vectors: np.ndarray
    fingerprint: str | None = None
    model: str | None = None
    said: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return list(self.items["id"])

    @property
    def labels(self) -> list[str] | None:
        """The items' labels, or None where none has one."""
        labels = list(self.items["label"])
        return labels if any(labels) else None


def from_files(
    array: str | None, table: str | None, label: str = "label", labelled: bool = True, separator: str | None = None
) -> Given:
    """Read embeddings and the table that names their rows.

    Where ``embeddings.json`` of ``metrixkit embed`` lies beside the array, the model is known by it.

    Args:
        array: File of (N, d) numbers, see :func:`~metrixkit.data.arrays.read_matrix`.
        table: N rows: `label`, and where there are id, path, split. None names rows by their number.
        label: The label column.
        labelled: Whether labels must be there.
        separator: Between the cells of a text table; None is found out.

    Raises:
        InputError: A file is absent or no such file, the lengths differ, a column is missing, or ids repeat.
    """
    if not array or (labelled and not table):
        raise InputError(
            "--embeddings E.npy and --table T.csv go together: row i of the table tells of row i of the array."
        )
    vectors = read_matrix(array, "--embeddings")
    count = len(vectors)
    if table:
        items = read_row_table(table, count, label, separator, labelled=labelled)
    else:
        blank = [""] * count
        items = pd.DataFrame({"id": [str(i) for i in range(count)], "label": blank, "path": blank, "split": blank})
    twice = items["id"][items["id"].duplicated()]
    if len(twice):
        raise InputError(f"{table}: id {twice.iloc[0]!r} stands there twice ({len(twice)} rows too many).")
    model, fingerprint = _made_by(Path(array), vectors.shape)
    return Given(items, vectors, fingerprint, model)


def from_images(source: Sequence[str], model: EmbeddingModel, where: str, batch_size: int = 128) -> Given:
    """Embed images at once, in memory.

    Args:
        source: As :func:`metrixkit.source.read` takes it; at least one word.
        model: What embeds them.
        where: Where it was loaded from.
        batch_size: Images a forward call.
    """
    found = read(source, where)
    vectors = embed_items(model.encoder, found.items, model.transform, batch_size=batch_size).numpy()
    return Given(found.items, vectors, model.fingerprint, where, found.said)


def open_model(where: str | None, remembered: object, folder: str) -> tuple[EmbeddingModel | PairEmbeddingModel, str]:
    """Load the model named on the command line, or else the one an index was built with.

    Raises:
        InputError: Neither is known, or the remembered one is gone.
    """
    name = where or remembered
    if name is None:
        raise InputError(f"{folder} does not know its model; name it by --model RUN, or give --embeddings.")
    if not isinstance(name, str):
        raise InputError(f"{folder} says that its model is {name!r}, which is no name; name it by --model RUN.")
    if where is None and not Path(name).exists() and not folders_trusted():
        raise InputError(
            f"the model that {folder} was built with is not at {name}. If it moved, name it by --model; a name that "
            "an index remembers is not asked of the hub, unless you say --trust."
        )
    try:
        return load_model(name, own_device()), name
    except InputError as error:
        if where is not None:
            raise
        raise InputError(f"the model that {folder} was built with: {error} If it moved, name it by --model.") from error


def refuse_other_model(known: str | None, theirs: str | None, folder: str) -> str:
    """Return a sentence where nobody can tell whether vectors and index come from one model, else "".

    Args:
        known: Fingerprint of the index's model, or None.
        theirs: Fingerprint of the vectors' model, or None.
        folder: The index, for messages.

    Raises:
        InputError: They come from two.
    """
    if known is None or theirs is None:
        which = "the index was built from" if known is None else "the embeddings come from"
        return f"note: which model {which} is not known, so it was not checked"
    if known != theirs:
        raise InputError(
            f"these vectors come from another model (fingerprint {theirs[:12]}) than {folder} "
            f"({known[:12]}); their scores would mean nothing. Take the index's own model, or build a new index."
        )
    return ""


def _made_by(array: Path, shape: tuple[int, ...]) -> tuple[str | None, str | None]:
    told = array.with_name("embeddings.json")
    if array.name != "embeddings.npy" or not told.is_file():
        return None, None
    try:
        found = json.loads(told.read_text(encoding="utf-8"))
        if found["shape"] == list(shape):
            return str(found["model"]), str(found["fingerprint"])
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(
        f"{told} does not belong to {array.name} beside it (shape {tuple(shape)}). Embed again, or delete it if the "
        "array comes from elsewhere."
    )
