"""Labels and ids: whatever they come in, they stay what they are, or are refused with their position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit.errors import InputError, did_you_mean, near_name
from metrixkit.labels import read_labels
from metrixkit.retrieval import RetrievalIndex, evaluate, utilization

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([2**64 - 1, 2**63 + 5, 7], dtype=np.uint64), [str(2**64 - 1), str(2**63 + 5), "7"]),
        ([2**64 - 1, -1], [str(2**64 - 1), "-1"]),
        ([2**63, 1], [str(2**63), "1"]),
        ([2**80, 1], [str(2**80), "1"]),
        (np.array([1, 2], dtype=np.uint64), [1, 2]),
        (np.array([2.0, 3.0]), [2, 3]),
        (np.array([2.0**63, 2.0**70, -(2.0**63)]), [str(2**63), str(2**70), str(-(2**63))]),
        (np.array([1.0, 2.0], dtype=object), [1, 2]),
        ([1, 2.0, np.int8(3)], [1, 2, 3]),
        (["007", "7", 7], ["007", "7", "7"]),
        (["a", b"b", np.bytes_(b"caf\xc3\xa9")], ["a", "b", NFC]),
        (np.array([b"a", b"caf\xc3\xa9"]), ["a", NFC]),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), [1, 2]),
        (torch.tensor([3, 4]), [3, 4]),
        (pd.Series(["a", "b"], index=[7, 7]), ["a", "b"]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Categorical(["b", "a"]), ["b", "a"]),
        (("000", "0"), ["000", "0"]),
        ([], []),
        ([True, False], [1, 0]),
    ],
)
def test_labels_stay_what_they_are(values: Any, wanted: list[Any]) -> None:
    assert read_labels(values, "labels").tolist() == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None], "position 1 is missing"),
        (["a", float("nan")], "position 1 is missing"),  # numpy makes the text "nan" of it
        (pd.Series(["a", pd.NA], dtype="string"), "position 1 is missing"),
        (np.ma.masked_array([1, 2], [True, False]), "position 0 is missing"),
        (np.array([1.0, np.nan]), "position 1 is missing"),
        ([1, 2.5], r"fractions or infinite values \(position 1: 2.5\)"),
        (np.array([1.0, np.inf]), "position 1: inf"),
        ([b"ok", b"caf\xe9"], "bytes at position 1 are no UTF-8"),
        (["a", "b\0"], "position 1 ends in a NUL"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "found datetime64"),
        ([["a"], ["b"]], "one dimension"),
        ([["a"], ["b", "c"]], "one dimension"),
        ({"a": 1}, "one dimension"),
        ([1, {}], "one dimension"),
    ],
)
def test_other_labels_are_refused_with_their_position(values: Any, message: str) -> None:
    with pytest.raises(InputError, match="^labels: .*" + message):
        read_labels(values, "labels")


def test_large_ids_answer_a_search_as_they_were_given() -> None:
    ids = np.array([2**64 - 1, 2**63 + 5, 7], dtype=np.uint64)
    index = RetrievalIndex.build(np.eye(3, dtype=np.float32), ids)
    assert index.search(np.eye(3, dtype=np.float32), 1)[1][:, 0].tolist() == [str(i) for i in ids.tolist()]


def test_large_labels_are_not_merged_by_evaluate() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    near = evaluate(rows, np.array([2**63 + 1, 2**63 + 1, 2**63 + 2, 2**63 + 2], dtype=np.uint64), recall_at=(1,))
    assert near["recall@1"] == 1.0
    apart = evaluate(rows, np.array([2**63 + 1, 2**63 + 2, 2**63 + 1, 2**63 + 2], dtype=np.uint64), recall_at=(1,))
    assert apart["recall@1"] == 0.0
    assert utilization(rows, rows) >= 0


def test_one_name_in_two_unicode_forms_is_said_and_not_taken_for_two() -> None:
    rows = np.eye(4)
    with pytest.raises(InputError, match=r"query_labels: 'cafe.*' and 'caf.*' are one name .*NFC"):
        evaluate(rows, [NFC, NFD, "b", "b"])
    with pytest.raises(InputError, match="query_ids and gallery_ids: .* two Unicode forms"):
        evaluate(rows[:2], ["a", "b"], rows, ["a", "b", "a", "b"], [NFC, "x"], [NFD, "x", "y", "z"])
    index = RetrievalIndex.build(rows, [NFD, "b", "c", "d"])
    with pytest.raises(InputError, match="another Unicode form"):
        index.remove([NFC])


def test_near_names() -> None:
    assert near_name("tset", ["train", "test"]) == " Did you mean 'test'?"
    assert near_name("q", ["train"]) == ""
    assert near_name("i0000x", [f"i{i:05}" for i in range(3_000)]).startswith(" Did you mean 'i0")
    assert did_you_mean("q", map(str, range(100))).endswith("and 60 more.")
