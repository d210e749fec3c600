"""The Mixer: fixtures of the release, a loop as oracle for every choice, lambda's ends, shapes, precision, gradients."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from oracle_mixer import oracle_masks

from metrixkit.errors import InputError
from metrixkit.mixing import MIXER_PRESETS, Mixer
from metrixkit.mixing.mixer import warp_lambda

FIXTURES = json.loads((Path(__file__).resolve().parents[2] / "fixtures" / "samix.json").read_text())
OWN_NAMES = {
    "value.conv.0.conv.": "content.0.",
    "value.conv.0.bn.": "content.1.",
    "value.conv.1.conv.": "content.3.",
    "value.": "content.0.",
    "key.conv.": "key.0.",
    "query.conv.": "query.0.",
}


def released(name, **options):
    """The Mixer with a fixture's weights."""
    inputs = FIXTURES[name]["inputs"]
    x = torch.tensor(inputs["x"], dtype=torch.float64)
    mixer = Mixer(x.shape[1], **options).double()
    state = {}
    for theirs, value in inputs["state"].items():
        prefix = next(p for p in OWN_NAMES if theirs.startswith(p))
        value = torch.tensor(value, dtype=torch.float64)
        state[OWN_NAMES[prefix] + theirs.removeprefix(prefix)] = value[..., None, None] if value.ndim == 2 else value
    missing = mixer.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all("num_batches" in key for key in missing.missing_keys)
    return mixer, x, torch.tensor(inputs["index"])


