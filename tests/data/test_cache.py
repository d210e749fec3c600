"""The folder of smaller copies: same pixels each time, fresh after a change, unharmed by a kill."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from metrixkit.data import cache as module
from metrixkit.data.cache import CachedDecode, default_short_side
from metrixkit.data.decode import decode
from metrixkit.errors import InputError


def photograph(height=120, width=180, shift=0):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x + shift, y * 2, (x + y) // 2], axis=2).astype(np.uint8))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "photo.png"
    photograph().save(path)
    return path


def files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


@pytest.mark.parametrize("lossless", [False, True])
def test_second_read_comes_from_the_copy(tmp_path, source, monkeypatch, lossless):
    cached = CachedDecode(tmp_path / "cache", 60, lossless=lossless)
    first = cached(str(source))
    assert first.shape == (3, 60, 90)
    assert len(files(tmp_path / "cache")) == 1

    def original_only(reference):
        assert os.fspath(reference) != str(source), "the original was decoded again"
        return decode(reference)

    monkeypatch.setattr(module, "decode", original_only)
    assert torch.equal(cached(source), first)


def test_lossless_copies_are_the_scaled_image(tmp_path, source):
    small = F.resize(decode(source), [60], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(CachedDecode(tmp_path / "c", 60, lossless=True)(source), small)
    lossy = CachedDecode(tmp_path / "c", 60)(source)
    assert not torch.equal(lossy, small)
    assert (lossy.float() - small.float()).abs().mean() < 2


def test_small_images_come_unchanged_and_are_not_stored(tmp_path, source):
    assert torch.equal(CachedDecode(tmp_path / "cache", 120)(source), decode(source))
    assert files(tmp_path / "cache") == []


def test_a_changed_original_is_copied_anew(tmp_path, source):
    cached = CachedDecode(tmp_path / "cache", 60)
    before = cached(source)
    photograph(shift=40).save(source)
    os.utime(source, ns=(1, 1))
    after = cached(source)
    assert (after.float() - before.float()).abs().mean() > 5
    source.unlink()
    with pytest.raises(InputError, match="no such file"):
        cached(source)


def test_settings_do_not_mix(tmp_path, source):
    shapes = [CachedDecode(tmp_path / "cache", side)(source).shape[1] for side in (60, 40, 60)]
    assert shapes == [60, 40, 60]
    assert len(files(tmp_path / "cache")) == 2


@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_half_written_copy_is_made_anew(tmp_path, source, kept):
    cached = CachedDecode(tmp_path / "cache", 60)
    good = cached(source)
    (copy,) = files(tmp_path / "cache")
    content = copy.read_bytes()
    copy.write_bytes(content[: int(len(content) * kept)])
    assert torch.equal(cached(source), good)
    assert copy.read_bytes() == content


def test_zip_members_and_array_rows(tmp_path):
    buffer = io.BytesIO()
    photograph().save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.png", buffer.getvalue())
    np.save(tmp_path / "a.npy", np.stack([np.asarray(photograph(shift=s)) for s in (0, 60)]))
    cached = CachedDecode(tmp_path / "cache", 60)
    for reference in (f"{tmp_path}/a.zip!x.png", f"{tmp_path}/a.npy#0", f"{tmp_path}/a.npy#1"):
        assert torch.equal(cached(reference), cached(reference))
    assert len(files(tmp_path / "cache")) == 3


def test_broken_originals_fail_as_without_a_cache(tmp_path, source):
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"photo\.png: broken image"):
        CachedDecode(tmp_path / "cache", 60)(source)
    assert files(tmp_path / "cache") == []


def test_unusable_folder_and_size(tmp_path, source):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"loader\.cache: cannot write to .*file"):
        CachedDecode(tmp_path / "file", 60)
    with pytest.raises(InputError, match="cache_short_side"):
        CachedDecode(tmp_path / "cache", 0)


def test_a_full_disk_leaves_no_remains(tmp_path, source, monkeypatch):
    cached = CachedDecode(tmp_path / "cache", 60)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"loader.cache: cannot write .*No space left"):
        cached(source)
    assert files(tmp_path / "cache") == []


def test_travels_to_workers(tmp_path, source):
    cached = CachedDecode(tmp_path / "cache", 60)
    assert torch.equal(pickle.loads(pickle.dumps(cached))(source), cached(source))


def _fill(directory, sources, queue):
    cached = CachedDecode(directory, 60)
    queue.put(sum(int(cached(source).sum()) for source in sources))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_two_processes_fill_one_folder(tmp_path):
    sources = []
    for i in range(12):
        photograph(shift=i).save(tmp_path / f"{i}.png")
        sources.append(str(tmp_path / f"{i}.png"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_fill, args=(tmp_path / "cache", sources, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert len({queue.get() for _ in workers}) == 1
    for worker in workers:
        worker.join()
    assert len(files(tmp_path / "cache")) == 12


FILL = """
import sys
from metrixkit.data.cache import CachedDecode
cached = CachedDecode(sys.argv[1], 60)
while True:
    for copy in cached.directory.rglob("*.jpg"):
        copy.unlink()
    for source in sys.argv[2:]:
        cached(source)
        print("one", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.01, 0.037])
def test_a_kill_leaves_nothing_broken(tmp_path, delay):
    sources = []
    for i in range(5):
        photograph(400, 600, shift=i).save(tmp_path / f"{i}.png")
        sources.append(str(tmp_path / f"{i}.png"))
    process = subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path / "cache"), *sources], stdout=subprocess.PIPE)
    for _ in range(7):
        process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for copy in (tmp_path / "cache").rglob("*.jpg"):
        assert decode(copy).shape == (3, 60, 90)
    resumed, fresh = CachedDecode(tmp_path / "cache", 60), CachedDecode(tmp_path / "fresh", 60)
    assert all(torch.equal(resumed(source), fresh(source)) for source in sources)


def test_default_keeps_half_as_much_again_as_evaluation_needs():
    assert default_short_side(224) == 384
