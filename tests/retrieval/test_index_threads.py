"""One index, many threads: searches, changes and saves at once, and readers of a folder that others write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metrixkit.errors import InputError
from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import files, store
from metrixkit.retrieval.index.lock import ReadersWriter

pytestmark = pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")

ROWS = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
IDS = [f"i{k}" for k in range(600)]


def together(*works: Callable[[], None]) -> list[BaseException]:
    """Run each in a thread of its own; return what they raised."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return raised


@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF8,Flat", "IVF8,PQ8x4fs,RFlat", "PQ8x4fs"])
def test_threads_search_while_one_changes_and_one_saves(kind: str, tmp_path: Path) -> None:
    index = RetrievalIndex.build(ROWS, IDS, kind)
    index.set_parameters(**{name: {"nprobe": 8, "efSearch": 64, "k_factor": 20}[name] for name in index.parameters})
    # The first 200 stay; what they find of themselves must not depend on what comes and goes.
    first = set(IDS[:200])
    expected = index.search(ROWS[:20], 1, filter=IDS[:200])[1][:, 0].tolist()
    busy = threading.Event()

    def search() -> None:
        while not busy.is_set():
            assert index.search(ROWS[:20], 1, filter=lambda name: name in first)[1][:, 0].tolist() == expected
            scores, ids = index.search(ROWS[:20], 5)
            assert np.isfinite(scores).all()
            assert (ids != "").all()
            assert len(index) in range(550, 631)

    def change() -> None:
        try:
            for turn in range(15):
                more = [f"x{turn}/{j}" for j in range(30)]
                index.add(ROWS[:30] + 5 + np.float32(turn), more)
                index.remove([*more, IDS[599 - turn]])
        finally:
            busy.set()

    def save() -> None:
        while not busy.is_set():
            index.save(tmp_path / "i")
            assert len(RetrievalIndex.load(tmp_path / "i", mmap=False)) in range(550, 631)

    assert not together(search, search, search, save, change)
    assert len(index) == 585


def test_a_search_sees_the_index_before_a_change_or_after_it() -> None:
    """A change that begins while a search is under way waits for it; later searches wait for the change."""
    index = RetrievalIndex.build(ROWS, IDS)
    order: list[str] = []
    inside, waiting = threading.Event(), threading.Event()

    def slow(name: str) -> bool:
        if name == "i0":
            inside.set()
            waiting.wait(20)
        return True

    def first() -> None:
        found = index.search(ROWS[5], 1, filter=slow)[1]
        order.append(f"searched {found[0]}")

    def change() -> None:
        inside.wait(20)
        threading.Timer(0.1, waiting.set).start()
        index.remove(["i5"])
        order.append("removed")

    assert not together(first, change)
    assert order == ["searched i5", "removed"]
    assert index.search(ROWS[5], 1)[1][0] != "i5"


def test_a_filter_may_look_at_its_index_but_not_change_it() -> None:
    index = RetrievalIndex.build(ROWS[:9], IDS[:9])
    assert index.search(ROWS[0], 1, filter=lambda name: name in index.ids[:3])[1].tolist() == ["i0"]
    with pytest.raises(InputError, match="from within its own search"):
        index.search(ROWS[0], 1, filter=lambda name: index.remove([name]))  # type: ignore[func-returns-value]
    index.remove(["i0"])  # and the lock is free again


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock, order = ReadersWriter(), []
    reads, writes, go = threading.Event(), threading.Event(), threading.Event()

    def reader() -> None:
        with lock.reading():
            reads.set()
            go.wait(20)
            order.append("first reader")

    def writer() -> None:
        reads.wait(20)
        writes.set()
        with lock.writing():
            order.append("writer")

    def later() -> None:
        writes.wait(20)
        while not lock._waiting:
            pass
        go.set()
        with lock.reading():
            order.append("later reader")

    assert not together(reader, writer, later)
    assert order == ["first reader", "writer", "later reader"]


STEPS = [
    (store, "_read_json"),
    (store, "_check_file"),
    (store, "sha256"),
    (store, "check_sum"),
    (files, "_array"),
    (files, "check_kind"),
]


@pytest.mark.parametrize(("module", "step"), STEPS)
@pytest.mark.parametrize("locks", [True, False])
def test_a_load_finds_a_whole_version_while_others_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str, locks: bool
) -> None:
    writer = RetrievalIndex.build(ROWS, IDS)
    writer.save(tmp_path / "i")
    if not locks:  # a file system or a machine without them
        monkeypatch.setattr(store, "fcntl", None)
    real, turns, saving = getattr(module, step), [], [False]

    def overtaken(*values: Any) -> Any:
        if len(turns) < 3 and not saving[0]:  # saving takes some of these steps, too
            turns.append(len(turns))
            saving[0] = True
            for part in ("a", "b"):
                writer.add(ROWS[:1], [f"new{len(turns)}{part}"])
                writer.save(tmp_path / "i")
            saving[0] = False
        return real(*values)

    monkeypatch.setattr(module, step, overtaken)
    found = RetrievalIndex.load(tmp_path / "i", mmap=False)
    assert len(found) in (600, 602, 604, 606)
    np.testing.assert_array_equal(found.search(ROWS, 1)[1][1:, 0], IDS[1:])
    assert found.info()["version"].startswith("v0")
    monkeypatch.undo()
    assert turns
    # What a reader held back from deletion goes with the next save.
    writer.save(tmp_path / "i")
    assert len(store.versions(tmp_path / "i")) == 2
    assert not list((tmp_path / "i").glob(".part-*"))


def test_a_version_asked_for_by_name_is_not_replaced_by_another(tmp_path: Path) -> None:
    index = RetrievalIndex.build(ROWS, IDS)
    for _ in range(3):
        index.save(tmp_path / "i")
    with pytest.raises(InputError, match="version v0001 is missing.*there are v0002, v0003"):
        RetrievalIndex.load(tmp_path / "i", version="v0001")
    with pytest.raises(InputError, match="version='../i/v0002': expected one of v0002, v0003"):
        RetrievalIndex.load(tmp_path / "i", version="../i/v0002")
