"""From a manifest of pairs to batches: examples, padding, missing modalities, the sampler, and what `check` tells."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from metrixkit.data import DATASETS, SAMPLERS
from metrixkit.data.__main__ import main
from metrixkit.data.check_pairs import check_pairs
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.one_per_item import OnePerItem
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.data.pair_sources import find_videos
from metrixkit.data.pairs import PairItems, modality_readers, pair_loader
from metrixkit.errors import InputError
from metrixkit.indexing.videos import read_videos


def table(rows, columns):
    return pd.DataFrame(rows, columns=columns, dtype="str")


@pytest.fixture
def manifest(tmp_path) -> PairManifest:
    """Five items with two captions each; clips of 4 frames, features of 1 to 5 vectors; c lacks its features."""
    generator = np.random.default_rng(0)
    np.save(tmp_path / "clips.npy", generator.integers(0, 256, (5, 4, 8, 8), dtype=np.uint8))
    np.savez(tmp_path / "f.npz", **{key: generator.normal(size=(n, 3)) for n, key in enumerate("abcde", start=1)})
    cells = [
        (k, "train", f"{tmp_path}/clips.npy#{i}", "" if k == "c" else f"{tmp_path}/f.npz#{k}")
        for i, k in enumerate("abcde")
    ]
    texts = [(f"{key}#{n}", f"{key} {n}", key, "train") for key in "edcba" for n in range(2)]
    return PairManifest(
        "toy",
        "given",
        table(cells, ["id", "split", "video", "audio"]),
        table(texts, ["id", "caption", "item", "split"]),
        {"video": "video", "audio": "features"},
        tmp_path,
    )


READ = {"video": FrameReader(size=8)}


def same(a, b):
    return (
        a.ids == b.ids
        and a.texts == b.texts
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.mask, b.mask)
        and a.modalities.keys() == b.modalities.keys()
        and all(torch.equal(a.modalities[k], b.modalities[k]) for k in a.modalities)
    )


def test_batches_by_items(manifest):
    first, second = pair_loader(PairItems(manifest, "items", READ), 3, workers=0)
    assert first.ids == ["a", "b", "c"]
    assert first.texts == []
    assert first.labels.tolist() == [0, 1, 2]
    assert first.mask.tolist() == [[True, True], [True, True], [True, False]]
    assert first.modalities["video"].shape == (3, 4, 3, 8, 8)
    assert first.modalities["video"].dtype == torch.uint8
    assert first.modalities["audio"].shape == (3, 2, 3)
    assert first.modalities["audio_mask"].tolist() == [[True, False], [True, True], [False, False]]
    assert first.modalities["audio"][2].eq(0).all()
    assert second.modalities["audio"].shape == (2, 5, 3)
    moved = first.to("cpu")
    assert moved.texts == first.texts
    assert same(moved, first)
    (short,) = pair_loader(PairItems(manifest, "items", READ), 9, workers=0, max_length=2)
    assert short.modalities["video"].shape == (5, 2, 3, 8, 8)
    assert short.modalities["audio_mask"].sum(dim=1).tolist() == [1, 2, 0, 2, 2]


def test_batches_by_texts(manifest):
    (batch,) = pair_loader(PairItems(manifest, "texts", READ, ["video"]), 20, workers=0)
    assert batch.ids[:3] == ["e#0", "e#1", "d#0"]
    assert batch.texts[:3] == ["e 0", "e 1", "d 0"]
    assert batch.labels.tolist() == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]
    assert torch.equal(batch.modalities["video"][0], batch.modalities["video"][1])
    assert set(batch.modalities) == {"video", "video_mask"}


@pytest.mark.gpu
def test_pinned_batches_of_pairs(manifest):
    batch = next(iter(pair_loader(PairItems(manifest, read=READ), 4, workers=2, pin_memory=True)))
    assert batch.modalities["video"].is_pinned()
    moved = batch.to("cuda")
    assert moved.modalities["video"].is_cuda
    assert moved.mask.is_cuda
    assert moved.texts == batch.texts


def test_an_absent_modality_is_left_out_and_nothing_at_all_is_an_error(manifest):
    lonely = replace(manifest, items=manifest.items[manifest.items["id"] == "c"], texts=manifest.texts[:0])
    (batch,) = pair_loader(PairItems(lonely, "items", READ), 5, workers=0)
    assert set(batch.modalities) == {"video", "video_mask"}
    assert batch.mask.tolist() == [[True, False]]
    with pytest.raises(InputError, match="'c' has none of the modalities audio; nothing was observed"):
        list(pair_loader(PairItems(lonely, "items", modalities=["audio"]), 5, workers=0))
    with pytest.raises(InputError, match="no texts to load"):
        PairItems(lonely)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_named_whatever_the_process(manifest, workers):
    items = manifest.items.copy()
    items.loc[3, "audio"] = items.loc[3, "audio"].replace("#d", "#x")
    with pytest.raises(InputError) as caught:
        list(pair_loader(PairItems(replace(manifest, items=items), "items", READ), 2, workers=workers))
    assert str(caught.value).startswith("item 'd', audio: features ")
    assert "data.on_missing=drop" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_unlike_dimensions_name_the_items(manifest):
    items = manifest.items.copy()
    np.save(manifest.root / "wide.npy", np.zeros((2, 7)))
    items.loc[1, "audio"] = str(manifest.root / "wide.npy")
    with pytest.raises(InputError, match="modality 'audio' of 'a', 'b', .*sequence 1 has shape"):
        list(pair_loader(PairItems(replace(manifest, items=items), "items", READ), 5, workers=0))


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_resume_and_do_not_depend_on_workers(manifest, workers):
    items = PairItems(manifest, read=READ)

    def loader(count):
        return pair_loader(items, OnePerItem(items.item_of_example, seed=3, batch_size=3), workers=count)

    expected, found = loader(0), loader(workers)
    for epoch in (0, 1):
        for each in (expected, found):
            each.batch_sampler.set_epoch(epoch)
        batches = list(found)
        assert len(batches) == len(found) == 3
        assert all(same(a, b) for a, b in zip(expected, batches, strict=True))
        assert all(len(set(batch.labels.tolist())) == 3 for batch in batches)
    resumed = loader(workers)
    resumed.batch_sampler.load_state_dict({"epoch": 1, "position": 2})
    assert all(same(a, b) for a, b in zip(batches[2:], resumed, strict=True))
    with pytest.raises(InputError, match="made for 4 examples, the loader has 10"):
        pair_loader(items, OnePerItem([0, 1, 2, 3], 0, batch_size=2), 0)


def test_text_modalities_need_a_tokenizer(manifest):
    named = replace(manifest, items=manifest.items.assign(name=["x", "yy", "", "z", "z"]), modalities={"name": "text"})
    with pytest.raises(InputError, match="name a tokenizer"):
        PairItems(named)
    part = replace(named, items=named.items[named.items["name"] != ""], texts=named.texts[:0])
    tokens = PairItems(part, "items", {"name": lambda text: torch.tensor([ord(c) for c in text])})
    (batch,) = pair_loader(tokens, 8, workers=0)
    assert batch.modalities["name"].tolist() == [[120, 0], [121, 121], [122, 0], [122, 0]]
    with pytest.raises(InputError, match="no modality 'sound'"):
        PairItems(manifest, modalities=["sound"])
    assert set(modality_readers()) == {"video", "image", "features"}


def test_manifest_refuses_what_does_not_fit(manifest):
    texts, items = manifest.texts, manifest.items
    for change, reason in (
        ({"texts": texts.assign(item="z")}, "belongs to the item 'z', which is not listed"),
        ({"texts": texts.assign(split="test")}, "stands in split 'test', its item 'e' in 'train'"),
        ({"texts": pd.concat([texts, texts[:1]])}, "ids of texts must be unique, 1 stand"),
        ({"texts": texts.assign(caption=" ")}, "column 'caption' is empty in row 0 of texts"),
        ({"items": items[:0]}, "empty"),
        ({"items": items.drop(columns="audio")}, "the items lack the column 'audio'"),
        ({"items": items.assign(audio=1)}, "column 'audio' of the items must hold strings"),
        ({"items": items.assign(split="trian"), "texts": texts.assign(split="trian")}, "Did you mean 'train'"),
        ({"modalities": {"video": "vid"}}, "no kind of modality is called 'vid'"),
    ):
        with pytest.raises(InputError, match=reason):
            replace(manifest, **change)
    part = replace(manifest, items=items.assign(split=["test", *["train"] * 4]), texts=texts[:8]).part("test")
    assert (part.ids, len(part.texts)) == (["a"], 0)
    with pytest.raises(InputError, match="no items in split 'gallery'"):
        manifest.part("gallery")


def test_stretches_of_one_video_are_held_out_together(manifest):
    items = manifest.items.assign(video=["x.mp4#t=0,5", "x.mp4#t=5,9", "y.mp4#t=0,5", "y.mp4#t=5,6", "z.mp4"])
    whole = replace(manifest, items=items)
    for seed in range(6):
        split = pairs_with_validation(whole, 0.3, seed).items["split"].tolist()
        assert split[0] == split[1]
        assert split[2] == split[3]
        assert "train" in split
        assert "validation" in split
    named = replace(manifest, items=manifest.items.assign(video_id=["v"] * 4 + ["w"]))
    split = pairs_with_validation(named, 0.5, 0).items["split"].tolist()
    assert len(set(split[:4])) == 1
    with pytest.raises(InputError, match="stretches of one video"):
        pairs_with_validation(replace(manifest, items=manifest.items.assign(video_id="v")), 0.5, 0)


@pytest.mark.parametrize("sizes", [[20] * 60, [1, 2, 30, 4, 5, 6, 7], [3] * 5, list(range(1, 41))])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_sampler_has_distinct_items_and_full_batches(sizes, batch_size):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    sampler = OnePerItem(labels, seed=1, batch_size=batch_size)
    seen: Counter = Counter()
    for epoch in range(3):
        plan = sampler.plan(epoch)
        assert len(plan) == len(sampler)
        assert all(len(batch) == batch_size == len(set(labels[batch])) for batch in plan)
        rows = [row for batch in plan for row in batch]
        assert len(set(rows)) == len(rows)
        seen.update(rows)
    # No more batches were possible, and no caption is always left out.
    more = len(sampler) + 1
    assert sum(min(n, more) for n in sizes) < more * batch_size
    if max(sizes) <= len(sampler):
        assert len(sampler) == len(labels) // batch_size
        assert len(seen) == len(labels)
    assert sampler.plan(0) == OnePerItem(labels, seed=1, batch_size=batch_size).plan(0) != sampler.plan(1)


def test_sampler_lets_chance_decide_who_meets():
    labels = np.repeat(np.arange(100), 10)
    plan = OnePerItem(labels, seed=0, batch_size=20).plan(0)
    met = Counter(labels[row] for batch in plan if 7 in labels[batch] for row in batch)
    assert met.pop(7) == 10
    assert max(met.values()) <= 7  # 190 places for 99 others: 1.9 each on average
    assert len(met) > 70


def test_sampler_one_caption_an_epoch():
    labels = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    sampler = OnePerItem(labels, seed=0, batch_size=3, captions="one")
    assert len(sampler) == 2
    taken = {tuple(sorted(row for batch in sampler.plan(epoch) for row in batch)) for epoch in range(8)}
    assert all(sorted(labels[list(rows)]) == list(range(6)) for rows in taken)
    assert len(taken) > 4
    with pytest.raises(InputError, match="7, but the training split has 6 items"):
        OnePerItem(labels, seed=0, batch_size=7)
    with pytest.raises(InputError, match="'all' or 'one'"):
        OnePerItem(labels, seed=0, batch_size=2, captions="two")


def test_sampler_parts_of_processes_are_the_batch():
    labels = np.repeat(np.arange(30), 4)
    whole = list(OnePerItem(labels, 5, batch_size=8))
    parts = [list(OnePerItem(labels, 5, rank=rank, world_size=2, batch_size=8)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole
    assert SAMPLERS["one-per-item"] is OnePerItem


def test_check_names_what_is_wrong(manifest):
    items = manifest.items.copy()
    items.loc[0, "video"] = f"{manifest.root}/clips.npy#99"
    items.loc[2, "video"] = ""
    texts = pd.concat(
        [manifest.texts[:8], table([("x", "e 0", "e", "train"), ("y", "e 0", "d", "train")], manifest.texts.columns)]
    )
    report = check_pairs(replace(manifest, items=items, texts=texts, absent=("c: no video",), unused=("lost.mp4",)))
    assert report.bare == ("a",)
    assert report.twice == ("e: e 0",)
    assert report.shared == ("e 0",)
    assert len(report.unreadable) == 1
    assert report.unreadable[0].startswith("a: ")
    shown = report.render()
    for line in (
        "1 items have no caption: a",
        "1 captions stand twice for their item: e: e 0",
        "belong to no listed item: lost.mp4",
    ):
        assert line in shown
    assert check_pairs(manifest).problems == []
    assert check_pairs(replace(manifest, items=manifest.items.assign(video="", audio=""))).empty == tuple("abcde")
    assert check_pairs(replace(manifest, modalities={})).problems == []
    # In published sets people wrote sentences twice: told, but no problem.
    published = check_pairs(replace(manifest, texts=texts, expected={"train": 5}), deep=False)
    assert len(published.problems) == 1
    assert "stand twice" in published.render()
    assert "5 of the published 6" in check_pairs(replace(manifest, expected={"train": 6})).render()


def test_door_checks_own_captions(tmp_path, capsys):
    np.savez(tmp_path / "v.npz", a=np.ones((2, 3)), b=np.full(3, np.nan), z=np.ones(3))
    (tmp_path / "t.csv").write_text("id,caption\na,one\nb,two\nc,three\na,one\n")
    given = ["check", "captions", f"table={tmp_path / 't.csv'}", f"features.video={tmp_path / 'v.npz'}"]
    assert main(given) == 1
    shown = capsys.readouterr().out
    for line in ("c: no video", "b: features", "NaN", "stand twice for their item: a: one", "no listed item: video: z"):
        assert line in shown
    (tmp_path / "t.csv").write_text("id,caption,split\na,one,train\nz,two,test\n")
    np.savez(tmp_path / "v.npz", a=np.ones((2, 3)), z=np.ones(3))
    assert main([*given, "--lists-only"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("OK")
    assert main(["check", "captions"]) == 2
    assert main(["check", "captions", f"table={tmp_path / 't.csv'}", "featuers.video=x"]) == 2
    assert "Did you mean" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.slow
def test_eighteen_real_clips_of_which_one_is_broken(shared_data, tmp_path):
    names = sorted(path.name for path in (shared_data / "videos").iterdir())
    rows = "".join(f"{Path(name).stem},{name},this is {name}\n" for name in names)
    (tmp_path / "t.csv").write_text("id,path,caption\n" + rows + "gone,gone.mp4,this is gone\n")
    options = {"table": str(tmp_path / "t.csv"), "root": str(shared_data / "videos"), "verify": True}
    reader = DATASETS["captions"]
    with pytest.raises(InputError, match=r"2 of 19 listed items lack something: corrupted: .*cannot be decoded"):
        reader(**options).read()
    found = reader(**options, on_missing="drop").read()
    assert (len(found), len(found.texts), found.dropped) == (17, 17, 2)


@pytest.mark.slow
def test_door_as_a_programme_on_pairs(repository, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "metrixkit.data", "check", "glyphs_video_text", "characters=8", "frames=3"],
        cwd=repository,
        env=dict(os.environ, METRIXKIT_CACHE=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "with outline" in done.stdout


def test_videos_behind_links_are_there_and_loops_end(tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool/b.mp4").touch()
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.MP4").touch()
    (tmp_path / "clips/.c.mp4").touch()
    (tmp_path / "clips/linked").symlink_to("../pool")
    (tmp_path / "clips/up").symlink_to("..")
    found = find_videos(tmp_path / "clips")
    assert found == {"a": str(tmp_path / "clips/a.MP4"), "b": str(tmp_path / "clips/linked/b.mp4")}


def test_videos_whose_name_is_all_there_is_must_differ(tmp_path):
    for folder in ("cam1", "cam2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0001.mp4").touch()
    (tmp_path / "cam1/0001.webm").touch()  # another form of the same clip
    with pytest.raises(InputError, match="bear one name, '0001'"):
        read_videos([str(tmp_path)], "video")
    with pytest.raises(InputError, match="bear one name, '0001'"):
        read_videos([str(tmp_path / "cam1"), str(tmp_path / "cam2/0001.mp4")], "video")
    assert read_videos([str(tmp_path / "cam1")], "video").items["path"].tolist() == [str(tmp_path / "cam1/0001.mp4")]
    assert len(find_videos(tmp_path)) == 1
