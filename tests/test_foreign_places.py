"""Folders packed by others: pipes in them are not waited for, links in them lead no writing out of them."""

import io
import json
import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from metrixkit.compare import main as compare
from metrixkit.errors import InputError
from metrixkit.indexing.items import keep_items
from metrixkit.paired import read_answers
from metrixkit.report.curves import training_curves
from metrixkit.retrieval import RetrievalIndex
from metrixkit.training.run import RunFolder


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    vectors = np.eye(8, dtype=np.float32)
    RetrievalIndex.build(vectors, [f"item {n}" for n in range(8)], "Flat", "cosine").save(folder)
    return folder


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["CURRENT", "v0001/manifest.json"])
def test_a_pipe_in_an_index_is_refused_and_not_waited_for(index, name):
    (index / name).unlink()
    os.mkfifo(index / name)
    with pytest.raises(InputError, match="named pipe"):
        RetrievalIndex.load(index)


@pytest.mark.timeout(30)
def test_a_pipe_for_a_lock_is_refused_and_not_waited_for(index):
    loaded = RetrievalIndex.load(index)
    (index / ".lock").unlink(missing_ok=True)
    os.mkfifo(index / ".lock")
    with pytest.raises(InputError, match="named pipe"):
        loaded.save(index)


@pytest.mark.parametrize("name", [".lock", "CURRENT"])
def test_saving_an_index_changes_nothing_outside_of_its_folder(index, tmp_path, name):
    loaded, outside = RetrievalIndex.load(index), tmp_path / "outside"
    outside.write_text("v0001\n")
    (index / name).unlink(missing_ok=True)
    (index / name).symlink_to(outside)
    with pytest.raises(InputError, match="outside of"):
        loaded.save(index)
    assert outside.read_text() == "v0001\n"
    assert sorted(place.name for place in index.glob("v*")) == ["v0001"]


def test_pictures_of_items_are_written_to_no_file_outside_of_the_index(index, tmp_path):
    (index / "items.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(InputError, match="outside of"):
        keep_items(index, pd.DataFrame({"id": ["a"], "path": ["a.png"], "split": ["train"]}))
    assert not (tmp_path / "outside.csv").exists()


def test_an_index_of_which_every_file_is_a_link_is_read(index, tmp_path):
    copy = tmp_path / "links"
    (copy / "v0001").mkdir(parents=True)
    for path in index.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(index)).symlink_to(path)
    assert len(RetrievalIndex.load(copy)) == 8


@pytest.mark.parametrize("vectors", [10**12, 10**19, 10**30])
def test_no_memory_is_taken_for_vectors_that_only_the_manifest_has(index, vectors):
    path = index / "v0001" / "manifest.json"
    told = json.loads(path.read_text()) | {"vectors": vectors, "count": vectors}
    del told["checksum"]
    path.write_text(json.dumps(told))
    with pytest.raises(InputError, match="the manifest tells of"):
        RetrievalIndex.load(index)


def test_a_version_with_a_number_of_thousands_of_digits_is_none(index):
    (index / "CURRENT").write_text("v" + "1" * 5000)
    with pytest.raises(InputError, match="which is no version"):
        RetrievalIndex.load(index)


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "checkpoints/best.pt", "pictures/curves.png"])
def test_a_run_writes_to_no_file_outside_of_its_folder(tmp_path, name):
    run, outside = tmp_path / "run", tmp_path / "thesis.txt"
    outside.write_text("years of work")
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(outside)
    with pytest.raises(InputError, match=r"is a link to .*thesis.txt, outside of"):
        RunFolder(run).open({}, resume=True)
    assert outside.read_text() == "years of work"


def test_a_run_may_lie_behind_a_link_and_hold_links_of_its_own(tmp_path):
    run = tmp_path / "scratch" / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "epoch3.pt").write_bytes(b"")
    (run / "checkpoints" / "kept.pt").symlink_to("epoch3.pt")
    (tmp_path / "run").symlink_to(run)
    folder = RunFolder(tmp_path / "run")
    folder.open({}, resume=True)
    folder.close()


def test_a_small_file_of_predictions_that_unfolds_into_gigabytes_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**28,)})
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("query_ids.npy", header.getvalue())
        archive.writestr("rank_of_first.npy", header.getvalue())
    # The directory of an archive tells of sizes; unfolding them for real would take the test seconds.
    content = bytearray((tmp_path / "predictions.npz").read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(InputError, match="unfolds into"):
        read_answers(tmp_path / "predictions.npz")


@pytest.mark.parametrize("odd", [{"counts": [1]}, {"metrics": {"recall@1": 10**400}}])
def test_odd_results_are_a_sentence_or_compared(tmp_path, odd, capsys):
    results = {"metrics": {"recall@1": 0.5}, "data": "x"} | odd
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "config.yaml").write_text("seed: 0")
    status = compare([str(tmp_path)])
    assert status == (0 if "counts" in odd else 2)
    assert status == 0 or "a whole number of 1329 bits" in capsys.readouterr().err


def test_names_of_losses_are_no_mathematics_and_numbers_no_float_holds_are_not_drawn(tmp_path):
    entries = [{"step": n, "loss/$\\frac{$": 1.0, "loss/b": 10**400, "lr/head": 0.1} for n in range(2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)))
    assert training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png").stat().st_size > 1000
