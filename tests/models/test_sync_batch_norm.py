"""Batch norms that take statistics over all processes: the same objects, weights and evaluation, of another class."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.jobs.parts import loop_parts
from metrixkit.models import ImageEncoder, split_batch_norms, synchronise_batch_norms
from metrixkit.models.frozen_batch_norm import FrozenBatchNorm2d
from metrixkit.seam import Group


def norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_evaluation_weights_and_objects_stay() -> None:
    encoder = ImageEncoder("small", dim=None, image_size=32)
    encoder(torch.rand(8, 3, 32, 32))  # statistics that are not the first ones
    plain, before = copy.deepcopy(encoder).eval(), norms(encoder)
    assert synchronise_batch_norms(encoder) == len(before) == 13
    assert norms(encoder) == before
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in before)
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(encoder.eval()(images), plain(images))
    assert synchronise_batch_norms(encoder) == 13  # once more changes nothing
    copied = copy.deepcopy(encoder)
    assert torch.equal(copied(images), plain(images))


def test_in_training_it_is_torchs_synchronised_norm_that_runs(monkeypatch) -> None:
    # On a processor it shows by asking for an accelerator, once there are processes.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    encoder = ImageEncoder("small", dim=None, image_size=32)
    synchronise_batch_norms(encoder)
    with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
        encoder(torch.rand(4, 3, 32, 32))


def test_norms_with_an_activation_keep_it() -> None:
    model = timm.create_model("efficientnet_b0", num_classes=0).eval()
    images = torch.rand(2, 3, 64, 64)
    before = model(images)
    assert synchronise_batch_norms(model) > 10
    assert torch.equal(model(images), before)


def test_frozen_norms_stay_frozen_and_folded() -> None:
    encoder = ImageEncoder("small", dim=None, image_size=32, freeze_batch_norm=True)
    images = torch.rand(2, 3, 32, 32)
    before = encoder(images)
    assert synchronise_batch_norms(encoder) == 0
    assert all(isinstance(norm, FrozenBatchNorm2d) for norm in norms(encoder))
    assert torch.equal(encoder(images), before)


def test_split_norms_are_refused_and_nothing_is_changed() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), split_batch_norms(nn.Sequential(nn.BatchNorm2d(3)), 2))
    with pytest.raises(InputError, match=r"1\.0 is a SplitBatchNorm2d.*method.groups=1"):
        synchronise_batch_norms(network)
    assert type(network[0]) is nn.BatchNorm2d


class Recipe(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def parameter_groups(self) -> list[Group]:
        return [Group("all", list(self.parameters()))]


@pytest.mark.parametrize(
    ("wanted", "processes", "kind"),
    [(True, 2, nn.SyncBatchNorm), (True, 1, nn.BatchNorm2d), (False, 2, nn.BatchNorm2d)],
)
def test_the_setting_reaches_the_recipe(wanted: bool, processes: int, kind: type) -> None:
    config = configs.load("configs/glyphs_metrix.yaml", [f"training.sync_batch_norm={str(wanted).lower()}"])
    fabric = SimpleNamespace(world_size=processes, setup=lambda method, optimizer: (method, optimizer))
    recipe = Recipe()
    loop_parts(config, fabric, SimpleNamespace(checkpoints=None), recipe, [], [1], dict, None)  # type: ignore[arg-type]
    assert type(recipe.network[1]) is kind
