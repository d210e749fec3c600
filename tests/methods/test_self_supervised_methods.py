"""What a step of each self-supervised method does, against the same step written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_tower import Toy, batch, toy, views

from metrixkit.errors import InputError
from metrixkit.losses import sinkhorn
from metrixkit.methods import BYOL, CLIM, MIXERS, MoCo, SimCLR, SwAV
from metrixkit.methods.instance_mixers import IMix, MixCo, MoCHi, UnMix
from metrixkit.methods.instance_mixture import InstanceMixer, Mixture
from metrixkit.methods.instance_mixup import InstanceMixup, InterIntra
from metrixkit.mixing import draw_partners, draw_ratio
from metrixkit.mixing.images import fine_grained_saliency, puzzlemix
from metrixkit.models import ImageEncoder
from metrixkit.seam import Batch, Method
from metrixkit.training.optim import Rates
from metrixkit.training.schedule import Cosine

ITEMS = 24


def moco(mixer: InstanceMixer | None = None, **settings: Any) -> MoCo:
    method = MoCo(toy(), mixer, dim=4, queue_size=16, groups=1, count=ITEMS, **settings)
    embeddings = torch.randn(ITEMS, 4, generator=torch.Generator().manual_seed(1))
    method.before_epoch(0, lambda: embeddings)
    return method


HOSTS: dict[str, Any] = {
    "moco": moco,
    "simclr": lambda mixer=None, **k: SimCLR(toy(), mixer, dim=4, **k),
    "byol": lambda mixer=None, **k: BYOL(toy(), mixer, dim=4, hidden=8, steps=10, **k),
    "swav": lambda mixer=None, **k: SwAV(toy(), mixer, dim=4, hidden=8, prototypes=5, **k),
}
SMALL: dict[str, Any] = {
    "mochi": lambda: MoCHi(8, 6, 3, warmup_epochs=0),
    "inter-intra": lambda: InterIntra(clusters=3, least=2),
}
PAIRS = [(host, name) for host in HOSTS for name, cls in MIXERS.items() if host in cls.hosts and name != "mochi"]
PAIRS.append(("moco", "mochi"))


def mixer_of(name: str) -> InstanceMixer:
    return SMALL.get(name, MIXERS[name])()


def step(method: nn.Module, data: Batch, rate: float = 0.1) -> float:
    total: Tensor = method(data).losses["total"]
    total.backward()
    with torch.no_grad():
        for p in method.parameters():
            if p.grad is not None:
                p -= rate * p.grad
                p.grad = None
    method.after_step(0)  # type: ignore[operator]
    return float(total.detach())


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_every_pair_trains_what_it_should(host: str, name: str) -> None:
    method = HOSTS[host](mixer_of(name))
    assert isinstance(method, Method)
    trained = {id(p) for group in method.parameter_groups() for p in group.params}
    assert trained == {id(p) for p in method.parameters() if p.requires_grad}
    output = method(batch())
    assert torch.isfinite(output.losses["total"])
    assert output.losses["total"].requires_grad
    output.losses["total"].backward()
    for key, parameter in method.named_parameters():
        follows = key.startswith(("tower.key_", "target_"))
        assert (parameter.grad is None) == follows, key
    assert all(isinstance(value, float) for value in output.logs().values())


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_resumed_is_uninterrupted(host: str, name: str) -> None:
    straight = HOSTS[host](mixer_of(name), seed=3)
    for number in range(2):
        step(straight, batch(seed=number))
    resumed = HOSTS[host](mixer_of(name), seed=5)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for number in range(2, 5):
        assert step(straight, batch(seed=number)) == step(resumed, batch(seed=number))
    for (key, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert not isinstance(a, Tensor) or torch.equal(a, b), key


def test_a_step_of_moco_written_out() -> None:
    method = HOSTS["moco"](momentum=0.9, temperature=0.3)
    tower = method.tower
    with torch.no_grad():
        tower.model.layer.weight += 0.1  # so that the key encoder is behind
    data, before = batch(), copy.deepcopy(method)
    value = method(data).losses["total"]
    q_view, k_view = (view.float() / 255 for view in data.views)
    old, expected = before.tower, before.tower.key_model.layer.weight
    expected = 0.9 * expected + 0.1 * old.model.layer.weight
    torch.testing.assert_close(tower.key_model.layer.weight, expected)
    query = F.normalize(old.projector(old.model(q_view)), dim=1)
    with torch.no_grad():  # keys are made by the key encoder after it moved
        key = F.normalize(tower.key_projector(tower.key_model(k_view)), dim=1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ old.queue.rows.T], 1) / 0.3
    torch.testing.assert_close(value, F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)))
    torch.testing.assert_close(tower.queue.rows[:8], key)
    torch.testing.assert_close(tower.queue.rows[8:], old.queue.rows[8:])
    assert int(tower.queue.pointer) == 8


@pytest.mark.parametrize("name", ["none", "inter-intra"])
def test_evaluation_moves_nothing(name: str) -> None:
    method = HOSTS["moco"](mixer_of(name), momentum=0.5).eval()
    before = copy.deepcopy(method.state_dict())
    method(batch())
    assert all(torch.equal(a, before[k]) for k, a in method.state_dict().items() if isinstance(a, Tensor))


def dense(mixed: Tensor, targets: Tensor, queue: Tensor | None, mixture: Mixture, temperature: float) -> Tensor:
    """The joint loss with its label matrix."""
    logits = mixed @ (targets if queue is None else torch.cat([targets, queue])).T / temperature
    label = torch.zeros_like(logits)
    for row in range(len(mixed)):
        label[row, mixture.first[row]] += mixture.lam[row]
        label[row, mixture.second[row]] += 1 - mixture.lam[row]
    return -(label * logits.log_softmax(1)).sum(1).mean()


def test_mixco_on_moco_written_out() -> None:
    method = HOSTS["moco"](MixCo(temperature=0.5, weight=0.7))
    reference = copy.deepcopy(method)
    data = batch()
    output = method(data)
    q_view, k_view = (view.float() / 255 for view in data.views)
    tower = reference.tower
    mixture = reference.mixer.mix(q_view, k_view, reference.generator)
    assert mixture is not None
    assert len(mixture.images) == 4
    expected = mixture.lam[:, None, None, None] * q_view[:4] + (1 - mixture.lam[:, None, None, None]) * q_view[4:]
    torch.testing.assert_close(mixture.images, expected)
    mixed = F.normalize(tower.query(mixture.images), dim=1)
    key = F.normalize(tower.key_tower()(k_view), dim=1)
    torch.testing.assert_close(output.losses["mixed"], dense(mixed, key, tower.queue.rows, mixture, 0.5))
    total = output.losses["clean"] + 0.7 * output.losses["mixed"]
    torch.testing.assert_close(output.losses["total"], total)


def test_clean_and_mixed_share_every_group_of_batch_norm() -> None:
    torch.manual_seed(0)
    method = MoCo(toy(norm=True), MixCo(), dim=4, queue_size=16, groups=2)
    tower = method.tower
    clean, mixed = torch.rand(8, 3, 8, 8), torch.rand(4, 3, 8, 8)
    a, b = tower.query_together(clean, mixed)
    for group in range(2):
        part = torch.cat([clean[4 * group : 4 * group + 4], mixed[2 * group : 2 * group + 2]])
        x = tower.model.layer(part.flatten(1))
        x = torch.tanh((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt())
        expected = tower.projector(x)
        torch.testing.assert_close(a[4 * group : 4 * group + 4], expected[:4])
        torch.testing.assert_close(b[2 * group : 2 * group + 2], expected[4:])


def test_imix_takes_keys_of_the_batch_for_candidates() -> None:
    method = HOSTS["moco"](IMix())
    reference = copy.deepcopy(method)
    data = batch()
    output = method(data)
    assert set(output.losses) == {"total", "mixed"}
    q_view, k_view = (view.float() / 255 for view in data.views)
    mixture = reference.mixer.mix(q_view, k_view, reference.generator)
    assert mixture is not None
    assert bool((mixture.lam >= 0.5).all())
    assert len(mixture.images) == 8
    mixed = F.normalize(reference.tower.query(mixture.images), dim=1)
    key = F.normalize(reference.tower.key_tower()(k_view), dim=1)
    expected = dense(mixed, key, reference.tower.queue.rows, mixture, 0.2)
    torch.testing.assert_close(output.losses["total"], expected)


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_unmix_is_three_contrasts(cutmix: float) -> None:
    method = HOSTS["moco"](UnMix(cutmix_probability=cutmix))
    reference = copy.deepcopy(method)
    data = batch()
    output = method(data)
    q_view, k_view = (view.float() / 255 for view in data.views)
    mixture = reference.mixer.mix(q_view, k_view, reference.generator)
    assert mixture is not None
    tower = reference.tower
    mixed = F.normalize(tower.query(mixture.images), dim=1)
    key, queue = F.normalize(tower.key_tower()(k_view), dim=1), tower.queue.rows

    def nce(q: Tensor, k: Tensor) -> Tensor:
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long), reduction="none")

    lam = mixture.lam
    # As published: the reversed mixtures against the keys in their order.
    expected = (lam * nce(mixed, key)).mean() + ((1 - lam) * nce(mixed, key.flip(0))).mean()
    torch.testing.assert_close(output.losses["mixed"], expected)
    if cutmix == 0.0:
        torch.testing.assert_close(
            (lam * nce(mixed, key) + (1 - lam) * nce(mixed.flip(0), key)).mean(), output.losses["mixed"]
        )


@pytest.mark.parametrize(
    ("view", "partner_view", "first", "second"),
    [
        ("same", "query", "query", "query"),
        ("cross", "query", "key", "key"),
        ("same", "key", "query", "key"),
        ("cross", "key", "key", "query"),
    ],
)
def test_views_of_instance_mixup(view: Any, partner_view: Any, first: str, second: str) -> None:
    mixer = InstanceMixup(view=view, partner_view=partner_view)
    q, k = torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8)
    mixture = mixer.mix(q, k, torch.Generator().manual_seed(1))
    assert (mixture.first_view, mixture.second_view) == (first, second)
    other = (k if partner_view == "key" else q)[mixture.second]
    lam = mixture.lam[:, None, None, None]
    torch.testing.assert_close(mixture.images, lam * q + (1 - lam) * other)
    method = HOSTS["moco"](mixer)
    reference = copy.deepcopy(method)
    data = batch()
    output = method(data)
    views = {"query": data.views[0].float() / 255, "key": data.views[1].float() / 255}
    drawn = reference.mixer.mix(views["query"], views["key"], reference.generator)
    tower = reference.tower
    keys = {name: F.normalize(tower.key_tower()(pixels), dim=1) for name, pixels in views.items()}
    mixed = F.normalize(tower.query(drawn.images), dim=1)
    terms = []
    for target, share in ((keys[first][drawn.first], drawn.lam), (keys[second][drawn.second], 1 - drawn.lam)):
        logits = torch.cat([(mixed * target).sum(1, keepdim=True), mixed @ tower.queue.rows.T], 1) / 0.2
        terms.append(share * F.cross_entropy(logits, torch.zeros(8, dtype=torch.long), reduction="none"))
    torch.testing.assert_close(output.losses["mixed"], (terms[0] + terms[1]).mean())


def test_inter_intra_goes_by_the_clusters() -> None:
    method = HOSTS["moco"](InterIntra(clusters=3, least=2), momentum=0.9)
    assert method.memory is not None
    assert set(method.encoders()) == {"image", "selection"}
    reference, data = copy.deepcopy(method), batch(16)
    labels = reference.memory.labels[data.index].clone()
    # As in the step: partners, both lambdas, then boxes, from one generator.
    draw = copy.deepcopy(reference.generator)
    partner = draw_partners(16, "permutation", draw)
    between, within = float(draw_ratio(2.0, draw)), float(draw_ratio(0.2, draw))
    q_view = data.views[0].float() / 255
    drawn = reference.mixer.mix_clustered(q_view, q_view, reference.generator, labels)
    assert torch.equal(drawn.second, partner)
    same = labels == labels[partner]
    assert 0 < int(same.sum()) < 16
    blend = within * q_view + (1 - within) * q_view[partner]
    torch.testing.assert_close(drawn.images[same], blend[same])
    torch.testing.assert_close(drawn.lam[same], torch.full_like(drawn.lam[same], within))
    pixels = drawn.images[~same]
    mine = (pixels == q_view[~same]).all(1)
    assert torch.equal(mine | (pixels == q_view[partner][~same]).all(1), torch.ones_like(mine))
    assert abs(float(drawn.lam[~same].mean()) - between) < 0.5
    torch.testing.assert_close(drawn.lam[~same].to(torch.float64), mine.double().mean((1, 2)), atol=0.02, rtol=0)

    before = method.memory.features.clone()
    assert copy.deepcopy(method)(data).logs()["lambda"] == pytest.approx(float(drawn.lam.mean()))
    step(method, data)
    moved = (method.memory.features != before).any(1)
    assert torch.equal(moved, torch.arange(ITEMS) < 16)


def test_inter_intra_needs_clusters_first() -> None:
    method = MoCo(toy(), InterIntra(clusters=3, least=2), dim=4, queue_size=16, groups=1, count=ITEMS)
    with pytest.raises(RuntimeError, match="before_epoch"):
        method(batch())
    with pytest.raises(InputError, match="10 embeddings for 24 images"):
        method.before_epoch(0, lambda: torch.zeros(10, 4))


def test_puzzlemix_without_labels_takes_the_model_free_saliency() -> None:
    mixer = InstanceMixup("puzzlemix", alpha=1.0, partner_view="key")
    q, k = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    mixture = mixer.mix(q, k, torch.Generator().manual_seed(3))
    draw = torch.Generator().manual_seed(3)
    partner = draw_partners(4, "permutation", draw)
    lam = float(draw_ratio(1.0, draw))
    salient = fine_grained_saliency(q), fine_grained_saliency(k[partner])
    wanted = puzzlemix(q, k[partner], lam, draw, *salient)
    assert torch.equal(mixture.images, wanted.images)
    assert torch.equal(mixture.lam, wanted.lam)


@pytest.mark.slow
def test_manifoldmix_mixes_the_maps_of_a_drawn_stage() -> None:
    torch.manual_seed(0)
    model = ImageEncoder("small", pooling="avg", dim=None, normalize=False, image_size=16)
    method = MoCo(model, InstanceMixup("manifoldmix", clean_weight=0.0), dim=4, queue_size=16, groups=1)
    data = Batch(ids=["x"] * 4, views=views(4, side=16))
    stages = set()
    for _ in range(16):
        before = copy.deepcopy(method)
        q_view = data.views[0].float() / 255
        drawn = before.mixer.mix(q_view, q_view, before.generator)
        stages.add(drawn.stage)
        if drawn.stage is not None:
            assert torch.equal(drawn.images, q_view)
            tower = before.tower
            maps = tower.model.features(q_view, drawn.stage)
            lam = drawn.lam.float()[:, None, None, None]
            mixed = lam * maps + (1 - lam) * maps[drawn.second]
            wanted = tower.projector(tower.model.head_from(drawn.stage)(mixed))
            parts = (drawn.first, drawn.second, drawn.lam, drawn.stage)
            torch.testing.assert_close(copy.deepcopy(method).tower.query_maps(q_view, *parts), wanted)
        output = method(data)
        assert torch.isfinite(output.losses["mixed"])
    assert stages == {None, 1, 2}
    rows = torch.arange(8)
    with pytest.raises(InputError, match="ImageEncoder"):
        HOSTS["moco"]().tower.query_maps(batch().views[0].float() / 255, rows, rows.flip(0), torch.full((8,), 0.5), 1)


def test_mochi_waits_and_then_is_harder() -> None:
    plain, waiting = HOSTS["moco"](), HOSTS["moco"](MoCHi(8, 6, 3, warmup_epochs=2))
    assert step(plain, batch()) == step(waiting, batch())
    waiting.before_epoch(2, lambda: torch.zeros(0))
    again = HOSTS["moco"]()
    again.load_state_dict(waiting.state_dict())
    assert step(waiting, batch(seed=1)) > step(again, batch(seed=1))


def test_mixco_on_simclr_written_out() -> None:
    method = HOSTS["simclr"](MixCo(weight=0.5))
    reference = copy.deepcopy(method)
    data = batch()
    output = method(data)
    a, b = (view.float() / 255 for view in data.views)
    z = [F.normalize(reference._embed(view), dim=1) for view in (a, b)]
    terms = []
    for view, other in ((a, z[1]), (b, z[0])):
        mixture = reference.mixer.mix(view, view, reference.generator)
        terms.append(dense(F.normalize(reference._embed(mixture.images), dim=1), other, None, mixture, 0.5))
    torch.testing.assert_close(output.losses["mixed"], (terms[0] + terms[1]) / 2)
    # Targets are not detached: the gradient is that of the formula as it stands.
    output.losses["mixed"].backward()
    ((terms[0] + terms[1]) / 2).backward()
    torch.testing.assert_close(method.model.layer.weight.grad, reference.model.layer.weight.grad)


@pytest.mark.parametrize("name", ["mixco", "imix", "unmix", "instance-mixup"])
def test_mixers_at_the_ends_of_lambda(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With lambda 1 everywhere a mixture is its first image, and every loss finite; with 0 its second one."""
    for end in (0.0, 1.0):
        mixer = UnMix(cutmix_probability=0.0) if name == "unmix" else mixer_of(name)
        full = lambda *a, end=end: torch.full(a[-1] if isinstance(a[-1], tuple) else (), end, dtype=torch.float64)
        monkeypatch.setattr("metrixkit.methods.instance_mixers.draw_ratio", full)
        monkeypatch.setattr("metrixkit.methods.instance_mixup.draw_ratio", full)
        monkeypatch.setattr("metrixkit.methods.instance_mixers.draw_between", full)
        method = HOSTS["moco"](mixer)
        output = method(batch())
        assert torch.isfinite(output.losses["total"])
        q = batch().views[0].float() / 255
        mixture = mixer.mix(q, q, torch.Generator().manual_seed(0))
        dominant = end == 1.0 or name == "imix"
        torch.testing.assert_close(mixture.images, q[mixture.first if dominant else mixture.second])


