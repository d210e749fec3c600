"""SAMix-I and SAMix-C: who learns from what, against the steps written out, and the memory of clusters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_tower import toy

from metrixkit.errors import InputError
from metrixkit.methods import SAMixC, SAMixI
from metrixkit.methods.cluster_memory import ClusterMemory
from metrixkit.methods.samix_presets import CONTRAST
from metrixkit.mixing import draw_partners
from metrixkit.mixing.mixer import save_mixer
from metrixkit.models import ImageEncoder, save_model
from metrixkit.seam import Batch, Method

COUNT, ITEMS = 6, 24


def make(name: str, seed: int = 0, size: int = 16, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = ImageEncoder("small", pooling="avg", dim=None, normalize=False, image_size=size)
    settings: dict[str, Any] = {"stage": 2, "steps": 20, "dim": 8, "queue_size": 16, "groups": 1, "momentum": 0.9}
    settings |= {"seed": seed, **options}
    if name == "i":
        return SAMixI(model, **settings).train()
    method = SAMixC(model, **{"count": ITEMS, "clusters": 3, "least": 2, "refresh": 2, **settings}).train()
    embeddings = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1))
    method.before_epoch(0, lambda: embeddings)
    return method


def batch(seed: int = 0, count: int = COUNT, side: int = 16) -> Batch:
    g = torch.Generator().manual_seed(seed)
    views = [torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=g) for _ in range(2)]
    return Batch(ids=[str(i) for i in range(count)], index=torch.randperm(ITEMS, generator=g)[:count], views=views)


def woken(method: Any, by: float = 0.3) -> Any:
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in method.learned_masks.mixer.parameters():
            p += by * torch.randn(p.shape, generator=g)
    return method


def step(method: nn.Module, data: Batch, number: int) -> float:
    total: Tensor = method(data).losses["total"]
    total.backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad
                p.grad = None
    method.after_step(number)  # type: ignore[operator]
    return float(total.detach())


def part(name: str) -> str:
    known = ("core.tower.key_", "core.tower.model", "core.tower.projector", "core.learned_masks", "classifier")
    return next(prefix for prefix in known if name.startswith(prefix))


TOWER = {"core.tower.model", "core.tower.projector"}
LEARNS = {
    "clean": TOWER,
    "mixed": TOWER,
    "generation": {"core.learned_masks"},
    "mask": {"core.learned_masks"},
    "clusters": {"classifier"},
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["i", "c"])
@pytest.mark.parametrize("preset", ["samix", "automix"])
def test_each_side_teaches_its_own(name: str, preset: str) -> None:
    method = woken(make(name, preset=preset))
    assert isinstance(method, Method)
    for loss in ("clean", "mixed", "generation", "mask", *(["clusters"] if name == "c" else [])):
        method(batch()).losses[loss].backward()
        found = {part(key) for key, p in method.named_parameters() if p.grad is not None}
        assert found == LEARNS[loss], loss
        method.zero_grad(set_to_none=True)
    method(batch()).losses["total"].backward()
    trained = {id(p) for group in method.parameter_groups() for p in group.params}
    assert trained == {id(p) for p in method.parameters() if p.requires_grad}
    assert trained == {id(p) for p in method.parameters() if p.grad is not None}


def test_the_release_doubles_the_mixers_gradient() -> None:
    gradients = []
    for preset in ("official", "samix"):
        method = woken(make("c", preset="official", mixer_options={"dropout": 0.0}))
        method.official = preset == "official"
        method.choices = CONTRAST["official"].__class__(**{**vars(method.choices), "eta": 1.0})
        monkeyed = torch.ones(3)
        method.memory.weights = lambda official, w=monkeyed: w
        losses = method(batch()).losses
        (losses["generation"] + losses["clusters"]).backward()
        gradients.append(method.learned_masks.mixer.query[0].weight.grad)
    torch.testing.assert_close(gradients[0], 2 * gradients[1])


def cross_entropy(rows: Tensor, a: Tensor, b: Tensor, queue: Tensor, lam: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Two InfoNCE by lambda, and the joint softmax over both keys and the queue, row by row."""
    rows, a, b, queue = (F.normalize(x.double(), dim=1) for x in (rows, a, b, queue))
    split, joint, local = [], [], []
    for i, share in enumerate(lam.double().expand(len(rows))):
        s, u, n = rows[i] @ a[i] / t, rows[i] @ b[i] / t, rows[i] @ queue.T / t
        one = s - torch.cat([s[None], n]).logsumexp(0)
        two = u - torch.cat([u[None], n]).logsumexp(0)
        split.append(-share * one - (1 - share) * two)
        everyone = torch.cat([s[None], u[None], n]).logsumexp(0)
        joint.append(-share * (s - everyone) - (1 - share) * (u - everyone))
        both = torch.logaddexp(s, u)
        local.append(-share * (s - both) - (1 - share) * (u - both))
    return torch.stack(split).mean(), torch.stack([torch.stack(joint).mean(), torch.stack(local).mean()])


