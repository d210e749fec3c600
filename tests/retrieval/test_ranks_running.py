"""How ranks are computed rather than what they are: memory, processes, progress, symmetric tiles."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from metrixkit.retrieval.exact import progress, ranks, screen, tiles
from metrixkit.retrieval.exact.progress import Progress
from metrixkit.retrieval.exact.ranks import rank_blocks
from metrixkit.retrieval.exact.setting import label_up, pair_up


def first_ranks(data, labels, gallery=None, gallery_labels=None, **options):
    pair = pair_up(data, gallery, None, None, "cosine")
    found = np.zeros(pair.queries.count, dtype=np.int64)
    for block in rank_blocks(pair, label_up(pair, labels, gallery_labels), **options):
        found[block.rows] = block.pessimistic[:, 0]
    return found


def anonymous():
    """Memory of this process that no file backs, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("/proc is needed to see the memory in use")
    return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("RssAnon")).split()[1])


def added(work):
    """Return the largest growth of memory while `work` runs."""
    before, most, done = anonymous(), [0], threading.Event()

    def look():
        while not done.wait(0.005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return most[0] - before


@pytest.mark.slow
def test_a_memory_map_is_never_held_whole(tmp_path, monkeypatch):
    # 150 MB of rows, 75 MB when rounded to bfloat16.
    rng = np.random.default_rng(0)
    data = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=(150_000, 250))
    for start in range(0, len(data), 10_000):
        data[start : start + 10_000] = rng.standard_normal((10_000, 250), dtype=np.float32)
    data.flush()
    data = np.load(tmp_path / "e.npy", mmap_mode="r")
    labels = np.arange(len(data)) // 10
    queries, query_labels = np.array(data[:60]), labels[:60]
    work = lambda: first_ranks(queries, query_labels, data, labels, precision="bfloat16", kernels="torch")
    expected = work()
    assert added(work) > 80e6  # so the measure can see it
    monkeypatch.setattr(screen, "KEPT", 0)
    found = []
    assert added(lambda: found.append(work())) < 60e6
    np.testing.assert_array_equal(found[0], expected)


def test_self_retrieval_of_a_memory_map(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    data = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float32, shape=(500, 16))
    data[:] = rng.normal(size=data.shape)
    labels = rng.integers(0, 60, size=500)
    monkeypatch.setattr(screen, "KEPT", 0)
    monkeypatch.setattr(tiles, "QUERY_BLOCK", 64)
    np.testing.assert_array_equal(first_ranks(data, labels, precision="bfloat16"), first_ranks(np.array(data), labels))


def test_self_retrieval_computes_each_tile_once(monkeypatch):
    rng = np.random.default_rng(2)
    rows, labels = rng.normal(size=(640, 8)), rng.integers(0, 60, size=640)
    monkeypatch.setattr(tiles, "QUERY_BLOCK", 32)
    monkeypatch.setattr(tiles, "GALLERY_TILE", 64)
    sizes, product = [], tiles.products
    monkeypatch.setattr(tiles, "products", lambda *a: (sizes.append(len(a[0]) * len(a[1])), product(*a))[1])
    alone = first_ranks(rows, labels, precision="bfloat16")
    assert 640**2 / 2 < sum(sizes) < 640**2 / 2 * 1.1
    expected = first_ranks(rows, labels, precision="float64")
    np.testing.assert_array_equal(alone, expected)


def one_of_two(number, folder, wanted):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(203, 8)), rng.integers(0, 60, size=203)
    local = []
    original = tiles.Tiles.count
    tiles.Tiles.count = lambda self, tally, itself: (local.append(len(tally.rows)), original(self, tally, itself))[1]
    np.testing.assert_array_equal(first_ranks(rows, labels, processes=True), wanted)
    assert sum(local) in (int((wanted > 0).sum()) // 2, -(-int((wanted > 0).sum()) // 2))
    # Where one process alone evaluates, nothing waits for the other.
    if number == 0:
        np.testing.assert_array_equal(first_ranks(rows, labels), wanted)
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_share_the_queries(tmp_path):
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(203, 8)), rng.integers(0, 60, size=203)
    mp.spawn(one_of_two, args=(str(tmp_path), first_ranks(rows, labels)), nprocs=2)


def test_processes_without_a_group_is_one_process():
    rng = np.random.default_rng(4)
    rows, labels = rng.normal(size=(50, 4)), rng.integers(0, 9, size=50)
    np.testing.assert_array_equal(first_ranks(rows, labels, processes=True), first_ranks(rows, labels))


def test_short_work_and_pipes_show_no_bar(capfd, monkeypatch):
    with Progress(10, "ranks") as bar:
        bar.add(5)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress(10, "ranks") as bar:
        bar.add(5)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("wanted", "terminal", "shown"), [(None, True, True), (None, False, False), (False, True, False)]
)
def test_long_work_shows_a_bar_on_a_terminal(capfd, monkeypatch, wanted, terminal, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Progress(100, "ranks", wanted) as bar:
        for _ in range(6):
            bar.add(20)  # more than was announced
    assert ("ranks" in capfd.readouterr().err) == shown


def test_a_bar_that_is_asked_for_comes_at_once(capfd):
    rng = np.random.default_rng(5)
    first_ranks(rng.normal(size=(50, 4)), rng.integers(0, 9, size=50), progress=True)
    assert "ranks" in capfd.readouterr().err


@pytest.mark.gpu
def test_cuda_tiles_follow_the_free_memory(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**33))
    assert tiles._tile_size(device) == (2048, 2048)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**36, 2**37))
    assert tiles._tile_size(device) == (16384, 16384)


def test_precision_grows_with_the_number_of_pairs(monkeypatch):
    monkeypatch.setattr(screen, "fast_bfloat16", lambda device: True)
    pair = pair_up(np.eye(3), None, None, None, "cosine")
    levels = lambda pairs: ranks._levels(pair, "auto", pairs, compiled=False)
    assert levels(screen.SCREEN_PAYS - 1) == ("float64",)
    assert levels(ranks.BFLOAT16_PAYS - 1) == ("float32", "float64")
    assert levels(ranks.BFLOAT16_PAYS) == ("bfloat16", "float32", "float64")
    assert ranks._levels(pair, "auto", ranks.COMPILING_PAYS, compiled=True)[0] == "bfloat16"
    assert ranks._levels(pair, "bfloat16", 9, compiled=False)[0] == "bfloat16"