def test_duplicated_images_are_no_trouble() -> None:
    data = batch()
    same = Batch(ids=data.ids, index=data.index, views=[view[:1].expand(8, -1, -1, -1).clone() for view in data.views])
    for host, name in PAIRS:
        assert torch.isfinite(HOSTS[host](mixer_of(name))(same).losses["total"]), (host, name)


class OnlyStatistics(Toy):
    """Says of an image nothing but the mean of what is normalised with it."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)
        parts = rows.chunk(self.norm.splits if self.training else 1)  # type: ignore[union-attr]
        return torch.cat([part.mean(0, keepdim=True).expand(len(part), -1) for part in parts])[:, :6]


@pytest.mark.parametrize("shuffled", [True, False])
def test_batch_statistics_do_not_leak(shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shuffled:
        monkeypatch.setattr(
            "metrixkit.methods.momentum_tower.shuffle_over_processes", lambda rows, generator: (rows, lambda x: x)
        )
    torch.manual_seed(0)
    model = OnlyStatistics(norm=True)
    method = MoCo(model, dim=6, queue_size=512, groups=16)
    tower = method.tower
    tower.projector, tower.key_projector = nn.Identity(), nn.Identity()
    tower.follow = lambda: None  # type: ignore[method-assign]
    draw = torch.Generator().manual_seed(0)
    accuracy = 0.0
    for _ in range(9):  # the queue is full of earlier batches before the last one
        view = torch.rand(64, 3, 8, 8, generator=draw) - 0.5
        output = method(Batch(ids=["x"] * 64, views=[view, view.clone()]))
        accuracy = output.logs()["contrast_accuracy"]
    # Both views are the same picture, so whoever keeps a query's key beside it is found out at once.
    assert accuracy < 0.1 if shuffled else accuracy == 1.0


def clim(count: int = 40, **settings: Any) -> CLIM:
    defaults = {"clusters": 3, "neighbours": 6, "positives": 4, "warmup_epochs": 1, "refresh": 2}
    return CLIM(toy(), dim=4, queue_size=16, groups=1, count=count, **{**defaults, **settings})


def test_clim_selects_on_time_and_keeps_its_pools() -> None:
    method = clim()
    features = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    asked = []

    def embed() -> Tensor:
        asked.append(True)
        return features

    told = [method.before_epoch(epoch, embed).logs for epoch in range(5)]
    assert [bool(logs) for logs in told] == [False, True, False, True, False]
    assert len(asked) == 2
    assert method.partners.shape == (40, 4)
    assert bool((method.partners >= 0).all())
    assert 0 <= told[1]["selection/fallback_share"] <= 1
    other = clim()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.partners, method.partners)


def test_clim_misses_faiss_before_it_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise InputError("faiss is not installed")

    monkeypatch.setattr("metrixkit.methods.clim.load_faiss", absent)
    with pytest.raises(InputError, match="faiss is not installed"):
        clim()
    clim(rule="random")  # asks it for nothing


def test_clim_before_and_after_its_selection() -> None:
    method = clim(clean_weight=0.5)
    plain = method(batch())
    assert set(plain.losses) == {"total", "clean"}
    reference = copy.deepcopy(method)
    data = batch(partners=True)
    output = method(data)
    assert set(output.losses) == {"total", "clean", "mixed"}
    torch.testing.assert_close(output.losses["total"], output.losses["mixed"] + 0.5 * output.losses["clean"])
    # Anchors' keys alone join the queue.
    tower = reference.tower
    own = F.normalize(tower.key_tower()(data.views[1].float() / 255), dim=1)
    torch.testing.assert_close(method.tower.queue.rows[8:16], own)


def test_clim_without_cutting_halves_two_contrasts() -> None:
    method = clim(cut=False, temperature=0.3)
    reference = copy.deepcopy(method)
    data = batch(partners=True)
    value = method(data).losses["total"]
    tower = reference.tower
    query = F.normalize(tower.query(data.views[0].float() / 255), dim=1)
    terms = []
    for view in (data.views[1], data.partner_views[1]):
        key = F.normalize(tower.key_tower()(view.float() / 255), dim=1)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ tower.queue.rows.T], 1) / 0.3
        terms.append(F.cross_entropy(logits, torch.zeros(8, dtype=torch.long)))
    torch.testing.assert_close(value, (terms[0] + terms[1]) / 2)


class AnySize(Toy):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.interpolate(images, (8, 8)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_clim_at_two_resolutions(reduction: Any) -> None:
    torch.manual_seed(0)
    method = CLIM(
        AnySize(), clusters=3, dim=4, queue_size=16, groups=1, count=40, resolutions=[8, 4], reduction=reduction
    )
    draw = torch.Generator().manual_seed(0)

    def rendered() -> list[Tensor]:
        shapes = [(8, 3, side, side) for _ in range(2) for side in (8, 4)]
        return [torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw) for shape in shapes]

    data = Batch(ids=["x"] * 8, views=rendered(), partner_views=rendered())
    assert method.needs().resolutions == (8, 4)
    one = copy.deepcopy(method)
    one.reduction = "mean"
    value, mean = (float(m(data).losses["mixed"].detach()) for m in (method, one))
    assert value == pytest.approx(mean * (4 if reduction == "sum" else 1), rel=1e-6)


def test_swav_waits_with_its_prototypes_and_queues() -> None:
    method = HOSTS["swav"](queue_size=8, queue_epoch=1, small_views=1)
    groups = method.parameter_groups()
    optimizer = torch.optim.SGD([{"params": group.params} for group in groups], lr=0.6)
    rates = Rates(optimizer, groups, Cosine(warmup_epochs=2), 10)
    # Nothing in the first epoch, and then the rate of everything else.
    for epoch, share in ((0.9, 0.0), (1.0, 0.5), (2.0, 1.0), (6.0, 0.5), (10.0, 0.0)):
        told = rates.set(epoch)
        assert told["prototypes"] == pytest.approx(0.6 * share)
        assert told["projector"] == pytest.approx(0.27 if epoch == 0.9 else 0.6 * share)
    step(method, batch(number=3))
    assert int(method.queues[0].pointer) == 0
    assert method._past() is None
    method.before_epoch(1, lambda: torch.zeros(0))
    assert method._past() is not None
    step(method, batch(number=3))


def test_the_mixed_loss_of_swav_shares_out_codes_beside_the_queue() -> None:
    method = HOSTS["swav"](UnMix(cutmix_probability=0.0), queue_size=32, queue_epoch=0)
    data = batch()
    _, z2 = method._embed(torch.cat([view.float() / 255 for view in data.views])).chunk(2)
    rows = torch.arange(8)
    whole = Mixture(data.views[0].float() / 255, rows, rows.flip(0), torch.ones(8), "split")
    past = method._past()
    assert past is not None
    mixed = method._mixed(whole, z2, past)
    # With lambda 1 a mixture is view 1: the half of the clean loss in which view 1 predicts the codes of view 2.
    scores = torch.cat([method._scores(z2), method._scores(past[1])]).detach()
    codes = sinkhorn(scores, method.epsilon, method.iterations)[:8]
    again = method._scores(method._embed(whole.images)) / method.temperature
    torch.testing.assert_close(mixed, -(codes * again.log_softmax(1)).sum(1).mean())
    assert not torch.allclose(mixed, method._mixed(whole, z2, None))


def test_each_process_brings_its_part_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are alike everywhere, and codes are shared out over the rows of all processes."""
    method = HOSTS["swav"](queue_size=9, queue_epoch=0)
    whole = method._past()
    parts = []
    for number in range(2):
        monkeypatch.setattr("metrixkit.methods.swav.rank", lambda number=number: number)
        monkeypatch.setattr("metrixkit.methods.swav.world_size", lambda: 2)
        parts.append(method._past())
    for side in range(2):
        both = torch.cat([part[side] for part in parts])
        assert sorted(both.tolist()) == sorted(whole[side].tolist())


