"""Real clips and real captions through everything: decoding, frames, a CLIP tower of random weights, retrieval."""

import json
import warnings

import numpy as np
import pytest
import torch
from tiny_clip import make_clip

from metrixkit.data import MSRVTT
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.pair_sources import find_videos, unreadable
from metrixkit.models import ClipVideoText, save_pair_model
from metrixkit.retrieval import crossmodal


@pytest.mark.slow
@pytest.mark.data
def test_real_clips_through_clip_to_retrieval(shared_data, tmp_path):
    from metrixkit.embedding.images import load_model

    pytest.importorskip("av")
    found = find_videos(shared_data / "videos")
    paths = [path for path in found.values() if unreadable(path, "video") is None]
    assert len(paths) == 17
    backbone = make_clip(tmp_path / "clip")
    model = ClipVideoText(backbone=str(backbone), head="seqTransf", layers=1, max_frames=4)
    save_pair_model(model, tmp_path / "model", {"fps": 1.0, "max_frames": 4, "sampling": "uniform", "size": 32})
    embedder = load_model(tmp_path / "model")
    video = embedder.embed_video(paths, batch_size=5)
    assert video.shape == (17, 32)
    assert torch.isfinite(video).all()
    again = embedder.embed_video([FrameReader(max_frames=4, size=32)(path) for path in paths[:3]])
    assert torch.allclose(video[:3], again, atol=1e-5)
    # A text written as the clip itself finds it; the random tower gives its texts no meaning.
    text = embedder.embed_text([f"clip {i}" for i in range(17)])
    assert text.shape == (17, 32)
    result = crossmodal(video + 1e-4 * text, video, recall_at=(1, 5))
    assert result["t2v/recall@1"] == 1.0
    assert 0 < crossmodal(text, video, recall_at=(1, 5))["t2v/mrr"] < 1


@pytest.mark.data
def test_twenty_captions_a_video_of_msrvtt(shared_data):
    manifest = MSRVTT(str(shared_data / "MSRVTT"), splits=["test"], test_captions="all", on_missing="blank").read()
    assert (len(manifest), len(manifest.texts)) == (1_000, 20_000)
    assert manifest.split_name == "1k-A-9k-20captions"
    rng = np.random.default_rng(0)
    video = rng.normal(size=(1_000, 32)).astype(np.float32)
    text = video[manifest.item_of_text] + 2.0 * rng.normal(size=(20_000, 32)).astype(np.float32)
    owners = manifest.texts["item"].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = crossmodal(text, video, owners, text_ids=manifest.texts["id"].tolist(), video_ids=manifest.ids)
        grouped = crossmodal(text, video, owners, video_ids=manifest.ids, compat="clip4clip")
    assert (found.counts["texts"], found.counts["videos"], found.counts["most_texts"]) == (20_000, 1_000, 20)
    cosines = _unit(text) @ _unit(video).T
    own = cosines[np.arange(20_000), manifest.item_of_text]
    assert found["t2v/recall@1"] == pytest.approx(((cosines >= own[:, None]).sum(1) == 1).mean())
    # By hand the way of CLIP4Clip: a video's score for another is that of the other's best caption.
    best = np.maximum.reduceat(cosines, np.arange(0, 20_000, 20), axis=0)
    ranks = (best >= best.diagonal()).sum(0)
    assert grouped["v2t/recall@1"] == pytest.approx((ranks == 1).mean())
    json.dumps(found.to_dict())


def _unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
