"""Arrays, labels, ids, filters and k of every kind, in the public functions.

60 distinct calls in the fast suite, 600 in the slow one, of losses 15 and 150. The answer is an InputError, or right.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hostile_judge import many, sizes
from hypothesis import strategies as st

from metrixkit import losses
from metrixkit.errors import InputError
from metrixkit.retrieval import (
    RetrievalIndex,
    alignment,
    crossmodal,
    doubtful_labels,
    evaluate,
    near_duplicates,
    neighbours,
    nmi_ami,
    uniformity,
    utilization,
    verify,
)

COUNTS = {"fast": 60, "slow": 600}
BATCHES = {"fast": 15, "slow": 150}
DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int64",
    "uint8",
    "uint64",
    "bool",
    "complex64",
    "object",
    "str",
    "datetime64[s]",
]
FILLS = ["normal", "zeros", "ones", "nan", "inf", "one nan", "one zero row", "huge", "tiny", "equal rows", "twice"]
LAYOUTS = [
    "array",
    "fortran",
    "strided",
    "reversed",
    "tensor",
    "list",
    "tuple",
    "read-only",
    "masked",
    "broadcast",
    "scalar",
    "none",
]
LABELS = [
    "ints", "strings", "one class", "all apart", "floats", "nan", "bytes", "none in it", "uint64", "bool", "empty strings", "unicode forms",
    "too few", "too many", "matrix", "tensor", "list", "objects", "negative", "none", "categories", "huge floats",
]  # fmt: skip
KS = [0, 1, 2, 3, 10**9, -1, 2**63, 1.5, True, "2", None, np.int64(2), np.float32(2), math.nan, [1]]


def make_rows(rows: int, columns: int, dtype: str, fill: str, layout: str, seed: int) -> Any:
    draw = np.random.default_rng(seed)
    made = draw.normal(size=(rows, columns))
    if fill in ("zeros", "ones"):
        made[:] = float(fill == "ones")
    if fill in ("nan", "inf"):
        made[:] = float(fill)
    if fill == "one nan" and made.size:
        made.flat[0] = math.nan
    if fill == "one zero row" and rows:
        made[rows // 2] = 0
    if fill in ("huge", "tiny"):
        made *= 1e300 if fill == "huge" else 1e-300
    if fill == "equal rows":
        made[:] = made[:1]
    if fill == "twice":
        made = np.concatenate([made, made])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the cast, which is ours
        made = made.astype(dtype) if dtype != "datetime64[s]" else np.zeros(made.shape, dtype)
    if layout == "fortran":
        return np.asfortranarray(made)
    if layout == "strided":
        return np.repeat(made, 2, axis=0)[::2]
    if layout == "reversed":
        return made[::-1]
    if layout == "tensor":
        return torch.from_numpy(made) if made.dtype.kind in "fiub" and dtype != "uint64" else made
    if layout in ("list", "tuple"):
        return made.tolist() if layout == "list" else tuple(map(tuple, made.tolist()))
    if layout == "read-only":
        made.flags.writeable = False
    if layout == "masked":
        return np.ma.masked_array(made, mask=np.zeros(made.shape, bool))
    if layout == "broadcast" and made.size:
        return np.broadcast_to(made[:1], made.shape)
    if layout == "scalar":
        return 3.0
    return None if layout == "none" else made


def make_labels(kind: str, count: int) -> Any:
    base = [row % 2 for row in range(count)]
    return {
        "strings": [f"c{i}" for i in base],
        "one class": [0] * count,
        "all apart": list(range(count)),
        "floats": np.array(base) + 0.5,
        "nan": np.array([math.nan] * count),
        "bytes": np.array([b"a", b"b"])[base] if count else np.array([], "S1"),
        "none in it": [None, *base[1:]],
        "uint64": np.array(base, np.uint64) + np.uint64(2**63),
        "bool": np.array(base, bool),
        "empty strings": [""] * count,
        "unicode forms": ["é" if i else "e\u0301" for i in base],
        "too few": base[:-1],
        "too many": [*base, 0],
        "matrix": np.array([base, base]),
        "tensor": torch.tensor(base),
        "list": base,
        "objects": [object() for _ in base],
        "negative": [-i - 1 for i in base],
        "none": None,
        "categories": np.array(base, dtype=object),
        "huge floats": [1e300 if i else 1e301 for i in base],
    }.get(kind, np.array(base))


def plausible(values: Any) -> None:
    for name, value in dict(values).items():
        assert math.isfinite(value), (name, value)
        if name.startswith(("recall", "map", "r_precision")) or "/recall" in name:
            assert 0 <= value <= 1, (name, value)


def naive_recall(rows: Any, labels: Any) -> float:
    """Return recall@1 by a loop: pessimistic, a query never in its own gallery."""
    made = torch.as_tensor(np.ascontiguousarray(rows) if isinstance(rows, np.ndarray) else rows).double().numpy()
    made = made / np.abs(made).max(axis=1, keepdims=True)
    made = made / np.linalg.norm(made, axis=1, keepdims=True)
    scores = made @ made.T
    names = [str(label) for label in np.asarray(labels).tolist()]
    hits = []
    for query in range(len(made)):
        others = [other for other in range(len(made)) if other != query]
        right = [scores[query, other] for other in others if names[other] == names[query]]
        wrong = [scores[query, other] for other in others if names[other] != names[query]]
        if right:
            hits.append(not wrong or max(right) > max(wrong) + 1e-12)
    return float(np.mean(hits))


def call(what: str, rows: Any, other: Any, labels: Any, k: Any, count: int) -> None:
    """Call one public function; what it returns must be right as far as a few lines can tell."""
    if what == "evaluate":
        found = evaluate(rows, labels, recall_at=(1, 2))
        plausible(found)
        counts = found.counts
        assert counts["queries"] == count == counts["evaluated"] + counts["without_relevant"]
        assert found["recall@1"] == pytest.approx(naive_recall(rows, labels))
    elif what == "evaluate at k":
        plausible(evaluate(rows, labels, recall_at=k if isinstance(k, list) else (k,)))
    elif what == "evaluate gallery":
        plausible(evaluate(rows, labels, other, labels, query_ids=labels))
    elif what == "utilization":
        assert -1e-9 <= utilization(rows, other) <= 4 + 1e-9
    elif what == "alignment":
        assert -1e-9 <= alignment(rows, labels) <= 4 + 1e-9
    elif what == "uniformity":
        assert -8 - 1e-9 <= uniformity(rows) <= 1e-9
    elif what == "neighbours":
        neighbours(rows, k=k)
    elif what == "near duplicates":
        near_duplicates(rows, 0.9, ids=labels)
    elif what == "doubtful labels":
        doubtful_labels(rows, labels, k=k)
    elif what == "verify":
        verify(rows, labels)
    elif what == "nmi":
        plausible(nmi_ami(rows, labels))
    elif what == "crossmodal":
        plausible({n: v for n, v in crossmodal(rows, other, video_of_text=labels).items()})
    elif what == "crossmodal scores":
        plausible({n: v for n, v in crossmodal(similarity=rows, recall_at=k if isinstance(k, list) else (k,)).items()})
    elif what == "index":
        index = RetrievalIndex.build(rows, [f"i{row}" for row in range(count)])
        scores, ids = index.search(rows, k)
        assert scores.shape == ids.shape == (count, min(int(k), count))
        assert np.isfinite(np.asarray(scores, np.float64)).all()
    elif what == "index ids":
        index = RetrievalIndex.build(rows, labels, labels=labels)
        assert len(index) == count
        index.remove(labels)
        assert len(index) == 0
    elif what == "index filter":
        fixed = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
        index = RetrievalIndex.build(fixed, [f"i{row}" for row in range(6)])
        _, ids = index.search(fixed, 2, labels)
        assert ids.shape[0] == 6
    elif what == "index queries":
        index = RetrievalIndex.build(np.eye(3, dtype=np.float32), ["a", "b", "c"])
        scores, _ = index.search(rows, 2)
        assert scores.shape == (count, 2)
    else:
        built: Callable[..., Any] = getattr(losses, what)
        loss = built(num_classes=2, dim=rows.shape[1]) if "Proxy" in what else built()
        given = rows.clone().requires_grad_() if rows.dtype.is_floating_point else rows
        value = loss(given, labels)
        if not bool(torch.isfinite(rows).all()):
            assert not bool(torch.isfinite(value)), "a finite loss of rows that are not finite"


FUNCTIONS = [
    "evaluate", "evaluate", "evaluate at k", "evaluate gallery", "utilization", "alignment", "uniformity", "neighbours", "near duplicates",
    "doubtful labels", "verify", "nmi", "crossmodal", "crossmodal scores", "index", "index ids", "index filter", "index queries",
]  # fmt: skip
LOSSES = [
    "Contrastive",
    "MultiSimilarity",
    "BinomialDeviance",
    "LiftedStructure",
    "NCA",
    "Triplet",
    "ProxyAnchor",
    "ProxyNCA",
    "OfficialContrastive",
]
Case = tuple[str, int, int, str, str, str, str, int]


def cases(functions: list[str]) -> st.SearchStrategy[Case]:
    usual = st.sampled_from  # each part is usual half the time, or everything would be refused for one reason
    return st.tuples(
        usual(functions),
        usual([0, 1, 2, 4, 6, 6, 6]),
        usual([0, 1, 3, 3, 3]),
        usual(["float32"] * 6 + DTYPES),
        usual(["normal"] * 6 + FILLS),
        usual(["array"] * 6 + LAYOUTS),
        usual(["ints"] * 6 + LABELS),
        st.integers(0, len(KS) - 1),
    )


def refused(act: Callable[[], None]) -> None:
    """Let an answer or an InputError pass, nothing else."""
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore")
        act()


@sizes
def test_functions(size: str) -> None:
    def check(case: Case) -> None:
        what, rows, columns, dtype, fill, layout, kind, k = case
        made = make_rows(rows, columns, dtype, fill, layout, seed=1)
        other = make_rows(rows, columns, "float32", "normal", "array", seed=2)
        count = rows * 2 if fill == "twice" else rows
        refused(lambda: call(what, made, other, make_labels(kind, count), KS[k], count))

    many(cases(FUNCTIONS), COUNTS[size], check)


@sizes
def test_losses(size: str) -> None:
    def check(case: Case) -> None:
        what, rows, columns, dtype, fill, _, kind, _ = case
        made = make_rows(rows, columns, dtype, fill, "tensor", seed=1)
        count = rows * 2 if fill == "twice" else rows
        labels = make_labels(kind, count)
        labels = labels if isinstance(labels, torch.Tensor) or kind != "ints" else torch.as_tensor(labels)
        if isinstance(made, torch.Tensor):
            refused(lambda: call(what, made, None, labels, 1, count))

    many(cases(LOSSES), BATCHES[size], check)