def test_byol_follows_after_the_step_by_a_rising_share() -> None:
    method = HOSTS["byol"](momentum=0.5)
    target = method.target_model.layer.weight.clone()
    value = method(batch()).losses["total"]
    assert torch.equal(method.target_model.layer.weight, target)
    value.backward()
    with torch.no_grad():
        method.model.layer.weight -= 0.5
    method.after_step(0)
    torch.testing.assert_close(method.target_model.layer.weight, 0.5 * target + 0.5 * method.model.layer.weight)
    target = method.target_model.layer.weight.clone()
    method.after_step(10)  # the last of ten: the momentum has risen to 1
    assert torch.equal(method.target_model.layer.weight, target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HOSTS["moco"](MixCo())(batch(7)), "even"),
        (lambda: HOSTS["moco"]()(batch(17)), "queue_size"),
        (lambda: MoCo(toy(norm=True), dim=4, queue_size=16, groups=3)(batch(8)), "groups"),
        (lambda: MoCo(toy(norm=True), MixCo(), dim=4, queue_size=16, groups=8)(batch(8)), "groups"),
        (lambda: MoCo(toy(norm=True), dim=4, queue_size=16, groups=8)(batch(8)), "one value a channel"),
        (lambda: HOSTS["byol"](MixCo()), "byol"),
        (lambda: HOSTS["swav"](IMix()), "unmix"),
        (lambda: HOSTS["simclr"](MoCHi()), "simclr"),
        (lambda: clim(count=2), "fewer"),
        (lambda: clim(refresh=0), "refresh"),
        (lambda: clim(positives=5, neighbours=4), "method.positives=5 is more than method.neighbours=4"),
        (lambda: HOSTS["moco"](MoCHi(hardest=17)), "method.queue_size=16"),
        (lambda: clim(alpha=0.0), "alpha"),
        (lambda: HOSTS["moco"](momentum=1.5), "momentum"),
        (lambda: MixCo(temperature=0.0), "temperature"),
        (lambda: MixCo(weight=-1.0), "weight"),
        (lambda: UnMix(cutmix_probability=2.0), "cutmix_probability"),
        (lambda: InstanceMixup(image="mixupp"), "mixup"),
        (lambda: InstanceMixup(image="inter-intra"), "mixer=inter-intra"),
        (lambda: InterIntra(intra_alpha=0.0), "alpha"),
        (lambda: InstanceMixup(image="manifoldmix", partner_view="key"), "partner_view=query"),
        (lambda: InstanceMixup(stages=[1]), "manifoldmix"),
        (lambda: HOSTS["moco"](InterIntra(clusters=3)), "mixer.clusters=3 of at least mixer.least=20"),
        (lambda: MoCo(toy(), InterIntra(), dim=4, queue_size=16, groups=1), "count"),
        (lambda: HOSTS["simclr"](InterIntra()), "simclr"),
        (lambda: MoCHi(hardest=1), "hardest"),
        (lambda: HOSTS["swav"](small_views=-1), "small_views"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_model_that_projects_by_itself_is_refused() -> None:
    from metrixkit.models import ImageEncoder

    with pytest.raises(InputError, match="model.normalize=false"):
        MoCo(ImageEncoder("small", image_size=32, dim=8))
