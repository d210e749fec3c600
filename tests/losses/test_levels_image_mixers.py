"""Metrix at input level with masks instead of an interpolation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses import Contrastive, Metrix, MultiSimilarity
from metrixkit.mixing import unique_mixtures
from metrixkit.mixing.images import IMAGE_MIXERS


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 6 * 6, 5, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def batch() -> tuple[Tower, Tensor, Tensor]:
    torch.manual_seed(0)
    return Tower(), torch.rand(8, 3, 6, 6, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])


@pytest.mark.parametrize("name", ["cutmix", "fmix", "resizemix", "saliencymix"])
@pytest.mark.parametrize("kind", ["positive-negative", "positive-anchor", "anchor-negative"])
@pytest.mark.parametrize("ratio_per", ["step", "pair"])
def test_labels_are_weighed_by_what_the_mask_leaves(name: str, kind: str, ratio_per: str) -> None:
    tower, images, labels = batch()
    loss = Contrastive(margin=0.5)
    criterion = Metrix(
        loss, level="input", pairs=kind, image_mixer=name, hardest=2, reduction="mean", ratio_per=ratio_per, seed=3
    )
    drawn = copy.deepcopy(criterion)
    embeddings = tower(images)
    value = criterion.mixed_loss(embeddings, labels, features=images, head=tower)
    # The same by a loop over anchors and their mixtures.
    relations = loss.relations(embeddings, labels)
    setting = drawn._set_up("input", kind, relations, embeddings, labels, images, tower)
    ratio = drawn._draw(setting, drawn.generator)
    plan, mixtures = setting.plan, unique_mixtures(setting.plan)
    lam = ratio[mixtures.first, mixtures.second] if isinstance(ratio, Tensor) else ratio
    asked = 1 - lam if plan.flipped else lam
    found = IMAGE_MIXERS[name](images[mixtures.first], images[mixtures.second], asked, setting.image_mixer.args[1])
    unit = nn.functional.normalize(tower(found.images), dim=1)
    anchors = nn.functional.normalize(embeddings, dim=1)
    terms: dict[int, list[Tensor]] = {}
    for anchor, mixture in zip(mixtures.anchor.tolist(), mixtures.mixture.tolist(), strict=True):
        s = anchors[anchor] @ unit[mixture]
        share = 1 - found.lam[mixture] if plan.flipped else found.lam[mixture]
        positive = share if plan.target is None else plan.target
        terms.setdefault(anchor, []).append(positive * (-s) + (1 - positive) * (s - 0.5).clamp(min=0))
    expected = torch.stack([torch.stack(of).mean() for of in terms.values()]).mean()
    torch.testing.assert_close(value, expected)
    gradient = torch.autograd.grad(value, tower.layer.weight, retain_graph=True)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, tower.layer.weight)[0])


def test_resumed_draws_go_on_and_a_copy_has_its_own() -> None:
    tower, images, labels = batch()
    criterion = Metrix(MultiSimilarity(), level="input", image_mixer="cutmix", seed=1)
    first = criterion(tower(images), labels, features=images, head=tower)
    other = Metrix(MultiSimilarity(), level="input", image_mixer="cutmix", seed=9)
    other.load_state_dict(criterion.state_dict())
    twin = copy.deepcopy(criterion)
    values = [c(tower(images), labels, features=images, head=tower) for c in (criterion, other, twin)]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    assert not torch.equal(first, values[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mixer": "cutmix", "level": "embed"}, "level=input"),
        ({"image_mixer": "puzzlemix", "level": "input"}, "gradients"),
        ({"image_mixer": "inter-intra", "level": "input"}, "alike"),
        ({"image_mixer": "cutmixx", "level": "input"}, "cutmix"),
    ],
)
def test_mixers_that_do_not_fit(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Metrix(MultiSimilarity(), **settings)
