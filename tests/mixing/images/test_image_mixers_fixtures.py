"""The reference numbers of the image mixers."""

import json
from pathlib import Path

import pytest
import torch

from metrixkit.mixing import cutmix_boxes, mixup, puzzlemix
from metrixkit.mixing.images.boxes import Boxes, share_outside
from metrixkit.mixing.images.fmix import low_frequency, top_share
from metrixkit.mixing.images.resizemix import _resized

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
SAMIX = json.loads((FIXTURES / "samix.json").read_text())
SSL = json.loads((FIXTURES / "ssl_mixers.json").read_text())


def entry(name, tree=SSL):
    """Find a case by name wherever it stands."""
    if isinstance(tree, dict):
        if name in tree:
            return tree[name]
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else []:
        if (found := entry(name, branch)) is not None:
            return found
    return None


def box(side, centre, size):
    """One box whose centre is a given pixel."""
    relative = [(c + 0.5) / s for c, s in zip(centre, size, strict=True)]
    return Boxes(torch.tensor([side], dtype=torch.float64), torch.tensor([relative], dtype=torch.float64))


def test_mixup():
    case = SAMIX["mixup"]
    x = torch.tensor(case["inputs"]["img"], dtype=torch.float64)[:, None]
    perm = torch.tensor(case["inputs"]["perm"])
    mixed = mixup(x, perm, case["inputs"]["lam"])
    assert mixed.images[:, 0].numpy() == pytest.approx(torch.tensor(case["outputs"]["img"]).numpy(), abs=case["tol"])
    assert mixed.lam.tolist() == [case["outputs"]["lam"]] * len(x)


@pytest.mark.parametrize("case", SAMIX["cutmix"]["outputs"])
def test_cutmix_of_the_samix_fixtures(case):
    height, width = case["size_hw"]
    x = torch.zeros(2, 1, height, width, dtype=torch.float64)
    x[1] = 1
    one = box((1 - case["lam"]) ** 0.5, (case["c_row"], case["c_col"]), case["size_hw"])
    both = Boxes(one.side.expand(2), one.centre.expand(2, 2))
    top, left, bottom, right = both.edges(height, width)[0].tolist()
    if case["first_image_pasted_pixels"]:
        assert ([top, bottom], [left, right]) == (case["box_rows"], case["box_cols"])
    mixed = cutmix_boxes(x, torch.tensor([1, 0]), both)
    assert mixed.images[0].sum().item() == case["first_image_pasted_pixels"]
    assert mixed.lam[0].item() == pytest.approx(case["lam_out"], abs=1e-6)


def test_cutmix_boxes_of_the_ssl_fixtures():
    case = entry("cutmix_boxes")
    for given, expected in zip(case["inputs"]["cases"], case["expected"]["cases"], strict=True):
        size = given["size0"], given["size1"]
        edges = box((1 - given["lam0"]) ** 0.5, (given["c0"], given["c1"]), size).edges(*size)
        assert edges[0].tolist() == expected["box"]
        assert share_outside(edges, *size).item() == pytest.approx(expected["lam"], abs=case["tol"])


def test_cutmix_apply():
    case = entry("cutmix_apply")
    x = torch.arange(36, dtype=torch.float64).view(1, 1, 6, 6)
    (top, bottom), (left, right) = case["inputs"]["box_rows"], case["inputs"]["box_cols"]
    mixed = cutmix_boxes(x, x + 100, torch.tensor([[top, left, bottom, right]]))
    assert mixed.images[0, 0].tolist() == case["expected"]["x_mix"]
    assert mixed.lam.item() == pytest.approx(case["expected"]["lam"], abs=case["tol"])


@pytest.mark.parametrize("case", SAMIX["resizemix"]["outputs"])
def test_resizemix(case):
    height, width = case["size_hw"]
    # The first number drawn is used as the column there.
    edges = box(case["tau"], (case["c2"], case["c1"]), case["size_hw"]).edges(height, width)
    top, left, bottom, right = edges[0].tolist()
    assert ([top, bottom], [left, right]) == (case["pasted_rows"], case["pasted_cols"])
    assert share_outside(edges, height, width).item() == pytest.approx(case["lam_out"], abs=1e-6)
    if case["pasted"] is not None:
        other = torch.arange(1, height * width + 1).view(1, 1, height, width).float()
        assert _resized(other, edges)[0, 0, top:bottom, left:right].tolist() == case["pasted"]


@pytest.mark.parametrize("case", SAMIX["fmix"]["outputs"])
def test_fmix(case):
    noise = torch.tensor(case["noise_rows01"], dtype=torch.float64)[None]
    grey = low_frequency(noise, *case["size"], SAMIX["fmix"]["inputs"]["decay_power"], official=True)
    assert grey[0].numpy() == pytest.approx(torch.tensor(case["low_freq"]).numpy(), abs=1e-5)
    share = torch.tensor([case["lam"]], dtype=torch.float64)
    mask = top_share(grey, share, torch.tensor([case["round_up"]]), case["max_soft"])
    assert mask[0].numpy() == pytest.approx(torch.tensor(case["mask"]).numpy(), abs=1e-6)


# The images are normalised ones of CIFAR; differences of colour count on [0, 1].
MEAN = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.2023, 0.1994, 0.2010], dtype=torch.float64).view(3, 1, 1)


@pytest.mark.parametrize("alpha", [0.3, 0.45, 0.7])
def test_puzzlemix(alpha):
    case = SAMIX["puzzlemix"]
    x = torch.tensor(case["inputs"]["img"], dtype=torch.float64)
    saliency = torch.tensor(case["inputs"]["grad"], dtype=torch.float64)
    perm, expected = torch.tensor(case["inputs"]["perm"]), case["outputs"][f"alpha={alpha}"]
    moved = puzzlemix(x * STD + MEAN, perm, alpha, torch.Generator(), saliency=saliency, blocks=4)
    assert torch.nn.functional.avg_pool2d(moved.mask, 4)[:, 0].tolist() == expected["mask_blocks"]
    assert moved.lam.tolist() == expected["lam"]
    back = torch.nn.functional.avg_pool2d((moved.images - MEAN) / STD, 4)[:, 0]
    want = torch.tensor(expected["transport_block_means_ch0"]).numpy()
    assert back.numpy() == pytest.approx(want, abs=case["tol"])
    still = puzzlemix(x * STD + MEAN, perm, alpha, torch.Generator(), saliency=saliency, blocks=4, transport=False)
    assert torch.equal(still.mask, moved.mask)
    assert torch.allclose(still.images, torch.lerp(x[perm], x, moved.mask) * STD + MEAN)
