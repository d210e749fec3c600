"""Frames: which are taken, and what is decoded from real and from broken files."""

from __future__ import annotations

import builtins
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from metrixkit.data import frames as frames_module
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.frame_times import Segment, choose_frames, parse_segment, sample_indices
from metrixkit.data.frames import read_frames
from metrixkit.errors import InputError

av = pytest.importorskip("av")
RULES = json.loads((Path(__file__).parent.parent / "fixtures" / "dmm.json").read_text())["frame_sampling"]["outputs"]


def write_video(path: Path, frames: int = 20, fps: int = 10, codec: str = "mpeg4", size: int = 32, **options) -> Path:
    """Frame k has one grey level, 10 k + 5, so that a frame tells its number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = size, size, "yuv420p", 4_000_000
        stream.time_base = Fraction(1, fps)
        for number in range(frames):
            grey = np.full((size, size, 3), min(10 * number + 5, 255), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def numbers(clip) -> list[int]:
    return [round((float(frame.float().mean()) - 5) / 10) for frame in clip.frames]


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "twenty.mp4")


@pytest.mark.parametrize("available", [13, 15, 20, 30, 32])
def test_uniform_is_that_of_clip4clip(available):
    assert sample_indices(available, 12).tolist() == RULES["clip4clip"][str(available)]


@pytest.mark.parametrize("case", sorted(RULES["coot_eval"]))
def test_segments_are_those_of_coot(case):
    available, count = map(int, case.split("->"))
    assert sample_indices(available, count, "segments").tolist() == RULES["coot_eval"][case]


def test_indices_are_ascending_and_bounded():
    for available in range(1, 40):
        for count in range(1, 15):
            for sampling in ("uniform", "head", "tail", "segments"):
                found = sample_indices(available, count, sampling)
                assert len(found) == min(count, available)
                assert found[0] >= 0
                assert found[-1] < available
                assert (np.diff(found) > 0).all()
    assert sample_indices(9, 3, "head").tolist() == [0, 1, 2]
    assert sample_indices(9, 3, "tail").tolist() == [6, 7, 8]
    with pytest.raises(InputError, match=r"Did you mean 'uniform'"):
        sample_indices(3, 2, "unifrom")
    with pytest.raises(InputError, match="0 of 3"):
        sample_indices(3, 0)


def test_segments_in_references():
    assert parse_segment("a#b.mp4") == Segment("a#b.mp4")
    assert parse_segment("a.mp4#t=1.5,20") == Segment("a.mp4", 1.5, 20.0)
    assert parse_segment("a.mp4#t=,20") == Segment("a.mp4", 0.0, 20.0)
    assert parse_segment("a.mp4#t=3") == Segment("a.mp4", 3.0)
    with pytest.raises(InputError, match="not after its start"):
        parse_segment("a.mp4#t=5,5")


def test_choice_on_a_timeline():
    shown = np.arange(100) / 25  # frames each 40 ms, the last at 3.96 s
    whole = Segment("v")

    def choose(segment=whole, times=None, count=None, fps=1.0, max_frames=12, sampling="uniform"):
        return choose_frames(shown, segment, times, count, fps, max_frames, sampling).tolist()

    assert choose() == [0, 25, 50, 75]
    assert choose(fps=25, max_frames=None) == list(range(100))
    assert choose(max_frames=2) == [0, 75]
    assert choose(Segment("v", 1.0, 2.5), fps=2) == [25, 37, 50, 62]
    assert choose(Segment("v", 1.0, 99.0), max_frames=3, sampling="tail", fps=25) == [97, 98, 99]
    assert choose(times=[0, 0.05, 3.99]) == [0, 1, 99]
    assert choose(count=3) == [0, 49, 99]
    assert choose(count=2, sampling="segments") == [25, 75]
    with pytest.raises(InputError, match="starts at 9 s, the last frame is at 3.96 s"):
        choose(Segment("v", 9.0))
    with pytest.raises(InputError, match="a frame at 5 s"):
        choose(times=5)
    with pytest.raises(InputError, match="times must be"):
        choose(times=[-1.0])
    with pytest.raises(InputError, match="positive"):
        choose(fps=0)


def test_frames_are_those_shown_at_their_times(video):
    clip = read_frames(video, fps=5, size=None)
    assert numbers(clip) == list(range(0, 20, 2))
    assert clip.times.tolist() == pytest.approx(np.arange(10) / 5)
    assert clip.frames.dtype == torch.uint8
    assert clip.frames.shape == (10, 3, 32, 32)
    assert numbers(read_frames(video, [1.9, 0.35, 0.35])) == [19, 3, 3]
    assert numbers(read_frames(video, count=4, sampling="segments")) == [2, 7, 12, 17]
    assert numbers(read_frames(f"{video}#t=0.5,0.9", fps=10)) == [5, 6, 7, 8, 9]
    assert read_frames(video, count=1, size=17).frames.shape == (1, 3, 17, 17)
    with pytest.raises(InputError, match="times or count"):
        read_frames(video, [0], count=1)


@pytest.mark.parametrize("skip", [1, 5, 10**9])
def test_skipping_to_key_frames_changes_nothing(tmp_path, monkeypatch, skip):
    path = write_video(tmp_path / "v.mp4", frames=25, g="4")
    monkeypatch.setattr(frames_module, "_WORTH_A_SEEK", skip)
    assert numbers(read_frames(path, [0.1, 1.7, 2.3])) == [1, 17, 23]


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "mpeg4"), ("v.avi", "libx264"), ("v.mkv", "mpeg4"), ("v.h264", "libx264")])  # fmt: skip
def test_reordered_frames_and_files_without_times(tmp_path, name, codec):
    """An AVI numbers its packets as they are decoded, a raw stream not at all."""
    path = write_video(tmp_path / name, frames=25, fps=25, codec=codec, size=64, bf="2")
    assert numbers(read_frames(path, [0.0, 0.16, 0.44, 0.92])) == [0, 4, 11, 23]
    assert numbers(read_frames(path, count=25)) == list(range(25))


def test_what_cannot_be_read_is_named_and_never_zeros(tmp_path, video):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    for name, reason in (
        ("absent", "no such video"),
        ("empty", "0 bytes"),
        ("text", "cannot be decoded"),
        ("cut", "cut short"),
    ):
        with pytest.raises(InputError, match=f"{name}.mp4: .*{reason}"):
            read_frames(tmp_path / f"{name}.mp4")
    with pytest.raises(InputError, match="no such video"):
        read_frames(tmp_path)


def test_a_stream_cut_short_is_an_error_even_where_the_index_is_whole(tmp_path):
    path = write_video(tmp_path / "v.mp4", movflags="faststart")
    whole = path.read_bytes()
    assert whole.find(b"moov") < whole.find(b"mdat") or whole.find(b"moov") > 0
    with av.open(str(path), options={}) as container:
        packets = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    data = bytearray(whole)
    data[packets[4] : packets[-1]] = bytes(packets[-1] - packets[4])  # the index is whole, the later frames are gone
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"v\.mp4: cannot be decoded"):
        read_frames(path, fps=10, max_frames=None)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(InputError, match="holds no video stream"):
        read_frames(path)


def test_cover_art_is_no_video(tmp_path):
    """Beside sound it is the only "video stream" of a song; beside a clip it may be the first one."""

    def write(path: Path, moving: bool) -> None:
        with av.open(str(path), "w") as container:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            clip = container.add_stream("mpeg4", rate=4) if moving else None
            if clip is not None:
                clip.width, clip.height, clip.pix_fmt = 32, 32, "yuv420p"
            sound = container.add_stream("aac", rate=16000, layout="mono")
            still = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 250, np.uint8)).reformat(format="yuvj420p")
            still.pts = 0
            for packet in (*cover.encode(still), *cover.encode(None)):
                container.mux(packet)
            if clip is not None:
                for _ in range(8):
                    for packet in clip.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40, np.uint8))):
                        container.mux(packet)
                for packet in clip.encode(None):
                    container.mux(packet)
            for i in range(8):
                tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                tone.rate, tone.pts = 16000, 1024 * i
                for packet in sound.encode(tone):
                    container.mux(packet)
            for packet in sound.encode(None):
                container.mux(packet)

    write(tmp_path / "song.mp4", moving=False)
    with pytest.raises(InputError, match="no video stream but a still picture"):
        read_frames(tmp_path / "song.mp4")
    write(tmp_path / "clip.mp4", moving=True)
    clip = read_frames(tmp_path / "clip.mp4", count=8, size=None)
    assert len(clip.frames) == 8
    assert clip.frames.float().mean() < 60


def test_rows_of_arrays_are_clips(tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "c.npy", clips)
    found = read_frames(f"{tmp_path / 'c.npy'}#2", size=8, max_frames=3).frames
    assert np.array_equal(found[:, 1].numpy(), clips[2][[0, 2, 5]])
    assert read_frames(f"{tmp_path / 'c.npy'}#0", size=16).frames.shape == (6, 3, 16, 16)
    with pytest.raises(InputError, match="holds 3 clips"):
        read_frames(f"{tmp_path / 'c.npy'}#3")
    np.save(tmp_path / "f.npy", clips.astype(float))
    with pytest.raises(InputError, match="expected uint8"):
        read_frames(f"{tmp_path / 'f.npy'}#0")


def test_without_pyav_the_pip_line(monkeypatch, video):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "av":
            raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'metrixkit\[video\]'"):
        read_frames(video)


def test_cache(tmp_path, video, monkeypatch):
    reader = FrameReader(fps=5, size=24, cache=str(tmp_path / "cache"))
    first = reader(str(video))
    assert torch.equal(first, FrameReader(fps=5, size=24)(str(video)))
    stored = list((tmp_path / "cache").rglob("*.*"))
    assert [file.suffix for file in stored] == [".npz"]
    with monkeypatch.context() as patch:
        patch.setattr("metrixkit.data.frame_reader.read_frames", lambda *a, **k: pytest.fail("decoded again"))
        assert torch.equal(reader(str(video)), first)
    stored[0].write_bytes(stored[0].read_bytes()[:100])  # as after a power failure
    assert torch.equal(reader(str(video)), first)
    assert torch.equal(reader(f"{video}#t=0.5,1"), FrameReader(fps=5, size=24)(f"{video}#t=0.5,1"))
    other = FrameReader(fps=5, size=24, sampling="tail", max_frames=2, cache=str(tmp_path / "cache"))
    assert torch.equal(other(str(video)), first[-2:])
    with pytest.raises(InputError, match="no such video"):
        reader(str(tmp_path / "absent.mp4"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        FrameReader(cache=str(tmp_path / "file"))


@pytest.mark.slow
@pytest.mark.data
def test_real_clips(shared_data):
    """Seventeen of eighteen decode: h264, hevc, av1, vp8, vp9, gif, ten bits, no duration, turned."""
    frames, broken = {}, []
    for path in sorted((shared_data / "videos").iterdir()):
        try:
            frames[path.name] = read_frames(path, size=64)
        except InputError as error:
            broken.append(str(error))
    assert len(frames) == 17
    assert len(broken) == 1
    assert "corrupted.mp4: cannot be decoded as a video" in broken[0]
    for clip in frames.values():
        assert clip.frames.shape[1:] == (3, 64, 64)
        assert float(clip.frames.float().std()) > 1
    count = {name: len(clip.frames) for name, clip in frames.items()}
    assert count["big_buck_bunny_0_30.webm"] == 12
    assert count["no_duration.webm"] == 5
    assert count["pigs_in_a_polka.gif"] == 3
    assert count["h265_video.mp4"] == count["video_90.mov"] == 1
    # Filmed with the camera turned by a quarter; stored in landscape like the other.
    assert read_frames(shared_data / "videos" / "video_90.mov", size=None).frames.shape[2:] == (568, 320)
    assert read_frames(shared_data / "videos" / "video_0.mov", size=None).frames.shape[2:] == (320, 568)


@pytest.mark.data
@pytest.mark.slow
def test_real_clips_do_not_depend_on_how_they_are_reached(shared_data, monkeypatch):
    for path in sorted((shared_data / "videos").iterdir()):
        if path.name != "corrupted.mp4":
            monkeypatch.setattr(frames_module, "_WORTH_A_SEEK", 1)
            skipped = read_frames(path, count=20, size=None)
            monkeypatch.setattr(frames_module, "_WORTH_A_SEEK", 10**9)
            assert torch.equal(skipped.frames, read_frames(path, count=20, size=None).frames), path.name