def random_mixer(preset="samix", channels=6, seed=0, **options):
    """A Mixer in float64 whose weights are large enough for masks to differ."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(seed)
        mixer = Mixer(channels, preset, **options).double()
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter)
        if mixer.raw_gamma is not None:
            torch.nn.init.constant_(mixer.raw_gamma, 0.7)
        for module in mixer.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return mixer


def maps(count=3, channels=6, height=3, width=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(count, channels, height, width, generator=g, dtype=torch.float64) for _ in "ij"]


@pytest.mark.parametrize("lam", [0.3, 0.85])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_released_samix(mode, lam):
    entry = FIXTURES["mixer_samix"]
    mixer, x, index = released("mixer_samix", preset="official", warp=-1, dropout=0)
    mixer.train(mode == "train")
    expected = entry["outputs"][f"{mode}_lam{lam}"]
    pair = mixer(x, x[index], lam, 2)
    mask = torch.tensor(expected["mask"], dtype=torch.float64)
    assert torch.allclose(torch.cat([pair.first, pair.second], 1), mask, atol=entry["tol"], rtol=entry["tol"])
    assert torch.allclose(pair.content[:, 0], torch.tensor(expected["value"], dtype=torch.float64), atol=2e-5)
    if expected["attention"] is not None:
        assert torch.allclose(pair.attention, torch.tensor(expected["attention"], dtype=torch.float64), atol=2e-5)


def test_released_samix_of_two_views():
    entry = FIXTURES["mixer_samix_two_inputs"]
    mixer, _, _ = released("mixer_samix", preset="official", warp=-1)
    f_q, f_k = (torch.tensor(entry["inputs"][name], dtype=torch.float64) for name in ("f_q", "f_k"))
    pair = mixer.eval()(f_q, f_k, entry["inputs"]["lam"], entry["inputs"]["scale_factor"])
    mask = torch.tensor(entry["outputs"]["mask"], dtype=torch.float64)
    assert torch.allclose(torch.cat([pair.first, pair.second], 1), mask, atol=entry["tol"])


def test_released_automix():
    entry = FIXTURES["mixer_automix"]
    mixer, x, index = released("mixer_automix", preset="automix")
    pair = mixer(x, x[index], entry["inputs"]["lam"], entry["inputs"]["scale_factor"])
    mask = torch.tensor(entry["outputs"]["mask"], dtype=torch.float64)
    assert torch.allclose(torch.cat([pair.first, pair.second], 1), mask, atol=entry["tol"])


def test_released_warp():
    entry = FIXTURES["lambda_warp"]
    lams = torch.tensor(entry["inputs"]["lams"], dtype=torch.float64)
    for name, expected in entry["outputs"].items():
        warped = warp_lambda(lams, float(name.removeprefix("k=")))
        assert torch.allclose(warped, torch.tensor(expected, dtype=torch.float64), atol=entry["tol"])
        assert torch.allclose(warped + warp_lambda(1 - lams, float(name.removeprefix("k="))), torch.ones(8).double())


CHOICES = [
    *({"preset": name} for name in MIXER_PRESETS),
    {"preset": "official", "warp": 0.25},
    {"preset": "samix", "content": "first", "activation": "elu"},
    {"preset": "samix", "att_norm": True, "reduction": 3},
    {"preset": "samix", "rectify": True, "gamma": 0.7},
    {"preset": "automix", "encoding": "channel", "rectify": True},
    {"preset": "paper", "upsampling": "nearest"},
    {"preset": "automix", "encoding": "channel"},
    {"preset": "automix", "encoding": "channel", "warp": 0.5, "projection": "shared"},
    {"preset": "samix", "projection": "sides", "gamma": 0.4},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("size", [2, (7, 5)], ids=["whole", "not whole"])
def test_by_loops(options, size):
    mixer = random_mixer(**options).eval()
    z_i, z_j = maps(4, height=3, width=2)
    pixels = (6, 4) if size == 2 else size
    for lam in (0.3, torch.tensor([0.0, 0.6, 0.9, 1.0])):
        pair = mixer(z_i, z_j, lam, size)
        assert pair.first.shape == pair.second.shape == (4, 1, *pixels)
        expected = oracle_masks(mixer, z_i, z_j, lam, pixels)
        assert torch.allclose(pair.first[:, 0], expected, atol=1e-12), options
        assert float(pair.first.detach().std()) > 1e-3


@pytest.mark.parametrize("preset", MIXER_PRESETS)
@pytest.mark.parametrize("training", [False, True])
def test_a_lambda_for_each_pair_is_one_for_all(preset, training):
    mixer = random_mixer(preset, dropout=0.0).train(training)
    z_i, z_j = maps()
    together = mixer(z_i, z_j, torch.full((3,), 0.375), 2)
    assert torch.equal(mixer(z_i, z_j, 0.375, 2).first, mixer(z_i, z_j, torch.tensor(0.375), 2).first)
    assert torch.allclose(together.first, mixer(z_i, z_j, 0.375, 2).first, atol=1e-12)
    if not training:
        lam = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
        alone = [mixer(z_i[n : n + 1], z_j[n : n + 1], float(lam[n]), 2).first for n in range(3)]
        assert torch.allclose(mixer(z_i, z_j, lam, 2).first, torch.cat(alone), atol=1e-12)


@pytest.mark.parametrize("preset", MIXER_PRESETS)
def test_masks_sum_to_one_exactly(preset):
    mixer = random_mixer(preset).float()
    z_i, z_j = (z.float() for z in maps(5, height=5, width=2))
    for lam in (0.0, 0.37, 1.0):
        pair = mixer(z_i, z_j, lam, (13, 9))
        assert torch.equal(pair.first + pair.second, torch.ones(5, 1, 13, 9))
        assert bool(((pair.first >= 0) & (pair.first <= 1)).all())
        assert torch.allclose(pair.attention.sum(2), torch.ones(5, 10), atol=1e-6)
        assert not pair.attention.requires_grad
        assert not pair.content.requires_grad


def test_parameters_of_the_papers_networks():
    def count(channels, preset, **options):
        return sum(p.numel() for p in Mixer(channels, preset, **options).parameters())

    assert count(256, "official") == 164_480
    assert count(1024, "official") == 2_624_000
    assert count(256, "samix") == 164_480 + 1
    assert count(256, "paper") == 164_480 + 1 - (512 * 128 + 128)
    assert count(256, "automix") == 256 * 128 + 128 + 256 + 1


def test_first_masks_are_half():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mixer = Mixer(256)
    assert mixer.gamma.item() == 0
    weights = [m.weight for m in mixer.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(w.std().item() == pytest.approx(0.01, rel=0.2) for w in weights)
    z = torch.rand(4, 256, 6, 6, generator=torch.Generator().manual_seed(0))
    for lam in (0.0, 0.5, 1.0):
        assert (mixer(z, z.flip(0), lam, 4).first - 0.5).abs().max().item() < 0.06


def test_batch_norm_cancels_one_lambda_of_a_batch_in_the_content():
    mixer = random_mixer(gamma=1.0, dropout=0.0).train()
    z_i, z_j = maps(8)
    contents = [mixer(z_i, z_j, lam, 1).content for lam in (0.1, 0.9)]
    assert torch.allclose(*contents, atol=1e-4)
    lam = torch.linspace(0, 1, 8, dtype=torch.float64)
    contents = [mixer(z_i, z_j, x, 1).content for x in (lam, lam.flip(0))]
    assert float((contents[0] - contents[1]).abs().max()) > 0.05


def test_a_factor_moves_the_mean_of_rectified_maps_only():
    """Of maps about zero lambda scales the projected content about zero: its mean stays unless they are rectified."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(64, 6, 4, 4, generator=g, dtype=torch.float64)
    z = torch.cat([z, -z])
    moved = {}
    for rectify in (False, True):
        mixer = random_mixer(gamma=1.0, dropout=0.0, rectify=rectify).eval()
        with torch.no_grad():
            means = [mixer.content[0](mixer._told(z, z, lam)[1]).mean((0, 2, 3)) for lam in (0.1, 0.9)]
        moved[rectify] = float((means[0] - means[1]).abs().max())
    assert moved[False] < 1e-12
    assert moved[True] > 1e-2


