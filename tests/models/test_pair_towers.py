"""Towers for texts and videos: padding counts for nothing, CLIP's head is its formula, a saved model is the same."""

import json

import pytest
import torch
from tiny_clip import make_clip

from metrixkit.errors import InputError
from metrixkit.models import ClipVideoText, VideoText, load_pair_model, save_pair_model
from metrixkit.models.sequence import Block, masked_mean, quick_gelu
from metrixkit.models.text import TextSettings, Vocabulary, train_vocabulary
from metrixkit.models.video import VideoSettings
from metrixkit.models.video_text import PairInputs

CAPTIONS = ["latin small letter a, bold", "greek capital letter omega", "an arrow, moving right", "Ünïted dots"]
FRAMES = {"fps": 1.0, "max_frames": 12, "sampling": "uniform", "size": 32}


def small(kind="transformer", temporal="transformer", inputs=None, **video):
    torch.manual_seed(0)
    return VideoText(
        inputs or PairInputs(captions=CAPTIONS),
        dim=16,
        text=TextSettings(kind, width=16, layers=1, heads=2, vocabulary=60, max_words=8),
        video=VideoSettings(width=8, hidden=16, temporal=temporal, heads=2, max_frames=5, **video),
    ).eval()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


def clips(count=3, frames=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, frames, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_the_vocabulary_depends_on_the_set_of_captions_alone():
    one = train_vocabulary(CAPTIONS, 60)
    assert one == train_vocabulary([*reversed(CAPTIONS), CAPTIONS[0]], 60)
    assert one != train_vocabulary(CAPTIONS, 40)
    vocabulary = Vocabulary(one, 8)
    assert len(vocabulary) <= 60
    tokens, mask = vocabulary(["an ARROW", "latin small letter a, bold and far too long for eight tokens"])
    assert tokens.shape == mask.shape == (2, 8)
    assert torch.equal(tokens[0], vocabulary(["an arrow", CAPTIONS[0]])[0][0])
    assert (tokens[0][~mask[0]] == 0).all()
    assert mask[1].all()
    with pytest.raises(InputError, match=r"text 1 is ' ', which holds no word"):
        vocabulary(["a", " "])
    with pytest.raises(InputError, match="is no tokenizer"):
        Vocabulary("{}")


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_a_text_alone_and_in_a_batch_are_the_same(kind):
    model = small(kind)
    together = model.embed_text(CAPTIONS)
    alone = torch.cat([model.embed_text([text]) for text in CAPTIONS])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.allclose(together.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("temporal", ["mean", "transformer"])
def test_padding_and_what_stands_in_it_count_for_nothing(temporal):
    model, frames = small(temporal=temporal), clips()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = model.embed_video(frames, mask)
    other = frames.clone()
    other[~mask] = 77
    assert torch.equal(found, model.embed_video(other, mask))
    for row, count in enumerate(mask.sum(1).tolist()):
        alone = model.embed_video(frames[row : row + 1, :count], torch.ones(1, count, dtype=torch.bool))
        assert torch.allclose(found[row], alone[0], atol=1e-6)
    # Mixtures arrive as numbers in [0, 1]; an unmixed one is the clip itself.
    assert torch.allclose(found, model.embed_video(frames.float() / 255, mask), atol=1e-6)


def test_only_a_tower_over_time_knows_the_order_of_frames():
    frames, mask = clips(), torch.ones(3, 4, dtype=torch.bool)
    for temporal, same in (("mean", True), ("transformer", False)):
        model = small(temporal=temporal)
        back = model.embed_video(frames.flip(1), mask)
        assert torch.allclose(model.embed_video(frames, mask), back, atol=1e-6) is same


def test_features_on_both_sides():
    inputs = PairInputs(video_dim=6, text_dim=5)
    for hidden in (16, None):
        torch.manual_seed(0)
        model = VideoText(inputs, dim=8, video=VideoSettings(hidden=hidden, temporal="mean")).eval()
        x, mask = torch.randn(2, 3, 6), torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
        assert model.embed_video(x, mask).shape == model.embed_text(torch.randn(2, 1, 5), mask[:, :1]).shape == (2, 8)
        if hidden is None:
            by_hand = torch.nn.functional.normalize(model.video.project(masked_mean(x, mask)), dim=1)
            assert torch.allclose(model.embed_video(x, mask), by_hand, atol=1e-6)
    with pytest.raises(InputError, match="texts were given, but the text side of this model takes features"):
        model.embed_text(["a"])
    with pytest.raises(InputError, match="features of 7 dimensions; the model takes 6"):
        model.embed_video(torch.randn(2, 3, 7), mask)


def test_bad_input_is_named():
    model = small()
    mask = torch.tensor([[1, 0], [0, 0]], dtype=torch.bool)
    with pytest.raises(InputError, match="row 1 of the batch has no frame"):
        model.embed_video(clips(2, 2), mask)
    with pytest.raises(InputError, match=r"expected \(B, T, 3, H, W\)"):
        model.embed_video(clips(2, 2)[:, 0], mask)
    with pytest.raises(InputError, match="a sequence of 6 places, but the model has positions for 5"):
        model.embed_video(clips(1, 6), torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(InputError, match="features were given"):
        model.embed_text(torch.randn(2, 1, 3))
    with pytest.raises(InputError, match="heads that divide the width"):
        VideoText(PairInputs(captions=CAPTIONS), text=TextSettings(width=10, heads=4))
    with pytest.raises(InputError, match="0 captions"):
        VideoText(PairInputs())


def test_every_parameter_is_in_one_group(clip_folder):
    models = (
        small(),
        ClipVideoText(backbone=str(clip_folder), head="seqTransf", layers=2),
        ClipVideoText(backbone=str(clip_folder), train="blocks"),
    )
    for model in models:
        held = [id(p) for group in model.parameter_groups() for p in group.params]
        assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = {group.name: (group.lr_scale, group.weight_decay) for group in models[1].parameter_groups()}
    assert rates["clip"] == (1e-3, None)
    assert rates["clip_gains"] == (1e-3, 0.0)
    assert rates["head"] == (1.0, None)
    still = {name for name, p in models[2].named_parameters() if not p.requires_grad}
    assert any("token_embedding" in name for name in still)
    assert any("patch_embedding" in name for name in still)
    assert not any("layers.0" in name for name in still)


def test_clip_is_its_projections_at_length_one_averaged(clip_folder):
    model = ClipVideoText(backbone=str(clip_folder)).eval()
    frames, mask = clips(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    clip = model.clip
    pixels = (frames.float() / 255 - model._frame.mean) / model._frame.std
    with torch.no_grad():
        each = clip.visual_projection(clip.vision_model(pixel_values=pixels.flatten(0, 1)).pooler_output).view(2, 3, -1)
        each = each / each.norm(dim=2, keepdim=True)
        mean = torch.stack([each[0].mean(0), each[1, :2].mean(0)])
        assert torch.allclose(model.embed_video(frames, mask), mean / mean.norm(dim=1, keepdim=True), atol=1e-6)
        ids = torch.tensor([[1, 4, 5, 2]])
        text = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        assert torch.allclose(model.embed_text(["ab"]), text / text.norm(), atol=1e-6)
        assert torch.allclose(model.embed_text(["ab", "abcdef"])[0], text[0] / text.norm(), atol=1e-6)


def test_the_frame_transformer_starts_as_clips_text_layers(clip_folder, tmp_path):
    torch.manual_seed(0)
    model = ClipVideoText(backbone=str(clip_folder), head="seqTransf", layers=2, max_frames=4)
    layer = model.clip.text_model.encoder.layers[1]
    x, mask = torch.randn(2, 4, 32), torch.ones(2, 4, dtype=torch.bool)
    expected = layer(x, attention_mask=None)
    expected = expected if isinstance(expected, torch.Tensor) else expected[0]
    block = Block(32, 2, quick_gelu)
    block.load_state_dict(model.time.blocks[1].state_dict())
    assert torch.allclose(block(x, mask), expected, atol=1e-5)
    assert torch.equal(model.time.position, model.clip.text_model.embeddings.position_embedding.weight[:4])
    wide = ClipVideoText(backbone=str(make_clip(tmp_path, text_width=16)), head="seqTransf", layers=1)
    assert wide.embed_video(clips(2, 3), torch.ones(2, 3, dtype=torch.bool)).shape == (2, 32)


def test_clip_refuses_what_it_does_not_take(clip_folder, tmp_path):
    with pytest.raises(InputError, match="takes frames and words"):
        ClipVideoText(PairInputs(video_dim=3), backbone=str(clip_folder))
    with pytest.raises(InputError, match="leaves nothing to train"):
        ClipVideoText(backbone=str(clip_folder), train="none")
    with pytest.raises(InputError, match="takes 2 to 40"):
        ClipVideoText(backbone=str(clip_folder), max_words=41)
    with pytest.raises(InputError, match="no configuration"):
        ClipVideoText(backbone=str(tmp_path))
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(InputError, match="weights could not be had"):
        ClipVideoText(backbone=str(tmp_path))
    with pytest.raises(InputError, match=r"no tokenizer\. A local folder needs tokenizer\.json"):
        ClipVideoText(backbone=str(tmp_path), weights="none")
    with pytest.raises(InputError, match="text 1 is ''"):
        ClipVideoText(backbone=str(clip_folder), weights="none").embed_text(["a", ""])


@pytest.mark.parametrize("which", ["words", "features", "clip"])
def test_a_saved_model_is_the_same(which, clip_folder, tmp_path):
    mask = torch.ones(2, 3, dtype=torch.bool)
    if which == "clip":
        model = ClipVideoText(backbone=str(clip_folder), head="seqTransf", layers=1).eval()
    else:
        model = small(inputs=PairInputs(video_dim=6, text_dim=5) if which == "features" else None)
    video = torch.randn(2, 3, 6) if which == "features" else clips(2, 3)
    texts = (torch.randn(2, 1, 5), mask[:, :1]) if which == "features" else (["an arrow", "dots"],)
    save_pair_model(model, tmp_path, FRAMES, {"data": "x"})
    before = torch.random.get_rng_state()
    again, config = load_pair_model(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert config["transform"] == FRAMES
    assert torch.equal(model.embed_text(*texts), again.embed_text(*texts))
    assert torch.equal(model.embed_video(video, mask), again.embed_video(video, mask))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(InputError, match="is not the file"):
        load_pair_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(weights)
    config["encoder"]["hidden_size"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be built again"):
        load_pair_model(tmp_path)
    config["kind"] = "image"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected video_text or clip_video_text"):
        load_pair_model(tmp_path)


def test_a_checkpoint_brings_its_vocabulary():
    one = small()
    state = one.state_dict()
    other = VideoText(
        PairInputs(captions=["".join(c) for c in zip("abcdefgh" * 9, "ijklmnop" * 9, strict=True)] + CAPTIONS[::-1]),
        dim=16,
        text=TextSettings(width=16, layers=1, heads=2, vocabulary=len(one.text.vocabulary), max_words=8),
        video=VideoSettings(width=8, hidden=16, heads=2, max_frames=5),
    ).eval()
    other.load_state_dict(state)
    assert torch.equal(one.embed_text(CAPTIONS), other.embed_text(CAPTIONS))


@pytest.mark.gpu
def test_on_a_gpu():
    model = small().cuda()
    mask = torch.ones(3, 4, dtype=torch.bool, device="cuda")
    found = model.embed_video(clips().cuda(), mask)
    assert torch.allclose(found.cpu(), small().embed_video(clips(), mask.cpu()), atol=1e-4)
    assert model.embed_text(CAPTIONS).is_cuda
