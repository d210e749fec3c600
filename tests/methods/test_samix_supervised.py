"""SAMix' supervised step: who learns from what, against the step written out, and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_tower import Toy

from metrixkit.errors import InputError
from metrixkit.methods import METHODS, SAMix
from metrixkit.methods.mixer_start import channels_at
from metrixkit.methods.samix_presets import SUPERVISED
from metrixkit.mixing import Mixer, draw_partners
from metrixkit.mixing.mixer import load_mixer, save_mixer
from metrixkit.models import ImageEncoder, save_model
from metrixkit.seam import Batch, Method

CLASSES = 4


def encoder(size: int = 16) -> ImageEncoder:
    return ImageEncoder("small", pooling="avg", dim=None, normalize=False, image_size=size)


def make(seed: int = 0, **options: Any) -> SAMix:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"stage": 2, "steps": 20, "momentum": 0.9, "seed": seed, **options}
    return SAMix(encoder(), CLASSES, **settings).train()


def batch(count: int = 6, seed: int = 0, shape: tuple[int, int] = (16, 16), labels: Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, *shape), dtype=torch.uint8, generator=g)
    drawn = torch.randint(0, CLASSES, (count,), generator=g) if labels is None else labels
    return Batch(ids=[str(i) for i in range(count)], labels=drawn, views=[images])


def step(method: nn.Module, data: Batch, number: int, rate: float = 0.05) -> float:
    total: Tensor = method(data).losses["total"]
    total.backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= rate * p.grad
                p.grad = None
    method.after_step(number)  # type: ignore[operator]
    return float(total.detach())


def woken(method: SAMix, by: float = 0.3) -> SAMix:
    """Give the Mixer weights that make masks of some shape."""
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in method.learned_masks.mixer.parameters():
            p += by * torch.randn(p.shape, generator=g)
    return method


def grown(method: nn.Module) -> set[str]:
    """Parts of the method that hold a gradient other than zero, which is then cleared."""
    found = set()
    for name, p in method.named_parameters():
        if p.grad is not None and bool((p.grad != 0).any()):
            found.add(name.split(".")[0])
        p.grad = None
    return found


@pytest.mark.parametrize("preset", SUPERVISED)
def test_each_side_teaches_its_own(preset: str) -> None:
    method = woken(make(preset=preset))
    assert isinstance(method, Method)
    for name, expected in {
        "clean": {"model", "heads"},
        "mixed": {"model", "heads"},
        "generation": {"learned_masks"},
        "mask": {"learned_masks"},
    }.items():
        method(batch()).losses[name].backward()
        if name in ("clean", "mixed"):  # exactly nothing, not just little
            assert all(p.grad is None for p in method.learned_masks.parameters())
        else:
            assert all(p.grad is None for part in (method.model, method.heads) for p in part.parameters())
        assert grown(method) <= expected, name
        assert not any(p.requires_grad for part in (method.key_model, method.key_heads) for p in part.parameters())
    method(batch()).losses["total"].backward()
    assert grown(method) == {"model", "heads", "learned_masks"}


def test_groups_hold_what_trains() -> None:
    method = make(mixer_lr=3.0, mixer_minimum=0.2)
    groups = {group.name: group for group in method.parameter_groups()}
    held = [id(p) for group in groups.values() for p in group.params]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in method.parameters() if p.requires_grad}
    assert groups["mixer"].lr_scale == 3.0
    assert groups["mixer"].schedule is not None
    assert [groups["mixer"].schedule(e, 10) for e in (0, 5, 10)] == pytest.approx([1, 0.6, 0.2])
    assert {group.name: group.schedule for group in make().parameter_groups()}["mixer"] is None


def mixture(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([m * a + (1 - m) * b for a, b, m in zip(x, y, mask, strict=True)])


def soft(logits: Tensor, a: Tensor, b: Tensor, lam: Tensor, eta: float = 1.0) -> Tensor:
    """The eta-balanced loss row by row, from probabilities."""
    rows = []
    for z, i, j, share in zip(logits.double(), a.tolist(), b.tolist(), lam.double().expand(len(a)), strict=True):
        p = z.exp() / z.exp().sum()
        both = p[i] if i == j else p[i] + p[j]
        local = -share * (p[i] / both).log() - (1 - share) * (p[j] / both).log()
        rows.append(local - eta * both.log())
    return torch.stack(rows).mean()


@pytest.mark.parametrize(("preset", "eta"), [("samix", 0.3), ("samix", 1.0), ("paper", 0.5), ("automix", 1.0)])
def test_a_step_written_out(preset: str, eta: float) -> None:
    method = woken(make(preset=preset, eta=eta, beta=0.4, mixer_options={"dropout": 0.0}))
    method.step = 5  # of 20: a quarter of the linear decay is over
    for p in method.key_model.parameters():
        p += 0.01
    data, before = batch(8), copy.deepcopy(method)
    losses = method(data).losses
    x, y = data.views[0].float() / 255, data.labels
    assert y is not None
    masks, g = before.learned_masks, before.generator
    lam_own, lam = torch.as_tensor(masks.draw(8, g)), torch.as_tensor(masks.draw(8, g))
    own, partner = draw_partners(8, "permutation", g), draw_partners(8, "permutation", g)
    maps = before.key_model.features(x, 2)
    first = masks.mixer(maps, maps[own], lam_own, 4).first
    scores = before.key_heads["mixed"](before.key_model(mixture(x, x[own], first)))
    generation = soft(scores, y, y[own], lam_own, eta)
    torch.testing.assert_close(losses["generation"].double(), generation, rtol=1e-5, atol=1e-6)
    if eta == 1:  # the cross-entropy of mixup itself
        logp, share = scores.log_softmax(1), lam_own.float().expand(8)
        plain = -(share * logp[range(8), y] + (1 - share) * logp[range(8), y[own]]).mean()
        torch.testing.assert_close(losses["generation"], plain)
    rows = first.flatten(1).double() if preset == "samix" else first.flatten()[None].double()
    share = lam_own.double().expand(len(rows)) if preset == "samix" else lam_own.double()[None]
    held = ((rows.mean(1) - share).abs() - 0.1).clamp(min=0)
    spread = 0 if preset == "automix" else 2 * rows.var(1, unbiased=False)
    torch.testing.assert_close(losses["mask"].double(), (held - spread).mean(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        second = masks.mixer(maps, maps[partner], lam, 4).first
        if preset != "automix":
            for row, target in enumerate(lam.expand(8).tolist()):
                mu = float(second[row].mean())
                s = second[row].clone()
                second[row] = s * target / mu if mu > target else 1 - (1 - s) * (1 - target) / (1 - mu)
    mixed = before.heads["mixed"](before.model(mixture(x, x[partner], second)))
    torch.testing.assert_close(losses["mixed"].double(), soft(mixed, y, y[partner], lam), rtol=1e-5, atol=1e-6)
    clean = F.cross_entropy(before.heads["clean"](before.model(x)), y)
    torch.testing.assert_close(losses["clean"], clean, rtol=1e-5, atol=1e-6)
    total = losses["clean"] + losses["mixed"] + losses["generation"] + 0.4 * 0.75 * losses["mask"]
    torch.testing.assert_close(losses["total"], total)


@pytest.mark.sample(1)
@pytest.mark.parametrize("ratio_per", ["batch", "sample"])
def test_the_networks_masks_hold_lambda(ratio_per: str) -> None:
    told = woken(make(ratio_per=ratio_per))(batch()).logs()
    assert told["mask_mean"] == pytest.approx(told["lambda"], abs=1e-6)
    loose = woken(make(ratio_per=ratio_per, adjust_probability=0.0))(batch()).logs()
    assert abs(loose["mask_mean"] - loose["lambda"]) > 1e-3
    wrong = woken(make(ratio_per=ratio_per, adjust_to="official"))(batch()).logs()
    assert abs(wrong["mask_mean"] - wrong["lambda"]) > 1e-3


def test_lam_margin_is_plain_mixup(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    method = woken(make(preset="official"))
    monkeypatch.setattr(method.learned_masks, "draw", lambda count, g: 0.95)
    method.model.register_forward_pre_hook(lambda _, args: seen.setdefault("mixed", args[0]))
    data = batch()
    method(data)
    g = torch.Generator().manual_seed(0)
    draw_partners(6, "permutation", g)
    partner, x = draw_partners(6, "permutation", g), data.views[0].float() / 255
    torch.testing.assert_close(seen["mixed"], 0.95 * x + 0.05 * x[partner])


@pytest.mark.parametrize("lam", [0.0, 1.0])
@pytest.mark.parametrize("preset", ["samix", "official"])
def test_lambda_at_its_ends(monkeypatch: pytest.MonkeyPatch, lam: float, preset: str) -> None:
    method = woken(make(preset=preset))
    seen = []
    monkeypatch.setattr(method.learned_masks, "draw", lambda count, g: lam)
    method.learned_masks.ratio_per = "batch"
    method.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    data = batch()
    losses = method(data).losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    x = data.views[0].float() / 255
    if lam == 1:  # nothing of the partner is left
        torch.testing.assert_close(seen[0], x)
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


@pytest.mark.sample(4)
@pytest.mark.parametrize("preset", SUPERVISED)
@pytest.mark.parametrize(
    ("count", "shape"), [(1, (16, 16)), (4, (24, 16)), (4, (18, 18)), (3, (17, 22))], ids=["one", "tall", "odd", "both"]
)
def test_sizes(preset: str, count: int, shape: tuple[int, int]) -> None:
    method = make(preset=preset)
    output = method(batch(count, shape=shape))
    output.losses["total"].backward()
    assert all(torch.isfinite(loss) for loss in output.losses.values())
    assert all(torch.isfinite(torch.tensor(value)) for value in output.logs().values())


def test_partners_of_one_class() -> None:
    method = woken(make(eta=0.5))
    losses = method(batch(labels=torch.full((6,), 2))).losses
    losses["total"].backward()
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_copy_follows_parameters_only() -> None:
    method = make(momentum=0.6, momentum_end=0.6)
    step(method, batch(), 0)
    other = copy.deepcopy(method)
    total = method(batch(seed=1)).losses["total"]
    counted = {k: b.clone() for k, b in method.key_model.named_buffers()}
    total.backward()
    with torch.no_grad():
        for p in method.parameters():
            p -= 0 if p.grad is None else 0.1 * p.grad
    method.after_step(1)
    parts = {"model": method.model, "heads": method.heads}
    for name, online in parts.items():
        old = dict(getattr(other, f"key_{name}").named_parameters())
        for key, now in getattr(method, f"key_{name}").named_parameters():
            expected = 0.6 * old[key] + 0.4 * dict(online.named_parameters())[key]
            torch.testing.assert_close(now, expected)
    for key, buffer in method.key_model.named_buffers():
        assert torch.equal(buffer, counted[key]), key
    seen = {k: int(b) for k, b in method.key_model.named_buffers() if k.endswith("num_batches_tracked")}
    assert {seen[k] for k in seen if "stages.3" in k} == {2}  # only mixtures go beyond the stage
    assert {seen[k] for k in seen if "stages.0" in k} == {4}


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "options",
    [{}, {"preset": "official", "switch_off": 0.5}, {"preset": "automix"}, {"adjust_probability": 0.5}],
    ids=["samix", "official", "automix", "coins"],
)
def test_resumed_is_uninterrupted(options: dict[str, Any]) -> None:
    straight = make(seed=3, **options)
    for number in range(2):
        step(straight, batch(seed=number), number)
    resumed = make(seed=5, **options)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    state = torch.get_rng_state()  # of the dropout; a checkpoint holds it
    losses = [step(straight, batch(seed=number), number) for number in range(2, 5)]
    torch.set_rng_state(state)
    assert losses == [step(resumed, batch(seed=number), number) for number in range(2, 5)]
    for (key, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        if not isinstance(a, Tensor):
            assert a["step"] == b["step"] == 5
            a, b = a["generator"], b["generator"]
        assert torch.equal(a, b), key


def test_generation_may_be_left_out() -> None:
    method = make(switch_off=0.0)
    losses = method(batch()).losses
    assert "generation" not in losses
    losses["total"].backward()  # every parameter that is declared still has its gradient
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_the_judged_head_is_fixed_in_advance() -> None:
    for head in ("mixed", "clean"):
        for network in ("online", "momentum"):
            method = make(head=head, network=network)
            method.key_heads["mixed"].weight.data += 1  # type: ignore[operator]
            found = method.encoders()
            model, heads = (method.model, method.heads) if network == "online" else (method.key_model, method.key_heads)
            assert found["image"] is model
            assert found["classifier"].linear is heads[head]
    step(method, batch(), 0)  # statistics of a copy that is judged come from clean images, too
    seen = {int(b) for k, b in method.key_model.named_buffers() if k.endswith("num_batches_tracked")}
    assert seen == {2}


def test_without_the_clean_side() -> None:
    method = make(clean_weight=0.0)
    losses = method(batch()).losses
    assert "clean" not in losses
    assert list(method.heads) == ["mixed"]
    losses["total"].backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_evaluation_moves_nothing() -> None:
    method = make().eval()
    before = copy.deepcopy(method.state_dict())
    method(batch()).logs()
    assert all(torch.equal(a, before[k]) for k, a in method.state_dict().items() if isinstance(a, Tensor))


def test_looking_moves_nothing_and_sees_the_slope() -> None:
    method = make(mixer_options={"gamma": 1.0, "encoding": "factor"})
    output = method(batch())
    before = copy.deepcopy(method.state_dict())
    state = torch.get_rng_state()
    assert abs(output.logs()["mixer/slope"]) < 0.01
    assert torch.equal(state, torch.get_rng_state())
    assert method.learned_masks.mixer.training
    assert all(torch.equal(a, before[k]) for k, a in method.state_dict().items() if isinstance(a, Tensor))

    class Follows(Mixer):
        def forward(self, z_i: Tensor, z_j: Tensor, lam: Any, scale: Any) -> Any:
            made = super().forward(z_i, z_j, lam, scale)
            return made._replace(first=made.first * 0 + torch.as_tensor(lam).float().view(-1, 1, 1, 1))

    method.learned_masks.mixer.__class__ = Follows
    told = method.learned_masks.look(torch.rand(3, 64, 4, 4), torch.rand(3, 3, 16, 16))
    assert told["mixer/slope"] == pytest.approx(1, abs=1e-5)
    assert told["mixer/spread"] == pytest.approx(0, abs=1e-6)


def test_a_kept_mixer_goes_on(tmp_path: Path) -> None:
    trained = woken(make(preset="official", mixer_options={"warp": 0.25}))
    save_model(trained.model, tmp_path / "model", {}, {})
    save_mixer(trained.learned_masks.mixer, tmp_path / "model", 2, {"ratio_per": "batch"})
    fresh = make(seed=4, mixer_from=str(tmp_path))
    assert fresh.learned_masks.mixer.settings.warp == 0.25
    wanted = trained.learned_masks.mixer.state_dict()
    assert all(torch.equal(a, wanted[k]) for k, a in fresh.learned_masks.mixer.state_dict().items())
    assert "mixer" in [group.name for group in fresh.parameter_groups()]

    frozen = make(seed=4, mixer_from=str(tmp_path / "model"), freeze_mixer=True)
    teacher = copy.deepcopy(frozen.key_model.state_dict())
    assert all(torch.equal(a, teacher[k]) for k, a in trained.model.state_dict().items())
    output = frozen(batch())
    assert set(output.losses) == {"total", "clean", "mixed"}
    step(frozen, batch(), 0)
    assert not frozen.learned_masks.mixer.training
    names = dict(frozen.key_model.named_parameters())
    assert all(torch.equal(p, teacher[k]) for k, p in names.items())
    assert all(torch.equal(a, wanted[k]) for k, a in frozen.learned_masks.mixer.state_dict().items())
    assert {id(p) for g in frozen.parameter_groups() for p in g.params} == {
        id(p) for p in frozen.parameters() if p.requires_grad
    }


def test_what_is_looked_at_needs_no_more_attention_than_a_step() -> None:
    method = make(mixer_options={"attention_limit": 6 * 16**2})  # six pairs of 4 x 4 maps, and not five times that
    told = method(batch()).logs()
    assert {"mixer/slope", "mixer/spread", "mixer/gamma"} <= set(told)


def test_maps_with_channels_last_are_read_as_they_are(tmp_path: Path) -> None:
    class Turned(nn.Module):
        """Answers (B, h, w, C), as Swin does before its last stage."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.image_size = inner, inner.image_size

        def features(self, images: Tensor, stage: int | None) -> Tensor:
            return self.inner.features(images, stage).permute(0, 2, 3, 1)  # type: ignore[operator, no-any-return]

    plain = encoder()
    turned = Turned(plain)
    assert channels_at(turned, 2) == channels_at(plain, 2) == 64
    with pytest.raises(InputError, match="one place"):
        channels_at(Turned(encoder(4)), 3)
    masks = woken(make()).learned_masks.eval()
    images = batch().views[0].float() / 255
    maps, other = plain.features(images, 2), turned.features(images, 2)
    wanted = masks(maps, maps.roll(1, 0), 0.3, images).first
    torch.testing.assert_close(masks(other, other.roll(1, 0), 0.3, images).first, wanted)


