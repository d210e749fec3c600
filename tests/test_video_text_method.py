"""The recipe for texts and videos: what it hands to the loss, when it encodes twice, which losses it takes."""

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.losses import (
    Contrastive,
    DynamicMixedMargin,
    InfoNCE,
    M2Mix,
    MaxMargin,
    NTXent,
    Ramp,
    SymmetricCrossEntropy,
    max_margin,
    symmetric_cross_entropy,
)
from metrixkit.methods import VideoTextRetrieval
from metrixkit.mixing import mix_inputs
from metrixkit.models import VideoText
from metrixkit.models.text import TextSettings
from metrixkit.models.video import VideoSettings
from metrixkit.models.video_text import PairInputs
from metrixkit.seam import Batch

TEXTS = ["a one", "b two", "c three", "d four", "e five"]


def model():
    torch.manual_seed(0)
    return VideoText(
        PairInputs(video_dim=6, captions=TEXTS),
        dim=8,
        text=TextSettings(width=16, layers=1, heads=2, dropout=0.0),
        video=VideoSettings(hidden=16, temporal="mean", dropout=0.0),
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 3, 6, generator=generator)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    return Batch([str(i) for i in range(5)], modalities={"video": x * mask[..., None], "video_mask": mask}, texts=TEXTS)


def test_the_clean_loss_is_that_of_both_sides():
    towers, given = model(), batch()
    method = VideoTextRetrieval(towers, SymmetricCrossEntropy(0.1))
    total = method(given).losses["total"]
    a = towers.embed_video(given.modalities["video"], given.modalities["video_mask"])
    b = towers.embed_text(TEXTS)
    assert torch.allclose(total, symmetric_cross_entropy(a, b, 10.0), atol=1e-6)
    total.backward()
    assert all(p.grad is not None for p in method.parameters())
    told = VideoTextRetrieval(towers, SymmetricCrossEntropy(0.1))(given).logs()
    assert told["logit_scale"] == pytest.approx(10.0)


@pytest.mark.parametrize("per", ["step", "row"])
def test_dmm_mixes_the_inputs_of_the_video_side(per):
    towers, given = model(), batch()
    x, mask = given.modalities["video"], given.modalities["video_mask"]
    dmm = DynamicMixedMargin(MaxMargin(0.2), ratio_per=per, ramp=None, weight=0.7, seed=3)
    lam, partner = DynamicMixedMargin(MaxMargin(0.2), ratio_per=per, ramp=None, seed=3).draw(5)
    total = VideoTextRetrieval(towers, dmm)(given).losses["total"]
    a, b = towers.embed_video(x, mask), towers.embed_text(TEXTS)
    mixed = towers.embed_video(mix_inputs(x, lam, partner), mask)
    expected = max_margin(a, b, 0.2) + 0.7 * max_margin(mixed, b, lam * 0.2)
    assert torch.allclose(total, expected, atol=1e-6)
    assert not torch.allclose(total, max_margin(a, b, 0.2), atol=1e-4)


def test_without_weight_nothing_is_encoded_twice(monkeypatch):
    towers, given = model(), batch()
    passes = []
    encode = towers.embed_video
    monkeypatch.setattr(towers, "embed_video", lambda *args: passes.append(1) or encode(*args))
    method = VideoTextRetrieval(towers, DynamicMixedMargin(SymmetricCrossEntropy(0.1), ramp=Ramp(5, 0)))
    for epoch, expected in ((0, 1), (1, 2)):
        method.before_epoch(epoch, lambda: torch.zeros(0))
        passes.clear()
        assert torch.isfinite(method(given).losses["total"])
        assert len(passes) == expected
    passes.clear()
    embedded = VideoTextRetrieval(towers, DynamicMixedMargin(InfoNCE(), side="both", ramp=None), mix="embed")
    assert "loss/mixed" in embedded(given).logs()
    assert len(passes) == 1


@pytest.mark.parametrize("loss", [MaxMargin(), InfoNCE(symmetric=True), NTXent(), M2Mix(), SymmetricCrossEntropy()])
def test_losses_on_pairs_clean_and_with_dmm(loss):
    for criterion in (loss, *(() if isinstance(loss, M2Mix) else (DynamicMixedMargin(loss, ramp=None),))):
        output = VideoTextRetrieval(model(), criterion)(batch())
        output.losses["total"].backward()
        assert torch.isfinite(output.losses["total"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="Contrastive takes something else"):
        VideoTextRetrieval(model(), Contrastive())
    with pytest.raises(InputError, match="words cannot be mixed"):
        VideoTextRetrieval(model(), DynamicMixedMargin(MaxMargin(), side="both"))


def test_the_temperature_has_its_own_rate_and_no_decay():
    method = VideoTextRetrieval(model(), DynamicMixedMargin(SymmetricCrossEntropy()), loss_lr=0.5)
    groups = {group.name: group for group in method.parameter_groups()}
    assert [p.ndim for p in groups["loss_gains"].params] == [0]
    assert (groups["loss_gains"].lr_scale, groups["loss_gains"].weight_decay) == (0.5, 0.0)
    held = [id(p) for group in groups.values() for p in group.params]
    assert sorted(held) == sorted(id(p) for p in method.parameters())
    assert isinstance(method.encoders()["pair"], nn.Module)
