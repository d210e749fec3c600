"""An index on disk: whole or not at all, and bad input refused before anything changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.retrieval import RetrievalIndex
from metrixkit.retrieval.index import store
from metrixkit.retrieval.index.manifest import checksum

ROWS = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
IDS = [f"a{i}" for i in range(60)]


def made(**options: Any) -> RetrievalIndex:
    return RetrievalIndex.build(ROWS, IDS, **options)


def saved(folder: Path) -> Path:
    made(model_fingerprint="f" * 64, notes={"model": "runs/x"}).save(folder)
    return folder


def rewritten(path: Path, change: dict[str, Any]) -> None:
    """Change a manifest as somebody would who means it: with a checksum that fits."""
    whole = json.loads(path.read_text()) | change
    path.write_text(json.dumps(whole | {"checksum": checksum(whole)}))


def bad(row: int, value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[row] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "ids", "says"),
    [
        (bad(3, np.nan), IDS, r"row 3 \(id 'a3'\) holds NaN"),
        (bad(4, np.inf), IDS, "row 4 .*infinite"),
        (bad(5, 0.0), IDS, "row 5 .*all zero"),
        (ROWS[:0], [], "is empty"),
        (ROWS.astype(str), IDS, "expected real numbers"),
        (ROWS[0], IDS, "expected a matrix"),
        (ROWS, IDS[:-1], "59 values but there are 60"),
        (ROWS, [*IDS[:-1], "a7"], "'a7' stands at positions 7 and 59"),
        (ROWS, [*IDS[:-1], ""], "cannot be an id"),
        (ROWS, [*IDS[:-1], "no match"], "cannot be an id"),
        (ROWS, [*IDS[:-1], None], "missing"),
    ],
)
def test_bad_rows_and_ids_are_refused_everywhere(rows: np.ndarray, ids: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        RetrievalIndex.build(rows, ids)
    index = RetrievalIndex.build(np.ones((2, 8)), ["x", "y"])
    with pytest.raises(InputError, match=says):
        index.add(rows, ids)
    assert index.ids.tolist() == ["x", "y"]
    if len(ids) and "a7" in ids[:8] and ids[-1] == "a59":
        same = made()
        with pytest.raises(InputError, match=says):
            same.update(rows, ids)
        np.testing.assert_array_equal(same.reconstruct("a3"), made().reconstruct("a3"))
        if rows.ndim == 2:
            with pytest.raises(InputError, match=says.replace(r" \(id 'a3'\)", "")):
                same.search(rows, 3)


def test_other_bad_input() -> None:
    index = made()
    cases = [
        (lambda: index.search(ROWS[:, :5], 3), "5 dimensions and the index has 8"),
        (lambda: index.add(ROWS[:1, :5], ["n"]), "5 dimensions and the index has 8"),
        (lambda: index.add(ROWS[:2], ["a3", "n"]), "'a3' is in the index already"),
        (lambda: index.update(ROWS[:2], ["a3", "a99"]), "'a99' is not in the index"),
        (lambda: index.remove(["a3", "a99"]), "'a99' is not in the index"),
        (lambda: index.remove(["a3", "a3"]), "'a3' stands at positions"),
        (lambda: index.reconstruct("b1"), "not in the index"),
        (lambda: index.search(ROWS, 0), "k=0"),
        (lambda: index.search(ROWS, 2.5), "k=2.5"),
        (lambda: index.search(ROWS, 3, filter=["zz"]), "'zz' is not in the index"),
        (lambda: index.search(ROWS, 3, filter="a1"), "found one text"),
        (lambda: index.search(ROWS, 3, filter=np.ones(5, dtype=bool)), "a mask of shape"),
        (lambda: index.add(ROWS[:1], ["n"], labels=["l"]), "has no labels"),
        (lambda: made(metric="l2"), "metric|distance"),
        (lambda: made(memory_budget="1GB"), "chosen already"),
        (lambda: made(notes={"x": object()}), "JSON cannot hold"),
        (lambda: made(factory="IVF4,Flat", train_size=2), "train_size=2"),
        (lambda: RetrievalIndex.build(ROWS * 1e19, IDS, metric="dot"), "no float32 holds"),
    ]
    for call, says in cases:
        with pytest.raises(InputError, match=says):
            call()
    assert index.ids.tolist() == IDS


def test_origins_agree() -> None:
    scores, ids = made().search(ROWS, 3)
    for rows in (torch.from_numpy(ROWS), ROWS.astype(np.float64), np.asfortranarray(ROWS), ROWS.tolist()):
        index = RetrievalIndex.build(rows, np.arange(60))
        other = index.search(rows, 3)
        np.testing.assert_array_equal(other[0], scores)
        assert (np.char.add("a", other[1]) == ids).all()
    half = RetrievalIndex.build(torch.from_numpy(ROWS).bfloat16(), IDS)
    assert (half.search(ROWS, 1)[1][:, 0] == IDS).mean() > 0.9


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    with pytest.raises(InputError, match="index is of model ffffffffffff"):
        RetrievalIndex.load(folder, expect_fingerprint="e" * 64)
    index = RetrievalIndex.load(folder, expect_fingerprint="f" * 64)
    assert index.notes == {"model": "runs/x"}
    with pytest.raises(InputError, match="two models cannot be compared"):
        index.search(ROWS, 1, model_fingerprint="e" * 64)
    with pytest.raises(InputError, match="two models cannot be compared"):
        index.add(ROWS[:1], ["n"], model_fingerprint="e" * 64)
    index.add(ROWS[:1], ["n"], model_fingerprint="f" * 64)


@pytest.mark.parametrize("name", ["index.faiss", "ids.npy"])
def test_files_cut_off_or_altered(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "i")
    RetrievalIndex.load(folder).save(folder)
    path = folder / "v0002" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    for verify in (True, False):
        with pytest.raises(InputError, match="cut off or altered.*Load version='v0001'"):
            RetrievalIndex.load(folder, verify=verify)
    path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
    with pytest.raises(InputError, match="checksum differs.*version='v0001'"):
        RetrievalIndex.load(folder)
    assert len(RetrievalIndex.load(folder, version="v0001")) == 60
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        RetrievalIndex.load(folder)


def test_a_damaged_header_is_an_error_even_unverified(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    path = folder / "v0001" / "index.faiss"
    path.write_bytes(b"XXXX" + path.read_bytes()[4:])
    with pytest.raises(InputError, match="faiss cannot read it"):
        RetrievalIndex.load(folder, verify=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 99}, "format 99.*update to that or later"),
        ({"kind": "other"}, "not that of an index"),
        ({"vectors": 5}, "60 items and 0 tombstones are not 5 vectors"),
        ({"vectors": 61, "count": 61}, "different indexes were mixed"),
        ({"vectors": 59, "count": 60, "tombstones": -1}, "tombstones is -1, expected a whole number of at least 0"),
        ({"count": 59, "tombstones": 1}, "names 0 vectors, the manifest tells of 1"),
        ({"metric": None, "parameters": None}, "not as metrixkit writes it: metric is None"),
        ({"metric": "cosin"}, "Did you mean 'cosine'"),
        ({"metric": "euclidean"}, "Flat of 8 dimensions by euclidean; it holds IndexFlat of 8"),
        ({"dim": "x"}, "dim is 'x', expected a whole number of at least 1"),
        ({"dim": True}, "dim is True"),
        ({"dim": 9}, "Flat of 9 dimensions by cosine; it holds IndexFlat of 8"),
        ({"factory": "IVF0,Flat"}, "IVF0 has no list"),
        ({"factory": "IVF1000000000,Flat"}, "does not hold what the manifest beside it says"),
        ({"factory": "HNSW32"}, "does not hold what the manifest beside it says, HNSW32,Flat"),
        ({"factory": ["Flat"]}, "factory is"),
        ({"parameters": {"nprobe": "x"}}, "parameters is"),
        ({"parameters": {"nprobe": 0}}, "parameters is"),
        ({"parameters": {"nprobe": 3}}, "Flat has no search parameter 'nprobe'"),
        ({"notes": ["a"]}, "notes is .*expected a mapping"),
        ({"model_fingerprint": 7}, "model_fingerprint is 7"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"threshold": {"value": 1}}, "threshold is"),
        ({"threshold": {"value": "a"}}, "threshold is"),
        ({"files": {"ids.npy": 3}}, "no manifest"),
        ({"files": {"../../CURRENT": {"bytes": 1, "sha256": "0"}}}, "no manifest"),
    ],
)
def test_manifests_that_do_not_fit(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = saved(tmp_path / "i") / "v0001" / "manifest.json"
    rewritten(path, change)
    with pytest.raises(InputError, match=says):
        RetrievalIndex.load(tmp_path / "i")
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        RetrievalIndex.load(tmp_path / "i")


def test_a_pointer_that_is_no_text(tmp_path: Path) -> None:
    (saved(tmp_path / "i") / "CURRENT").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="which is no version.*v0001"):
        RetrievalIndex.load(tmp_path / "i")


def test_folders_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        RetrievalIndex.load(tmp_path / "none")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="no file CURRENT"):
        RetrievalIndex.load(tmp_path / "photos")
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(InputError, match="holds 'a.jpg'"):
        made().save(tmp_path / "photos")
    with pytest.raises(InputError, match="is a file"):
        made().save(tmp_path / "photos" / "a.jpg")
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    folder = saved(tmp_path / "i")
    with pytest.raises(InputError, match="v0007 is missing"):
        RetrievalIndex.load(folder, version="v0007")
    (folder / "CURRENT").write_text("../../etc")
    with pytest.raises(InputError, match="which is no version"):
        RetrievalIndex.load(folder)


def test_versions_follow_one_another_and_the_last_two_stay(tmp_path: Path) -> None:
    index = made()
    assert [index.save(tmp_path / "i") for _ in range(4)] == ["v0001", "v0002", "v0003", "v0004"]
    assert store.versions(tmp_path / "i") == ["v0003", "v0004"]
    assert sorted(p.name for p in (tmp_path / "i").iterdir()) == [".lock", "CURRENT", "v0003", "v0004"]
    assert index.info()["version"] == "v0004"


def test_a_reader_keeps_its_version_while_writers_go_on(tmp_path: Path) -> None:
    index = made()
    index.save(tmp_path / "i")
    reader = RetrievalIndex.load(tmp_path / "i")
    expected = reader.search(ROWS, 3)
    for _ in range(3):
        index.save(tmp_path / "i")
    assert not (tmp_path / "i" / "v0001").exists()
    np.testing.assert_array_equal(reader.search(ROWS, 3)[1], expected[1])
    with pytest.raises(InputError, match="Load the index again"):
        reader.add(ROWS[:1], ["n"])


def test_two_writers_do_not_undo_one_another(tmp_path: Path) -> None:
    saved(tmp_path / "i")
    one, two = RetrievalIndex.load(tmp_path / "i"), RetrievalIndex.load(tmp_path / "i")
    one.remove(["a1"])
    two.remove(["a2"])
    one.save(tmp_path / "i")
    with pytest.raises(InputError, match="v0002 was saved by somebody else since v0001"):
        two.save(tmp_path / "i")
    assert "a2" in RetrievalIndex.load(tmp_path / "i").ids
    two.save(tmp_path / "other")


def test_a_writer_that_was_overtaken_while_it_wrote_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "i")
    one, two = RetrievalIndex.load(tmp_path / "i"), RetrievalIndex.load(tmp_path / "i")
    one.remove(["a1"])
    two.remove(["a2"])
    plain = store.sha256

    def slow(path: Path) -> str:
        monkeypatch.setattr(store, "sha256", plain)
        two.save(tmp_path / "i")  # while the first one's files are written and not yet current
        return plain(path)

    monkeypatch.setattr(store, "sha256", slow)
    with pytest.raises(InputError, match="v0002 was saved by somebody else since v0001"):
        one.save(tmp_path / "i")
    found = RetrievalIndex.load(tmp_path / "i")
    assert "a1" in found.ids
    assert "a2" not in found.ids
    assert not list((tmp_path / "i").glob(".part-*"))


@pytest.mark.parametrize("step", ["write_index", "rename", "replace", "fsync"])
def test_an_error_in_the_middle_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    folder = saved(tmp_path / "i")
    index = RetrievalIndex.load(folder)
    index.remove(["a1"])

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        if step == "write_index":
            patch.setattr("metrixkit.retrieval.index.engine.Engine.write", fail)
        else:
            patch.setattr(os, step, fail)
        with pytest.raises(InputError, match="no space"):
            index.save(folder)
    assert len(RetrievalIndex.load(folder)) == 60
    index.save(folder)
    assert len(RetrievalIndex.load(folder)) == 59
    assert not list(folder.glob(".part-*"))


KILLED = """
import os, sys, time
import numpy as np
from metrixkit.retrieval import RetrievalIndex
import metrixkit.retrieval.index.store as store
index = RetrievalIndex.load(sys.argv[1])
index.remove(["a1"])
def stop(*_):
    print("now", flush=True)
    time.sleep(60)
