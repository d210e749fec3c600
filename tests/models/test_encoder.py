"""The image encoder as a whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from metrixkit.errors import InputError
from metrixkit.models import ImageEncoder


def images(n: int = 4, size: int = 32, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator).to(device)


def small(**settings: object) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(**{"backbone": "small", "dim": 8, **settings})


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("pooling", ["avg", "max", "avg+max", "gem"])
def test_forward_is_head_of_features_with_unit_rows(pooling: str, device: str) -> None:
    encoder = small(pooling=pooling).to(device).eval()
    x = images(device=device)
    features = encoder.features(x)
    assert features.shape == (4, 160, 4, 4)
    embeddings = encoder(x)
    torch.testing.assert_close(embeddings, encoder.head(features), rtol=0, atol=0)
    assert embeddings.shape == (4, encoder.embedding_dim)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4, device=device))


def test_uint8_and_unit_range_floats_are_the_same_images() -> None:
    encoder = small().eval()
    x = images()
    torch.testing.assert_close(encoder(x), encoder(x.float() / 255), rtol=0, atol=0)


def test_pixels_are_normalised_by_mean_and_std() -> None:
    encoder = small(mean=[0.1, 0.2, 0.3], std=[0.5, 0.4, 0.2]).eval()
    seen = []
    encoder.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = images()
    encoder(x)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.4, 0.2]).view(3, 1, 1)
    torch.testing.assert_close(seen[0], (x / 255 - mean) / std)
    assert [note.split()[0] for note in encoder.notes] == ["mean", "std"]


def test_without_projection_the_pooled_vector_is_the_embedding() -> None:
    encoder = small(dim=None, normalize=False).eval()
    x = images()
    features = encoder.features(x)
    torch.testing.assert_close(encoder(x), features.mean((2, 3)) + features.amax((2, 3)))
    assert encoder.embedding_dim == 160


def test_projection_starts_as_the_paper_says() -> None:
    encoder = small(dim=64)
    assert encoder.projection is not None
    assert not encoder.projection.bias.any()
    # Kaiming's normal rule with fan out: variance 2 / 64.
    assert encoder.projection.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_a_zero_row_stays_zero_with_a_finite_gradient() -> None:
    encoder = small(dim=None).eval()
    features = torch.zeros(2, 160, 4, 4, requires_grad=True)
    encoder.head(features).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert not encoder.head(features).any()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_embeddings_are_float32_under_autocast(device: str) -> None:
    encoder = small().to(device).eval()
    x = images(16, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        features = encoder.features(x)
        low = encoder(x)
    assert low.dtype == torch.float32
    assert features.dtype == torch.bfloat16 or device == "cpu"
    # The head itself ran in float32: no value is one of bfloat16's.
    assert not torch.equal(low, low.bfloat16().float())
    torch.testing.assert_close(low.norm(dim=1), torch.ones(16, device=device), atol=1e-6, rtol=0)
    assert (low * encoder(x)).sum(1).min() > 0.99


def test_double_encoders_stay_double() -> None:
    assert small().double().eval()(images()).dtype == torch.float64


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    plain, last = small().eval(), small(channels_last=True).eval()
    assert last.trunk.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain(images()), last(images()), atol=1e-5, rtol=1e-4)


def batch_norm_state(encoder: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k or "bn" in k}


def step(encoder: ImageEncoder) -> None:
    encoder.train()
    parameters = [p for group in encoder.parameter_groups() for p in group.params]
    optimiser = torch.optim.SGD(parameters, lr=0.1)
    encoder(images(8)).square().sum(0)[0].backward()
    optimiser.step()


def test_frozen_batch_norm_does_not_move() -> None:
    encoder = small(freeze_batch_norm=True)
    before, convolution = batch_norm_state(encoder), encoder.trunk.model.stem[0].weight.clone()
    step(encoder)
    assert before.keys() == batch_norm_state(encoder).keys()
    for name, value in batch_norm_state(encoder).items():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(convolution, encoder.trunk.model.stem[0].weight)


def test_batch_norm_moves_when_it_is_not_frozen() -> None:
    encoder = small()
    before = batch_norm_state(encoder)
    step(encoder)
    assert any(not torch.equal(value, before[name]) for name, value in batch_norm_state(encoder).items())


def test_only_the_head_trains_and_the_backbone_stays_as_it_is() -> None:
    encoder = small(train="head")
    before = {k: v.clone() for k, v in encoder.trunk.state_dict().items()}
    assert encoder.projection is not None
    head = encoder.projection.weight.clone()
    step(encoder)
    assert all(torch.equal(v, before[k]) for k, v in encoder.trunk.state_dict().items())
    assert not torch.equal(head, encoder.projection.weight)
    assert not encoder.features(images()).requires_grad
    # Gradients still pass through a frozen backbone to whoever made the images.
    x = (images() / 255).requires_grad_()
    encoder(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_last_stages_train_with_batch_norm_running_only_there() -> None:
    encoder = small(train="last:2")
    before = {k: v.clone() for k, v in encoder.trunk.model.state_dict().items()}
    step(encoder)
    moved = {k for k, v in encoder.trunk.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith(("stages.2.", "stages.3.")) for k in moved)
    assert "stages.2.bn1.running_mean" in moved


def test_a_copy_keeps_what_is_frozen() -> None:
    encoder = copy.deepcopy(small(freeze_batch_norm=True))
    encoder.requires_grad_(False)
    encoder.train()
    assert not any(m.training for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    average = copy.deepcopy(small())
    average.requires_grad_(False)  # a momentum encoder: no gradient, but batch statistics
    average.train()
    assert all(m.training for m in average.modules())


def test_building_one_leaves_training_mode_on_and_statistics_untouched() -> None:
    encoder = small()
    assert all(module.training for module in encoder.modules())
    assert all(int(v) == 0 for k, v in encoder.state_dict().items() if k.endswith("num_batches_tracked"))


def test_settings_build_the_same_encoder_again() -> None:
    encoder = small(pooling="gem", train="last:1", layer_decay=0.5)
    again = ImageEncoder(**encoder.settings())
    assert again.settings() == encoder.settings()
    assert encoder.settings()["image_size"] == 32
    assert encoder.settings()["mean"] == [0.5, 0.5, 0.5]
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(images()), encoder.eval()(images()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim 0"),
        ({"image_size": 0}, "image_size 0"),
        ({"pooling": "mean"}, "pooling 'mean' is unknown"),
        ({"pooling": "token"}, "has no class token"),
        ({"pooling": "model"}, "offers none"),
        ({"mean": [0.5]}, "three numbers"),
        ({"mean": [123.0, 117.0, 104.0]}, "divide them by 255"),
        ({"std": [0.2, 0.0, 0.2]}, "std above 0"),
        ({"train": "last"}, "expected 'head', 'last:N'"),
        ({"train": "last:9"}, "has 5 stages"),
        ({"train": "last:0"}, "N is 1..5"),
        ({"layer_decay": 1.5}, r"in \(0, 1\]"),
        ({"head_lr": -1.0}, "head_lr -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**settings)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\)"):
        small()(torch.zeros(shape))
