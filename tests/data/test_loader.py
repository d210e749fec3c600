"""Items and loaders: what comes out depends on the plan alone, and errors are readable."""

from __future__ import annotations

import gc
import multiprocessing
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import _utils

from metrixkit.data.dataset import ImageItems, collate
from metrixkit.data.loader import default_workers, eval_loader, train_loader
from metrixkit.data.m_per_class import MPerClass
from metrixkit.data.samplers import Draw, Shuffle
from metrixkit.data.transforms import Transform, eval_transform, train_transform
from metrixkit.errors import InputError
from metrixkit.seam import Batch

SETTINGS = Transform(color_jitter=0.3)
TRAIN, EVAL = train_transform(SETTINGS, 24), eval_transform(SETTINGS, 24)


@pytest.fixture
def items(tmp_path):
    """Six classes with seven images each; labels in another order than sorted."""
    generator = np.random.default_rng(0)
    rows = []
    for label in ["heron", "auk", "010", "9", "Crow", "bee eater"]:
        for i in range(7):
            path = tmp_path / f"{label}-{i}.png"
            Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
            rows.append((f"{label}/{i}", str(path), label, "train"))
    return pd.DataFrame(rows, columns=["id", "path", "label", "split"], dtype=str)


def same(a, b):
    return (
        a.ids == b.ids
        and torch.equal(a.labels, b.labels)
        and all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
    )


def train(items, workers, sampler=None, **options):
    sampler = sampler or MPerClass(ImageItems(items, TRAIN).labels, seed=5, batch_size=12, m=3)
    return train_loader(items, TRAIN, sampler, workers=workers, **options)


def test_labels_follow_the_sorted_names(items):
    dataset = ImageItems(items, EVAL)
    assert dataset.classes == ["010", "9", "Crow", "auk", "bee eater", "heron"]
    assert [dataset.classes[i] for i in dataset.labels] == items["label"].tolist()
    other = ImageItems(items[items["label"] == "auk"].reset_index(drop=True), EVAL, classes=["heron", "auk"])
    assert other.labels.unique().tolist() == [1]
    with pytest.raises(InputError, match=r"5 labels are not among the 1 classes, the first is '010'"):
        ImageItems(items, EVAL, classes=["auk"])


def test_an_example_depends_on_index_and_seed_alone(items):
    dataset = ImageItems(items, TRAIN, views=2)
    first = dataset[Draw(3, 77)]
    torch.manual_seed(1234)
    dataset[Draw(9, 1)]
    again = dataset[Draw(3, 77)]
    assert all(map(torch.equal, first.views, again.views))
    assert not torch.equal(*first.views)
    assert not torch.equal(first.views[0], dataset[Draw(3, 78)].views[0])
    assert torch.equal(first.views[0], ImageItems(items, TRAIN)[Draw(3, 77)].views[0])


