"""Readers of video-text sets: on real lists where they are at hand, else on small ones of the published form."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from metrixkit.data.pair_manifest import pairs_with_validation
from metrixkit.data.sets import activitynet, msrvtt, msvd, youcook2
from metrixkit.data.sets.activitynet import ActivityNet
from metrixkit.data.sets.captions import CaptionColumns, Captions
from metrixkit.data.sets.msrvtt import MSRVTT
from metrixkit.data.sets.msvd import MSVD
from metrixkit.data.sets.youcook2 import YouCook2
from metrixkit.errors import InputError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def small_msrvtt(tmp_path, monkeypatch):
    """Six videos: 0-2 train, 3 validation, 4-5 test; 1k-A tests on 5."""
    folder = tmp_path / "MSRVTT"
    folder.mkdir()
    official = ["train"] * 3 + ["validate"] + ["test"] * 2
    data = {
        "videos": [{"video_id": f"video{i}", "split": split} for i, split in enumerate(official)],
        "sentences": [
            {"sen_id": 20 * i + k, "video_id": f"video{i}", "caption": f"{i} {k}"} for k in range(20) for i in range(6)
        ],
    }
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    (folder / "MSRVTT_JSFUSION_test.csv").write_text('key,vid_key,video_id,sentence\nret0,msr5,video5,"one, two"\n')
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"video{i}\n" for i in range(5)))
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\n" + "".join(f"video{i}\n" for i in range(4)))
    touch(folder, *(f"videos/video{i}.mp4" for i in range(5)), "videos/video5.webm", "videos/video4.webm")
    counts = {
        "9k": {"train": 5, "test": 1},
        "7k": {"train": 4, "test": 1},
        "full": {"train": 3, "validation": 1, "test": 2},
    }
    monkeypatch.setattr(msrvtt, "_PUBLISHED", counts)
    return folder


def test_msrvtt_protocols(small_msrvtt):
    found = MSRVTT(str(small_msrvtt)).read()
    assert found.split_name == "1k-A-9k"
    assert found.counts() == {"train": 5, "test": 1}
    assert found.text_counts() == {"train": 100, "test": 1}
    assert list(found.part("test").captions) == ["one, two"]
    assert found.texts["id"][:2].tolist() == ["video0#0", "video0#1"]
    assert list(found.captions[:2]) == ["0 0", "0 1"]
    videos = dict(zip(found.ids, found.items["video"], strict=True))
    assert videos["video4"].endswith("videos/video4.mp4")  # before .webm
    assert videos["video5"].endswith("videos/video5.webm")
    assert np.array_equal(found.item_of_text, [*np.repeat(np.arange(5), 20), 5])
    assert MSRVTT(str(small_msrvtt), protocol="7k").read().counts() == {"train": 4, "test": 1}
    full = MSRVTT(str(small_msrvtt), protocol="full").read()
    assert (full.split_name, full.counts()) == ("full", {"train": 3, "validation": 1, "test": 2})
    assert full.text_counts() == {"train": 60, "validation": 20, "test": 40}
    many = MSRVTT(str(small_msrvtt.parent), test_captions="all", splits=["test"]).read()
    assert (many.split_name, many.text_counts()) == ("1k-A-9k-20captions", {"test": 20})


def test_msrvtt_copies_with_semicolons(small_msrvtt):
    (small_msrvtt / "MSRVTT_JSFUSION_test.csv").write_text("key;vid_key;video_id;sentence\nret0;msr5;video5;a, b\n")
    assert list(MSRVTT(str(small_msrvtt)).read().part("test").captions) == ["a, b"]


def test_msrvtt_counts_missing_files_and_overlap(small_msrvtt):
    train = small_msrvtt / "MSRVTT_train.9k.csv"
    whole = train.read_text()
    train.write_text(whole.replace("video3\n", ""))
    with pytest.raises(InputError, match=r"'train' has 4 videos, published are 5.*data\.counts=false"):
        MSRVTT(str(small_msrvtt)).read()
    assert MSRVTT(str(small_msrvtt), counts=False).read().split_name == "1k-A-9k-own"
    train.write_text(whole.replace("video3", "video5"))
    with pytest.raises(InputError, match="'video5' stands in 'train' and in 'test'"):
        MSRVTT(str(small_msrvtt)).read()
    train.write_text(whole.replace("video3", "video1"))
    with pytest.raises(InputError, match="'video1' stands there twice"):
        MSRVTT(str(small_msrvtt)).read()
    train.write_text(whole.replace("video3", "video9"))
    with pytest.raises(InputError, match="1 of 5 listed videos have no caption: video9"):
        MSRVTT(str(small_msrvtt)).read()
    train.write_text(whole)
    (small_msrvtt / "videos" / "video2.mp4").unlink()
    with pytest.raises(InputError, match=r"1 of 6 listed items lack something: video2: no video.*on_missing=drop"):
        MSRVTT(str(small_msrvtt)).read()
    dropped = MSRVTT(str(small_msrvtt), on_missing="drop").read()
    assert (dropped.dropped, dropped.absent, len(dropped.texts)) == (1, ("video2: no video",), 81)
    blank = MSRVTT(str(small_msrvtt), on_missing="blank").read()
    assert (blank.dropped, blank.present[:, 0].tolist()) == (0, [True, True, False, True, True, True])
    (small_msrvtt / "videos" / "video5.webm").unlink()
    with pytest.raises(InputError, match="Nothing of the split 'test' would be left"):
        MSRVTT(str(small_msrvtt), on_missing="drop").read()
    data = json.loads((small_msrvtt / "MSRVTT_data.json").read_text())
    data["sentences"].pop()
    (small_msrvtt / "MSRVTT_data.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="'video5' has 19 captions, published are 20"):
        MSRVTT(str(small_msrvtt), protocol="full").read()
    (small_msrvtt / "MSRVTT_data.json").unlink()
    with pytest.raises(InputError, match=r"holds the training captions.*data\.splits=\[test\]"):
        MSRVTT(str(small_msrvtt)).read()
    with pytest.raises(InputError, match="no split is called 'val'"):
        MSRVTT(splits=["val"])


def test_features_stand_for_files(small_msrvtt, tmp_path):
    np.savez(tmp_path / "v.npz", **{f"video{i}": np.ones((2, 3)) for i in range(7)})
    np.save(tmp_path / "t.npy", np.ones((101, 4)))
    keys = [f"video{i}#{k}" for i in range(5) for k in range(20)] + ["video5#0"]
    (tmp_path / "t.txt").write_text("\n".join(keys))
    found = MSRVTT(
        str(small_msrvtt),
        features={"video": str(tmp_path / "v.npz")},
        text_features=str(tmp_path / "t.npy"),
        verify=True,
    ).read()
    assert dict(found.modalities) == {"video": "features"}
    assert found.items["video"][0] == f"{tmp_path / 'v.npz'}#video0"
    assert found.texts["features"].iloc[-1] == f"{tmp_path / 't.npy'}#100"
    assert found.unused == ("video: video6",)
    (tmp_path / "t.txt").write_text("\n".join([*keys[:-1], "other"]))
    with pytest.raises(InputError, match=r"1 of 101 captions have no features in .*t\.npy .*: video5#0"):
        MSRVTT(str(small_msrvtt), text_features=str(tmp_path / "t.npy")).read()
    with pytest.raises(InputError, match="both give the videos"):
        MSRVTT(str(small_msrvtt), videos="x", features={"video": str(tmp_path / "v.npz")}).read()
    with pytest.raises(InputError, match="no modality can be called 'split'"):
        MSRVTT(str(small_msrvtt), features={"split": str(tmp_path / "v.npz")}).read()


def test_validation_is_held_out_of_training(small_msrvtt):
    found = MSRVTT(str(small_msrvtt)).read()
    held = pairs_with_validation(found, 0.4, seed=1)
    assert held.counts() == {"train": 3, "validation": 2, "test": 1}
    assert held.text_counts() == {"train": 60, "validation": 40, "test": 1}
    assert held.ids == found.ids
    assert "train" not in held.expected
    assert pairs_with_validation(found, 0.0, 0) is found
    assert pairs_with_validation(held, 0.4, 0) is held
    with pytest.raises(InputError, match="share"):
        pairs_with_validation(found, 1.0, 0)


def test_msvd(tmp_path, monkeypatch):
    monkeypatch.setattr(msvd, "_PUBLISHED", {"train": 2, "validation": 1, "test": 1})
    for split, ids in (("train", "a_1_2\nb_1_2\n"), ("val", "c_1_2\n"), ("test", "d_1_2\n\n")):
        (tmp_path / f"{split}_list.txt").write_text(ids)
    words = {key: [["two", "words"], [b"caf\xc3\xa9", b"caf\xe9"]] for key in ("a_1_2", "b_1_2", b"c_1_2", "d_1_2")}
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(words))
    touch(tmp_path, *(f"clips/{key}_1_2.avi" for key in "abcd"))
    found = MSVD(str(tmp_path)).read()
    assert found.counts() == {"train": 2, "validation": 1, "test": 1}
    assert list(found.captions[:2]) == ["two words", "café café"]
    assert found.unused == ()
    (tmp_path / "raw-captions.pkl").unlink()
    (tmp_path / "captions_msvd.json").write_text(json.dumps({f"{key}_1_2": ["x"] for key in "abcd"}))
    assert list(MSVD(str(tmp_path)).read().captions) == ["x"] * 4
    (tmp_path / "val_list.txt").write_text("d_1_2\n")
    with pytest.raises(InputError, match="'d_1_2' stands in two lists"):
        MSVD(str(tmp_path)).read()


def test_activitynet(tmp_path, monkeypatch):
    monkeypatch.setattr(activitynet, "_PUBLISHED", {"train": 2, "test": 1})
    entry = {"duration": 82.5, "timestamps": [[0, 3.5], [3, 9]], "sentences": ["A man. ", " He jumps."]}
    (tmp_path / "train.json").write_text(json.dumps({"v_a": entry, "v_b": entry, "v_x": entry}))
    (tmp_path / "val_1.json").write_text(json.dumps({"v_-c": entry}))
    (tmp_path / "train_ids.json").write_text(json.dumps(["v_b", "a"]))
    touch(tmp_path, "v/v_a.mp4", "v/b.mkv", "v/v_-c.webm")
    found = ActivityNet(str(tmp_path)).read()
    assert found.ids == ["b", "a", "-c"]
    assert list(found.captions) == ["A man. He jumps."] * 3
    assert found.items["duration"].tolist() == ["82.5"] * 3
    assert found.present.all()
    (tmp_path / "train_ids.json").write_text(json.dumps(["v_b", "a", "z"]))
    with pytest.raises(InputError, match="1 of 3 listed videos have no caption: z"):
        ActivityNet(str(tmp_path)).read()
    (tmp_path / "train_ids.json").unlink()
    with pytest.raises(InputError, match="'train' has 3 videos, published are 2"):
        ActivityNet(str(tmp_path)).read()


def test_youcook2(tmp_path, monkeypatch):
    monkeypatch.setattr(youcook2, "_PUBLISHED", {"train": 2, "test": 1})
    steps = [{"id": 0, "segment": [10, 21.5], "sentence": "cut"}, {"id": 1, "segment": [30, 40], "sentence": "fry"}]
    base = {"u": {"subset": "training", "annotations": steps}, "w": {"subset": "validation", "annotations": steps[:1]}}
    path = tmp_path / "youcookii_annotations_trainval.json"
    path.write_text(json.dumps({"database": base}))
    touch(tmp_path, "raw/u.mkv", "raw/w.mp4")
    found = YouCook2(str(tmp_path)).read()
    assert found.ids == ["u/0", "u/1", "w/0"]
    assert list(found.captions) == ["cut", "fry", "cut"]
    assert found.items["video"].tolist() == [
        str(tmp_path / "raw" / n) for n in ("u.mkv#t=10,21.5", "u.mkv#t=30,40", "w.mp4#t=10,21.5")
    ]
    assert found.items["video_id"].tolist() == ["u", "u", "w"]
    assert "file" not in found.items.columns
    steps[1]["segment"] = [40, 40]
    path.write_text(json.dumps({"database": base}))
    with pytest.raises(InputError, match=r"clip 'u/1' has no length"):
        YouCook2(str(tmp_path)).read()
    path.write_text("{}")
    with pytest.raises(InputError, match="expected 'database'"):
        YouCook2(str(tmp_path)).read()


@pytest.mark.data
def test_real_msrvtt_lists(shared_data):
    one = MSRVTT(str(shared_data), splits=["test"], on_missing="blank").read()
    assert one.counts() == dict(one.expected) == {"test": 1_000}
    assert one.captions[0] == "a person is connecting something to system"
    assert len(set(one.captions)) == 995
    many = MSRVTT(str(shared_data), splits=["test"], test_captions="all", on_missing="blank").read()
    assert (len(many.texts), many.ids) == (20_000, one.ids)
    assert (np.bincount(many.item_of_text) == 20).all()
    for protocol, count in (("9k", 9_000), ("7k", 7_010)):
        ids = msrvtt._ids(shared_data / "MSRVTT" / f"MSRVTT_train.{protocol}.csv")
        assert len(ids) == msrvtt._PUBLISHED[protocol]["train"] == count
        assert not set(ids) & set(one.ids)


@pytest.mark.data
def test_real_msvd_lists(shared_data):
    found = MSVD(str(shared_data), on_missing="blank").read()
    assert found.counts() == {"train": 1_200, "validation": 100, "test": 670}
    assert found.text_counts() == {"train": 48_774, "validation": 4_290, "test": 27_763}
    with pytest.raises(InputError, match=r"1,970 of 1,970 listed items lack something.*data\.videos=FOLDER"):
        MSVD(str(shared_data)).read()


TABLE = """id,caption,path,split
b,a film,films/b.mp4,train
a,a clip,films/a.mp4,test
b,"again, a film",,train
"""


def captions(tmp_path, text=TABLE, name="t.csv", **options):
    (tmp_path / name).write_text(text)
    return Captions(str(tmp_path / name), **options)


def test_own_captions(tmp_path):
    touch(tmp_path, "films/a.mp4", "films/b.mp4")
    found = captions(tmp_path).read()
    assert found.ids == ["b", "a"]
    assert found.texts.values.tolist() == [
        ["b#0", "a film", "b", "train"],
        ["b#1", "again, a film", "b", "train"],
        ["a#0", "a clip", "a", "test"],
    ]
    assert found.items["video"].tolist() == [str(tmp_path / "films" / f"{key}.mp4") for key in "ba"]
    semicolons = "id;caption;path\nb;a, b;films/b.mp4#t=1,2\na;x;films/a.mp4\n"
    divided = captions(tmp_path, semicolons, test_share=0.5).read()
    assert divided.split_name == "share0.5-seed0"
    assert divided.counts() == {"train": 1, "test": 1}
    assert divided.items["video"][0].endswith("b.mp4#t=1,2")
    lines = "\n".join(json.dumps({"clip": k, "text": k}) for k in "ab")
    by_id = captions(tmp_path, lines, "t.jsonl", columns=CaptionColumns(id="clip", caption="text")).read()
    assert by_id.items["video"].tolist() == [str(tmp_path / "films" / f"{key}.mp4") for key in "ab"]


def test_own_captions_with_modalities(tmp_path):
    touch(tmp_path, "p/a.png")
    np.savez(tmp_path / "audio.npz", x1=np.ones(3), x2=np.ones(3))
    table = "id,picture,speech,audio,label\na,p/a.png,,x2,dog\nb,,hello,,cat\nc,,,,cat\n"
    options = dict(
        columns=CaptionColumns(caption=None),
        modalities={"picture": "image", "speech": "text"},
        features={"audio": str(tmp_path / "audio.npz")},
    )
    found = captions(tmp_path, table, **options).read()
    assert dict(found.modalities) == {"picture": "image", "speech": "text", "audio": "features"}
    assert found.present.tolist() == [[True, False, True], [False, True, False], [False, False, False]]
    assert len(found.texts) == 0
    assert found.items["label"].tolist() == ["dog", "cat", "cat"]
    with pytest.raises(InputError, match=r"1 of 3 listed items lack something: a: .*p/gone\.png is missing"):
        captions(tmp_path, table.replace("p/a.png", "p/gone.png"), **options).read()
    with pytest.raises(InputError, match="names 'x9', which"):
        captions(tmp_path, table.replace("x2", "x9"), **options).read()


def test_own_captions_bad_tables(tmp_path):
    touch(tmp_path, "films/a.mp4", "films/b.mp4")
    for text, reason in (
        (TABLE.replace("a clip", ""), r"row 2: column 'caption' .* is empty"),
        (TABLE.replace('again, a film",,train', 'x",,test'), r"rows of 'b' disagree about 'split' \(train, test\)"),
        (TABLE.replace('film",,', 'film",films/a.mp4,'), "rows of 'b' disagree about 'video'"),
        (TABLE.replace("test", "tset"), "row 2: no split is called 'tset'. Did you mean 'test'"),
        (TABLE.replace("films/a.mp4", "films/x.mp4"), r"a: .*films/x\.mp4 is missing"),
        (TABLE.replace("films/a.mp4", ""), "a: no video"),
        (TABLE.replace("caption", "captoin"), "Did you mean 'captoin'"),
    ):
        with pytest.raises(InputError, match=reason):
            captions(tmp_path, text).read()
    with pytest.raises(InputError, match="Did you mean 'video'"):
        captions(tmp_path, modalities={"x": "vidoe"})
    with pytest.raises(InputError, match="called 'split'"):
        captions(tmp_path, modalities={"split": "text"})
    with pytest.raises(InputError, match="one item cannot be divided"):
        captions(tmp_path, "id,caption,path\na,b,films/a.mp4\n").read()