@pytest.mark.parametrize("preset", ["samix", "official", "automix"])
def test_a_step_of_samix_i_written_out(preset: str) -> None:
    options = {"beta_schedule": "linear", "mixer_options": {"dropout": 0.0}}
    method = woken(make("i", preset=preset, **options))
    method.core.step = 5
    with torch.no_grad():
        for p in method.core.tower.model.parameters():
            p += 0.01
    data, before = batch(), copy.deepcopy(method)
    losses = method(data).losses
    core, tower, g = before.core, before.core.tower, before.core.generator
    q, k = (view.float() / 255 for view in data.views)
    query = tower.query(q)
    tower.follow()
    masks, count = core.learned_masks, len(q)
    lam, lam_own = (torch.as_tensor(masks.draw(count, g)) for _ in range(2))
    partner, own = (draw_partners(count, "permutation", g) for _ in range(2))
    crossed = preset == "official"
    other = k if crossed else q
    if crossed:  # keys of both views share a pass, and so its batch norm
        z_k, z_q = tower.key_tower()(torch.cat([k, q])).detach().split(count)
    else:
        z_k = z_q = tower.key_tower()(k).detach()
    with torch.no_grad():
        maps = tower.key_model.features(q, 2)
        maps_other = tower.key_model.features(k, 2) if crossed else maps
    second = z_q if crossed else z_k  # the target of the partner

    def mixture(first: Tensor, index: Tensor) -> Tensor:
        return torch.stack([m * a + (1 - m) * b for m, a, b in zip(first, q, other[index], strict=True)])

    with torch.no_grad():
        held = masks.mixer(maps, maps_other[partner], lam, 4).first
        for row, target in enumerate(lam.expand(count).tolist()):
            mu, s = float(held[row].mean()), held[row].clone()
            if abs(mu - target) > 0.1:
                held[row] = s * target / mu if mu > target else 1 - (1 - s) * (1 - target) / (1 - mu)
    mixed = tower.query(mixture(held, partner))
    mask = masks.mixer(maps, maps_other[own], lam_own, 4).first
    generated = tower.key_tower()(mixture(mask, own))
    queue = tower.queue.rows
    plain = F.cross_entropy(
        torch.cat([F.cosine_similarity(query, z_k)[:, None], F.normalize(query, dim=1) @ queue.T], 1) / 0.2,
        torch.zeros(count, dtype=torch.int64),
    )
    tight = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(losses["clean"], plain, **tight)
    expected, _ = cross_entropy(mixed, z_k, second[partner], queue, lam, 0.2)
    torch.testing.assert_close(losses["mixed"].double(), expected, **tight)
    expected, (joint, local) = cross_entropy(generated, z_k, second[own], queue, lam_own, 0.2)
    if preset == "samix":
        expected = local + 0.5 * (joint - local)
    torch.testing.assert_close(losses["generation"].double(), expected, **tight)
    total = losses["clean"] + losses["mixed"] + losses["generation"] + 0.075 * losses["mask"]
    torch.testing.assert_close(losses["total"], total)
    torch.testing.assert_close(method.core.tower.queue.rows[:count], F.normalize(z_k, dim=1), **tight)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["i", "c"])
