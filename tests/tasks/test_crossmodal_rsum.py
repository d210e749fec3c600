"""rsum is the field's: recalls at 1, 5 and 10, whatever else is asked for."""

from __future__ import annotations

import pytest
import torch

from metrixkit.retrieval import crossmodal
from metrixkit.tasks.crossmodal import with_rsum


@pytest.mark.parametrize(("asked", "counted"), [((1, 5, 10, 50), (1, 5, 10)), ((1, 20), (1,)), ((2, 3), (2, 3))])
def test_rsum(asked: tuple[int, ...], counted: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    found = crossmodal(similarity=torch.randn(60, 60, generator=draw), recall_at=asked)
    total = sum(found[f"{way}/recall@{k}"] for way in ("t2v", "v2t") for k in counted)
    told = with_rsum(found, asked)
    assert told["rsum"] == pytest.approx(total)
    assert f"at {', '.join(map(str, counted))}:" in told.definitions["rsum"]