def test_gamma_stays_in_the_unit_interval_and_comes_back():
    mixer = random_mixer(dropout=0.0)
    z_i, z_j = maps()
    with torch.no_grad():
        mixer.raw_gamma.fill_(-0.2)
    assert mixer.gamma.item() == 0
    (up,) = torch.autograd.grad(-mixer.gamma, mixer.raw_gamma)
    (down,) = torch.autograd.grad(mixer.gamma, mixer.raw_gamma)
    assert (float(up), float(down)) == (-1, 0)
    with torch.no_grad():
        mixer.raw_gamma.fill_(1.3)
    assert mixer.gamma.item() == 1
    (up,) = torch.autograd.grad(-mixer.gamma, mixer.raw_gamma)
    (down,) = torch.autograd.grad(mixer.gamma, mixer.raw_gamma)
    assert (float(up), float(down)) == (0, 1)
    with torch.no_grad():
        mixer.raw_gamma.fill_(0)  # where it starts, a step upwards is open
    mixer(z_i, z_j, 0.3, 2).first.var().neg().backward()
    assert mixer.raw_gamma.grad is not None
    assert "raw_gamma" not in dict(Mixer(6, "official").named_parameters())


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_gradients(options, training):
    mixer = random_mixer(**{**options, "dropout": 0.0}).train(training)
    z_i, z_j = maps(2, height=2, width=2)
    lam = torch.tensor([0.3, 0.8], dtype=torch.float64)
    names = [name for name, _ in mixer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in mixer.parameters()]

    def masks(x, y, *parameters):
        pair = torch.func.functional_call(mixer, dict(zip(names, parameters, strict=True)), (x, y, lam, (3, 5)))
        return pair.first

    assert torch.autograd.gradcheck(masks, (z_i.requires_grad_(), z_j.requires_grad_(), *values), fast_mode=True)