def test_resumed_is_uninterrupted(name: str) -> None:
    options = {"momentum_end": 1.0, **({"filter_negatives": True} if name == "c" else {"eta_schedule": "linear"})}
    straight = make(name, seed=3, **options)
    for number in range(3):
        step(straight, batch(seed=number), number)
    resumed = make(name, seed=5, **options)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    resumed.before_epoch(1, lambda: pytest.fail("clusters are there"))
    state = torch.get_rng_state()
    losses = [step(straight, batch(seed=number), number) for number in range(3, 6)]
    torch.set_rng_state(state)
    assert losses == [step(resumed, batch(seed=number), number) for number in range(3, 6)]
    for (key, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        if not isinstance(a, Tensor):  # draws go on where they were
            assert {k: v for k, v in a.items() if k != "generator"} == {k: v for k, v in b.items() if k != "generator"}
            a, b = a["generator"], b["generator"]
        assert torch.equal(a, b), key


def test_clusters_follow_the_keys() -> None:
    method = make("c", refresh=100)
    memory, before = method.memory, copy.deepcopy(method.memory)
    data = batch()
    step(method, data, 0)
    key = method.core.tower.queue.rows[:COUNT]  # what joined the queue also went into the memory
    for row, item in enumerate(data.index.tolist()):  # type: ignore[union-attr]
        mean = F.normalize(0.5 * before.features[item] + 0.5 * key[row], dim=0)
        torch.testing.assert_close(memory.features[item], mean)
        assert int(memory.labels[item]) == int((before.centroids @ mean).argmax())
    torch.testing.assert_close(memory.centroids, before.centroids)
    for number in range(1, 100):
        memory.update(batch(number).index, torch.randn(COUNT, 8))  # type: ignore[arg-type]
    assert not torch.equal(memory.centroids, before.centroids)
    assert int(memory.counts().min()) >= 2


def test_negatives_of_a_cluster_are_left_out() -> None:
    plain, filtered = (make("c", filter_negatives=f) for f in (False, True))
    for method in (plain, filtered):
        step(method, batch(0), 0)
    first = [method(batch(1)).losses["mixed"] for method in (plain, filtered)]
    assert not torch.equal(*first)
    labels = filtered.memory.labels
    own = filtered._same(torch.tensor([0]), torch.tensor([2]))[0]
    for place, item in enumerate(filtered.queued.tolist()):
        assert bool(own[place]) == (item >= 0 and int(labels[item]) in (0, 2)), place
    assert filtered.queued[: 2 * COUNT].tolist() == batch(0).index.tolist() + batch(1).index.tolist()  # type: ignore[union-attr]
    assert filtered.queued[2 * COUNT :].eq(-1).all()


@pytest.mark.parametrize("name", ["i", "c"])
def test_evaluation_moves_nothing(name: str) -> None:
    method = make(name).eval()
    before = copy.deepcopy(method.state_dict())
    method(batch()).logs()
    assert all(torch.equal(a, before[k]) for k, a in method.state_dict().items() if isinstance(a, Tensor))


@pytest.mark.parametrize("name", ["i", "c"])
def test_one_image_and_odd_sizes(name: str) -> None:
    for data in (batch(count=1), batch(count=4, side=18)):
        output = make(name)(data)
        output.losses["total"].backward()
        assert all(torch.isfinite(loss) for loss in output.losses.values())
        assert all(isinstance(value, float) for value in output.logs().values())


def test_momentum_may_rise() -> None:
    method = make("i", momentum_end=1.0)
    method(batch())
    assert method.core.tower.momentum == pytest.approx(0.9)
    method.after_step(19)
    method(batch())
    assert method.core.tower.momentum == pytest.approx(1.0)


def test_encoders() -> None:
    found = make("c").encoders()
    assert set(found) == {"image", "selection"}
    assert found["selection"](torch.rand(2, 3, 16, 16)).shape == (2, 8)
    assert set(make("i").encoders()) == {"image"}


def test_bad_input() -> None:
    for name, options, word in [
        ("i", {"preset": "smaix"}, "Did you mean"),
        ("i", {"stage": 7}, "stage 7"),
        ("i", {"eta": -0.1}, "eta"),
        ("i", {"adjust_margin": 2.0}, "margin"),
        ("i", {"mixer_lr": -1.0}, "mixer_lr"),
        ("i", {"temperature": 0.0}, "temperature"),
        ("c", {"clusters": 13}, "choose fewer, such as method.clusters=6"),
        ("c", {"clusters": 1}, "two clusters"),
        ("c", {"memory_momentum": 1.5}, "memory_momentum"),
    ]:
        with pytest.raises(InputError, match=word):
            make(name, **options)
    with pytest.raises(InputError, match="features"):
        SAMixI(toy(), dim=4, queue_size=8, groups=1)
    torch.manual_seed(0)
    model = ImageEncoder("small", pooling="avg", dim=None, normalize=False, image_size=16)
    method = SAMixC(model, ITEMS, stage=2, clusters=3, least=2, dim=8, queue_size=16, groups=1)
    with pytest.raises(RuntimeError, match="before_epoch"):
        method(batch())
    with pytest.raises(InputError, match="embeddings for"):
        method.before_epoch(0, lambda: torch.rand(3, 8))


def test_memory_starts_from_clusters() -> None:
    memory = ClusterMemory(30, 3, 5, least=2)
    g = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(3, 5, generator=g), dim=1)
    truth = torch.arange(30) % 3
    memory.start(10 * centres[truth] + 0.1 * torch.randn(30, 5, generator=g))
    assert len({(int(a), int(b)) for a, b in zip(truth, memory.labels, strict=True)}) == 3
    torch.testing.assert_close(memory.features.norm(dim=1), torch.ones(30))
    torch.testing.assert_close(memory.centroids[memory.labels[0]], memory.features[::3].mean(0))
    assert float(memory.weights().mean()) == pytest.approx(1.0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_kept_mixer_goes_on_or_stays(tmp_path: Path, groups: int) -> None:
    trained = woken(make("i", preset="official"))
    save_model(trained.core.tower.model, tmp_path / "model", {}, {})
    save_mixer(trained.learned_masks.mixer, tmp_path / "model", 2, {})
    wanted = copy.deepcopy(trained.learned_masks.mixer.state_dict())
    for name in ("i", "c"):
        fresh = make(name, seed=4, mixer_from=str(tmp_path))
        assert fresh.learned_masks.mixer.settings.warp == 1.0
        assert all(torch.equal(a, wanted[k]) for k, a in fresh.learned_masks.mixer.state_dict().items())
        assert "mixer" in [group.name for group in fresh.parameter_groups()]

    frozen = make("i", seed=4, mixer_from=str(tmp_path), freeze_mixer=True, groups=groups)
    teacher = copy.deepcopy(frozen.core.teacher.state_dict())
    kept = trained.core.tower.model.state_dict()
    assert all(torch.equal(a, kept[k]) for k, a in teacher.items())
    assert set(frozen(batch()).losses) == {"total", "clean", "mixed"}
    before = copy.deepcopy(dict(frozen.core.tower.model.named_parameters()))
    step(frozen, batch(), 0)
    assert all(torch.equal(p, teacher[k]) for k, p in frozen.core.teacher.named_parameters())
    assert all(torch.equal(a, wanted[k]) for k, a in frozen.learned_masks.mixer.state_dict().items())
    assert any(not torch.equal(p, before[k]) for k, p in frozen.core.tower.model.named_parameters())
    assert {id(p) for g in frozen.parameter_groups() for p in g.params} == {
        id(p) for p in frozen.parameters() if p.requires_grad
    }
    with pytest.raises(InputError, match="mixer_from"):
        make("i", freeze_mixer=True)
    with pytest.raises(InputError, match="brings its own"):
        make("i", mixer_from=str(tmp_path), mixer_options={"gamma": 1.0})