if sys.argv[2] == "writing":
    store.sha256 = stop
else:
    os.replace = stop
index.save(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["writing", "pointing"])
def test_a_kill_in_the_middle_of_a_save(tmp_path: Path, when: str) -> None:
    folder = saved(tmp_path / "i")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder), when], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "now"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    index = RetrievalIndex.load(folder)
    assert len(index) == 60
    old = time.time() - 2 * 3600
    for part in folder.glob(".part-*"):
        os.utime(part, (old, old))
    index.remove(["a2"])
    index.save(folder)
    assert "a1" in RetrievalIndex.load(folder).ids
    assert not list(folder.glob(".part-*"))


def test_the_manifest_tells(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    manifest = json.loads((folder / "v0001" / "manifest.json").read_text())
    assert manifest["count"] == manifest["vectors"] == 60
    assert manifest["normalised"] is True
    assert manifest["model_fingerprint"] == "f" * 64
    assert set(manifest["versions"]) == {"metrixkit", "faiss", "numpy", "python"}
    assert set(manifest["files"]) == {"index.faiss", "ids.npy"}
    assert len(manifest["files"]["ids.npy"]["sha256"]) == 64
    assert json.loads(json.dumps(RetrievalIndex.load(folder).info()))["count"] == 60


def test_all_can_go_and_others_come(tmp_path: Path) -> None:
    for factory in ("Flat", "HNSW8"):
        index = made(factory=factory)
        index.remove(IDS)
        assert len(index) == 0
        scores, ids = index.search(ROWS[:2], 3)
        assert (ids == "").all()
        assert (scores == -np.inf).all()
        index.save(tmp_path / factory)
        index = RetrievalIndex.load(tmp_path / factory)
        index.compact()
        index.add(ROWS[:4], IDS[:4])
        assert index.search(ROWS[2], 1)[1].tolist() == ["a2"]


def test_a_flipped_bit_of_the_manifest_is_told(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    path = folder / "v0001" / "manifest.json"
    whole = path.read_text()
    assert json.loads(whole)["checksum"] == checksum(json.loads(whole))
    for old, new in (('"seed": 0', '"seed": 1'), ("runs/x", "runs/y"), ("ffff", "fffe")):
        path.write_text(whole.replace(old, new, 1))
        for verify in (True, False):
            with pytest.raises(InputError, match="manifest.json is not as it was written: its checksum differs"):
                RetrievalIndex.load(folder, verify=verify)
    path.write_text(json.dumps(json.loads(whole), sort_keys=True))  # laid out otherwise, but it says the same
    assert len(RetrievalIndex.load(folder)) == 60


def test_folders_from_before_checksums_load_and_get_one(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    path = folder / "v0001" / "manifest.json"
    old = json.loads(path.read_text())
    del old["checksum"]
    path.write_text(json.dumps(old, indent=2))
    index = RetrievalIndex.load(folder)
    assert index.search(ROWS[3], 1)[1].tolist() == ["a3"]
    index.save(folder)
    assert "checksum" in json.loads((folder / "v0002" / "manifest.json").read_text())


def replaced(folder: Path, name: str, array: np.ndarray) -> None:
    """Put another array into a version, as somebody would who means it."""
    path = folder / "v0001" / name
    np.save(path, array)
    manifest = folder / "v0001" / "manifest.json"
    listed = json.loads(manifest.read_text())["files"]
    listed[name] = {"bytes": path.stat().st_size, "sha256": store.sha256(path)}
    rewritten(manifest, {"files": listed})


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("tombstones.npy", np.array([3, 60]), "names vectors that are not among the 60"),
        ("tombstones.npy", np.array([-1, 3]), "names vectors that are not among the 60"),
        ("tombstones.npy", np.array([3, 3]), "names 1 vectors, the manifest tells of 2"),
        ("tombstones.npy", np.array([3]), "names 1 vectors, the manifest tells of 2"),
        ("tombstones.npy", np.array([1.0, 2.0]), "holds float64"),
        ("ids.npy", np.arange(60), "holds int64"),
        ("ids.npy", np.array([["a"], ["b"]]), r"shape \(2, 1\)"),
        ("ids.npy", np.array(IDS[:59]), "ids.npy 59"),
        ("ids.npy", np.array([*IDS[:59], "a7"]), "id 'a7' stands there twice"),
        ("labels.npy", np.array(["x"] * 59), "59 labels for 60 vectors"),
        ("labels.npy", np.array([b"x"] * 60), "holds .S1"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, name: str, array: np.ndarray, says: str) -> None:
    index = made(factory="HNSW8", labels=["l"] * 60)
    index.remove(["a0", "a1"])
    index.save(tmp_path / "i")
    replaced(tmp_path / "i", name, array)
    with pytest.raises(InputError, match=says):
        RetrievalIndex.load(tmp_path / "i")


def test_an_id_may_stand_again_behind_its_tombstone(tmp_path: Path) -> None:
    index = made(factory="HNSW8")
    index.update(ROWS[:2], IDS[:2])
    index.save(tmp_path / "i")
    assert len(RetrievalIndex.load(tmp_path / "i")) == 60


@pytest.mark.filterwarnings("ignore:.*is trained on:UserWarning")
def test_an_index_of_another_kind_than_told_never_reaches_faiss(tmp_path: Path) -> None:
    """Asked for lists it has not, faiss would end the process."""
    for name, factory in (("flat", "Flat"), ("lists", "IVF4,Flat")):
        made(factory=factory).save(tmp_path / name)
    other = (tmp_path / "lists/v0001/index.faiss").read_bytes()
    (tmp_path / "flat/v0001/index.faiss").write_bytes(other)
    manifest = tmp_path / "flat/v0001/manifest.json"
    listed = json.loads(manifest.read_text())["files"]
    listed["index.faiss"]["bytes"] = len(other)
    rewritten(manifest, {"files": listed})
    with pytest.raises(InputError, match="says, Flat of 8 dimensions by cosine; it holds IndexIVFFlat of 8"):
        RetrievalIndex.load(tmp_path / "flat", verify=False)


def test_what_killed_writers_left_goes_after_an_hour(tmp_path: Path) -> None:
    folder = saved(tmp_path / "i")
    (folder / ".part-77-1").mkdir()
    (folder / ".part-77-1" / "ids.npy").write_text("x")
    (folder / ".part-abc.csv").write_text("x")
    (folder / ".CURRENT-77-1").write_text("v0009")
    (folder / ".part-young").mkdir()
    long_ago = time.time() - 2 * 3600
    for name in (".part-77-1", ".part-abc.csv", ".CURRENT-77-1"):
        os.utime(folder / name, (long_ago, long_ago))
    RetrievalIndex.load(folder).save(folder)
    assert sorted(p.name for p in folder.iterdir()) == [".lock", ".part-young", "CURRENT", "v0001", "v0002"]


def test_a_folder_that_cannot_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "i")
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *values: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(30, "Read-only file system")
        return opened(path, mode, *values, **named)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    index = RetrievalIndex.load(folder)
    assert index.search(ROWS[3], 1)[1].tolist() == ["a3"]
    with pytest.raises(InputError, match="Read-only file system.*choose a place that can be written"):
        index.save(folder)
