"""The world that hostile input is tried on, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_world import World, make


@pytest.fixture(scope="session")
def world(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A tiny run, an index, embeddings, photos; read only."""
    before, data = os.getcwd(), os.environ.get("METRIXKIT_DATA")
    folder = tmp_path_factory.mktemp("hostile")
    os.environ["METRIXKIT_DATA"] = str(folder / "none")
    yield make(folder, repository)
    os.chdir(before)
    os.environ.pop("METRIXKIT_DATA")
    if data is not None:
        os.environ["METRIXKIT_DATA"] = data


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; what a command writes unasked falls there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