def test_a_kept_mixer_keeps_its_limit(tmp_path: Path) -> None:
    save_mixer(Mixer(64, attention_limit=1000), tmp_path, 2)
    assert load_mixer(tmp_path).mixer.attention_limit == 1000
    told = json.loads((tmp_path / "mixer.json").read_text())
    del told["attention_limit"]  # as written by earlier versions
    (tmp_path / "mixer.json").write_text(json.dumps(told))
    assert load_mixer(tmp_path).mixer.attention_limit == 2**28


@pytest.mark.slow
def test_bad_input(tmp_path: Path) -> None:
    for options, word in [
        ({"preset": "samic"}, "Did you mean 'samix'"),
        ({"stage": 9}, "stages 0 .stem. to 4"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"mixer_options": {"warp": "none"}}, "-1 for none"),
        ({"mixer_options": {"warp": float("nan")}}, "-1 for none"),
        ({"mixer_options": {"dropout": "a"}}, "dropout"),
        ({"mixer_options": {"reduction": "2"}}, "whole number"),
        ({"mixer_options": {"att_norm": "no"}}, "true or false"),
        ({"mixer_options": {"rectify": 1}}, "rectify=1: expected true or false"),
        ({"mixer_options": {"gamma": True}}, "gamma"),
        ({"mixer_options": {"attention_limit": "1"}}, "whole number"),
        ({"eta": -1.0}, "eta"),
        ({"eta_mode": "softmax"}, "mode"),
        ({"beta_schedule": "linaer"}, "linear"),
        ({"mask_kind": "l3"}, "kind"),
        ({"adjust_probability": 1.5}, "share of the steps"),
        ({"adjust_to": "none"}, "adjust_to"),
        ({"lam_margin": 0.5}, "lam_margin"),
        ({"momentum": 1.5}, "momentum"),
        ({"mixer_minimum": 2.0}, "mixer_minimum"),
        ({"mixer_options": {"gama": 1.0}}, "gamma"),
        ({"head": "one"}, "Known: mixed, clean"),
        ({"network": "q"}, "Known: online, momentum"),
        ({"clean_weight": 0.0, "head": "clean"}, "method.head=mixed"),
        ({"freeze_mixer": True}, "mixer_from"),
        ({"freeze_mixer": True, "mixer_from": "runs/x", "network": "momentum"}, "method.network=online"),
        ({"mixer_from": str(tmp_path)}, "no Mixer"),
    ]:
        with pytest.raises(InputError, match=word):
            make(**options)
    with pytest.raises(InputError, match="cannot be cut|features"):
        SAMix(Toy(), CLASSES)
    with pytest.raises(InputError, match="1 class"):
        SAMix(encoder(), 1, stage=2)
    with pytest.raises(InputError, match="one place"):
        SAMix(encoder(4), CLASSES, stage=3)
    save_mixer(Mixer(6), tmp_path, 2)
    with pytest.raises(InputError, match="6 channels"):
        make(mixer_from=str(tmp_path))
    assert METHODS["samix"] is SAMix


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_on_a_device(device: str) -> None:
    method = make().to(device)
    output = method(batch().to(device))
    output.losses["total"].backward()
    assert torch.isfinite(output.losses["total"])
    assert set(output.logs()) >= {"mixer/slope", "mixer/spread", "lambda"}
