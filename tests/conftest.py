"""Fixtures every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# One thread a test: the suite runs in parallel, and small tensors lose time to thread hand-over.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, from which doors are started."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, or a skip with the reason."""
    for candidate in (os.environ.get("METRIXKIT_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    pytest.skip(
        "real data is absent: set METRIXKIT_TEST_DATA to the folder that holds CUB_200_2011_first50, weights, ..."
    )


@pytest.fixture(autouse=True)
def _no_gpu_without_one(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
