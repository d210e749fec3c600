"""The one import of faiss."""

from __future__ import annotations

import importlib
import importlib.metadata
from types import SimpleNamespace

import pytest

from metrixkit import _faiss
from metrixkit.errors import InputError


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = [SimpleNamespace(metadata={"Name": name}) for name in ("torch", "faissnotes", *names)]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)


def test_faiss_is_given() -> None:
    pytest.importorskip("faiss", reason="the extra cpu, gpu or cuvs brings it")
    assert hasattr(_faiss.load_faiss(), "IndexFlatIP")
    assert len(_faiss.distributions()) == 1


def test_two_distributions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "faiss-cpu", "faiss_gpu_cu12")
    with pytest.raises(InputError, match="pip uninstall -y faiss-cpu faiss-gpu-cu12; pip install faiss-cpu"):
        _faiss.load_faiss()


def test_one_distribution_seen_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "faiss-cpu", "faiss_cpu")
    assert _faiss.distributions() == ["faiss-cpu"]


@pytest.mark.parametrize(("names", "message"), [((), "faiss is not installed"), (("faiss-cpu",), "cannot be imported")])
def test_absence_comes_with_the_pip_line(names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, *names)

    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=message) as caught:
        _faiss.load_faiss()
    assert "pip install 'metrixkit[cpu]'" in str(caught.value)