def test_an_example_leaves_the_global_generators_alone(items, monkeypatch):
    def touched(*args):
        raise AssertionError("the accelerator's generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    before = torch.get_rng_state()
    ImageItems(items, TRAIN)[Draw(0, 5)]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_an_example_leaves_the_gpus_generator_alone(items):
    before = torch.cuda.get_rng_state()
    ImageItems(items, TRAIN)[Draw(0, 5)]
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_collate(items):
    dataset = ImageItems(items, TRAIN, views=3)
    batch = collate([dataset[i] for i in (4, 0)])
    assert isinstance(batch, Batch)
    assert batch.ids == ["heron/4", "heron/0"]
    assert batch.labels.dtype == torch.int64
    assert [v.shape for v in batch.views] == [(2, 3, 24, 24)] * 3
    assert all(v.dtype == torch.uint8 for v in batch.views)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(items, workers):
    expected, loader = train(items, 0, views=2), train(items, workers, views=2)
    for epoch in (0, 1):  # the second epoch goes through workers that stayed
        for each in (expected, loader):
            each.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) > 2
        assert all(same(a, b) for a, b in zip(expected, batches, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_gives_the_rest_and_takes_no_random_numbers(items, workers):
    whole = list(train(items, workers))
    loader = train(items, workers)
    loader.batch_sampler.load_state_dict({"epoch": 0, "position": 2})
    before = torch.get_rng_state()
    rest = list(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_an_epoch_left_early_does_not_spill_into_the_next(items):
    loader = train(items, 2)
    next(iter(loader))
    loader.batch_sampler.set_epoch(1)
    expected = train(items, 0)
    expected.batch_sampler.set_epoch(1)
    assert all(same(a, b) for a, b in zip(expected, loader, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_the_order(items, workers):
    batches = list(eval_loader(items, EVAL, batch_size=10, workers=workers))
    assert [i for b in batches for i in b.ids] == items["id"].tolist()
    assert [len(b.ids) for b in batches] == [10, 10, 10, 10, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_without_a_workers_traceback(items, workers):
    path = items["path"][13]
    with open(path, "r+b") as file:
        file.truncate(200)
    for loader in (train(items, workers), eval_loader(items, EVAL, 10, workers)):
        with pytest.raises(InputError) as caught:
            list(loader)
        assert str(caught.value).startswith(f"item 'auk/6': {path}: broken image")
        assert "on_missing=drop" in str(caught.value)
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("broken", [False, True])
def test_workers_end_by_themselves_even_in_a_cycle(items, broken, monkeypatch):
    """Left to the garbage collector alone, each is waited for in vain and then killed."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 3600.0)  # a worker that is not told does not look, either
    killed = []
    terminate = multiprocessing.Process.terminate
    monkeypatch.setattr(multiprocessing.Process, "terminate", lambda self: (killed.append(self), terminate(self)))
    if broken:
        with open(items["path"][13], "r+b") as file:
            file.truncate(200)

    class Job:
        pass

    def run():
        job = Job()
        job.me, job.loader = job, train(items, 2)
        list(job.loader)

    if broken:
        with pytest.raises(InputError):
            run()
    else:
        run()
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 20.0)  # how long each may take before it is killed
    gc.collect()
    assert not multiprocessing.active_children()
    assert not killed


def test_own_decode(items):
    seen = []

    def grey(path):
        seen.append(path)
        return torch.full((3, 30, 30), 7, dtype=torch.uint8)

    batch = next(iter(eval_loader(items, EVAL, 5, 0, decode=grey)))
    assert (batch.views[0] == 7).all()
    assert seen == items["path"].tolist()[:5]


def test_bad_input(items):
    with pytest.raises(InputError, match="no column 'path'"):
        ImageItems(items.drop(columns="path"), EVAL)
    with pytest.raises(InputError, match="split is empty"):
        ImageItems(items[:0], EVAL)
    with pytest.raises(InputError, match="views"):
        ImageItems(items, EVAL, views=0)
    with pytest.raises(InputError, match="made for 10 items, the loader has 42"):
        train(items, 0, Shuffle([0] * 10, seed=0, batch_size=5))
    with pytest.raises(InputError, match="workers"):
        train(items, -1)


def test_pinning_without_a_gpu_is_quiet(items, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(eval_loader(items, EVAL, 10, 0, pin_memory=True))) == 5


@pytest.mark.gpu
def test_pinned_batches(items):
    batch = next(iter(train(items, 2, pin_memory=True)))
    assert batch.views[0].is_pinned()
    assert batch.to("cuda").views[0].is_cuda


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, 1, 0), (2, 1, 0), (4, 1, 3), (64, 1, 8), (8, 4, 0), (16, 4, 3)])  # fmt: skip
def test_default_workers(monkeypatch, cores, processes, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert default_workers(processes) == expected


def test_transforms_without_randomness_need_no_seed(items):
    dataset = ImageItems(items, nn.Identity())
    assert torch.equal(dataset[0].views[0], dataset[Draw(0, 3)].views[0])
