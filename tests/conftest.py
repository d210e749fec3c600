"""Fixtures every room's tests may use."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

# One thread a test: the suite runs in parallel, and small tensors lose time to thread hand-over.
torch.set_num_threads(1)

# A slow test trains, several at once on two cores; the fast ones have the limit in pyproject.toml.
SLOW_TIMEOUT = 3600

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # before -m leaves out what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _keep_samples(items)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def _keep_samples(items: list[pytest.Item]) -> None:
    """Mark as slow what ``@pytest.mark.sample(k)`` leaves out of the fast suite: all but k cases, evenly spread."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sample"):
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for found in cases.values():
        (count,) = found[0].get_closest_marker("sample").args  # type: ignore[union-attr]
        kept = {i * len(found) // count for i in range(count)} if count < len(found) else range(len(found))
        for place, item in enumerate(found):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


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


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """What a test that sends signals needs, here and in the processes it starts.

    A shell's background job, nohup and some CI start us with SIGINT or SIGHUP ignored; that is inherited, and a signal
    that is ignored stops nobody.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of one pixel: drawing them is half of what a tiny run takes, and most tests do not look."""
    from metrixkit.report import drawing

    def png(figure: object, title: str, caption: str, kind: str, dpi: float = 0) -> bytes:
        words = PngInfo()
        for key, text in {"Title": title, "Description": caption, "Kind": kind}.items():
            words.add_itxt(key, text)
        out = io.BytesIO()
        Image.new("RGB", (1, 1)).save(out, "PNG", pnginfo=words)
        return out.getvalue()

    monkeypatch.setattr(drawing, "png", png)