def test_one_pair_and_maps_of_one_place():
    z_i, z_j = maps(1, height=5, width=2)
    assert random_mixer().train()(z_i, z_j, 0.2, 3).first.shape == (1, 1, 15, 6)
    z_i, z_j = maps(1, height=1, width=1)
    assert random_mixer().eval()(z_i, z_j, 0.2, (4, 6)).first.unique().numel() == 1
    assert random_mixer("automix").train()(z_i, z_j, 0.2, 4).first.shape == (1, 1, 4, 4)
    with pytest.raises(InputError, match="batch norm a single value"):
        random_mixer().train()(z_i, z_j, 0.2, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stays_in_float32_under_autocast(dtype):
    mixer = random_mixer().float().eval()
    z_i, z_j = (z.float() for z in maps())
    expected = mixer(z_i, z_j, 0.3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mixer(z_i, z_j, 0.3, 2)
    assert all(a.dtype == torch.float32 for a in inside)
    assert torch.equal(inside.first, expected.first)
    halves = mixer(z_i.to(dtype), z_j.to(dtype), 0.3, 2)
    assert halves.first.dtype == torch.float32
    assert torch.allclose(halves.first, expected.first, atol=0.05)


def test_large_features_leave_nothing_infinite():
    mixer = random_mixer().float()
    z_i, z_j = (z.float().mul(1e6).requires_grad_() for z in maps())
    pair = mixer(z_i, z_j, 0.3, 2)
    pair.first.var().backward()
    for tensor in (*pair, z_i.grad, z_j.grad, *(p.grad for p in mixer.parameters() if p.grad is not None)):
        assert bool(torch.isfinite(tensor).all())


def test_dropout_acts_in_training_alone():
    mixer = random_mixer(dropout=0.5)
    z_i, z_j = maps()
    assert not torch.equal(mixer(z_i, z_j, 0.3, 2).first, mixer(z_i, z_j, 0.3, 2).first)
    mixer.eval()
    assert torch.equal(mixer(z_i, z_j, 0.3, 2).first, mixer(z_i, z_j, 0.3, 2).first)


def test_state_survives():
    mixer, other = random_mixer(seed=1).eval(), random_mixer(seed=2).eval()
    other.load_state_dict(mixer.state_dict())
    z_i, z_j = maps()
    assert torch.equal(mixer(z_i, z_j, 0.3, 2).first, other(z_i, z_j, 0.3, 2).first)
    assert len({p.data_ptr() for p in mixer.state_dict().values()}) == len(mixer.state_dict())


@pytest.mark.gpu
def test_on_cuda():
    mixer = random_mixer().eval()
    z_i, z_j = maps()
    expected = mixer(z_i, z_j, torch.tensor([0.1, 0.6, 0.9]), (7, 5)).first
    mixer = mixer.cuda()
    for lam in (torch.tensor([0.1, 0.6, 0.9]), torch.tensor([0.1, 0.6, 0.9]).cuda()):
        assert torch.allclose(mixer(z_i.cuda(), z_j.cuda(), lam, (7, 5)).first.cpu(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "samixx"}, "Did you mean 'samix'"),
        ({"channels": 7}, "multiple of reduction=2"),
        ({"projection": "three"}, "mixer projection='three'"),
        ({"gamma": "learn"}, "gamma='learn'"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"reduction": 0}, "reduction=0"),
        ({"attention_limit": 0}, "attention_limit=0"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(InputError, match=message):
        Mixer(**{"channels": 6, **change})


def test_input_that_does_not_fit():
    mixer = Mixer(6, attention_limit=3 * 12**2)
    z_i, z_j = (z.float() for z in maps())
    mixer(z_i, z_j, 0.5, 2)
    for args, message in [
        ((z_i, z_j[:2], 0.5, 2), "row i of one"),
        ((z_i[0], z_j, 0.5, 2), "z_i is"),
        ((z_i.long(), z_j, 0.5, 2), "z_i is"),
        ((z_i[:, :4], z_j[:, :4], 0.5, 2), "4 channels, it was built for 6"),
        ((z_i, z_j, 1.5, 2), "lam is 1.5"),
        ((z_i, z_j, torch.tensor([0.1, 0.2]), 2), "lam has shape"),
        ((z_i, z_j, 0.5, 2.5), "scale=2.5"),
        ((z_i, z_j, 0.5, (0, 3)), r"scale=\(0, 3\)"),
        ((torch.cat([z_i] * 2), torch.cat([z_j] * 2), 0.5, 2), "over the limit of 432"),
    ]:
        with pytest.raises(InputError, match=message):
            mixer(*args)
