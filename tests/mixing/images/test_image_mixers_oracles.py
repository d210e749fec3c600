"""The image mixers beside second implementations: float64, pixel by pixel."""

import cmath
import itertools
import math

import numpy as np
import pytest
import torch

from metrixkit.mixing import draw_boxes, fine_grained_saliency
from metrixkit.mixing.images import cutmix, fmix, puzzlemix, resizemix, saliencymix
from metrixkit.mixing.images.boxes import Boxes
from metrixkit.mixing.images.fmix import low_frequency, top_share
from metrixkit.mixing.images.graph_cut import energy, swap_labels
from metrixkit.mixing.images.puzzlemix import DISTANCE
from metrixkit.mixing.images.saliency import BRIGHTNESS, RADII
from metrixkit.mixing.images.transport import patch_sources


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def box_of(lam, row, column, height, width):
    """The rule of CutMix for one image: top, left, bottom, right."""
    high, wide = int(height * math.sqrt(1 - lam)), int(width * math.sqrt(1 - lam))
    return (
        max(row - high // 2, 0),
        max(column - wide // 2, 0),
        min(row + high // 2, height),
        min(column + wide // 2, width),
    )


@pytest.mark.parametrize(("height", "width"), [(9, 14), (16, 16), (1, 5)])
def test_cutmix_pixel_by_pixel(height, width):
    count = 12
    images, partner = rand(count, 2, height, width), torch.randperm(count, generator=torch.Generator().manual_seed(1))
    lam = rand(count, seed=2)
    lam[:2] = torch.tensor([0.0, 1.0])
    mixed = cutmix(images, partner, lam, torch.Generator().manual_seed(3))
    boxes = draw_boxes(lam, count, torch.Generator().manual_seed(3))
    for i in range(count):
        centre = int(boxes.centre[i, 0] * height), int(boxes.centre[i, 1] * width)
        top, left, bottom, right = box_of(float(lam[i]), *centre, height, width)
        pasted = 0
        for r, c in itertools.product(range(height), range(width)):
            within = top <= r < bottom and left <= c < right
            pasted += within
            source = partner[i] if within else i
            assert mixed.images[i, :, r, c].tolist() == images[source, :, r, c].tolist()
            assert mixed.mask[i, 0, r, c] == (not within)
        assert mixed.lam[i].item() == pytest.approx(1 - pasted / (height * width), abs=1e-12)


@pytest.mark.parametrize("scale", ["share", "uniform", "drawn"])
def test_resizemix_pixel_by_pixel(scale):
    count, height, width = 10, 13, 18
    images, partner, lam = rand(count, 2, height, width), torch.arange(count).roll(1), rand(count, seed=4)
    mixed = resizemix(images, partner, lam, torch.Generator().manual_seed(5), scale=scale)
    for i in range(count):
        rows, columns = (mixed.mask[i, 0] == 0).nonzero().unbind(1)
        if not len(rows):
            assert torch.equal(mixed.images[i], images[i])
            continue
        top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
        assert len(rows) == (bottom - top) * (right - left)
        assert mixed.lam[i].item() == pytest.approx(1 - len(rows) / (height * width), abs=1e-12)
        small = torch.nn.functional.interpolate(images[partner[i]][None], (bottom - top, right - left), mode="nearest")
        expected = images[i].clone()
        expected[:, top:bottom, left:right] = small[0]
        assert torch.equal(mixed.images[i], expected)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (4, 1), (1, 6)])
def test_fmix_noise_by_the_sum_over_frequencies(height, width):
    noise = torch.randn((1, height, width // 2 + 1, 2), generator=torch.Generator().manual_seed(0)).double()
    grey = torch.zeros(height, width, dtype=torch.float64)
    for r, c in itertools.product(range(height), range(width)):
        for k, l in itertools.product(range(height), range(width // 2 + 1)):
            down, across = min(k, height - k) / height, l / width
            z = complex(*noise[0, k, l].tolist()) / max(math.hypot(down, across), 1 / max(height, width)) ** 3
            # A real image: every column but the first, and the middle one of an even width, counts with its mirror.
            twice = 1 if l == 0 or 2 * l == width else 2
            grey[r, c] += twice * (z * cmath.exp(2j * math.pi * (k * r / height + l * c / width))).real
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    assert torch.allclose(low_frequency(noise, height, width)[0], grey, atol=1e-9)


@pytest.mark.parametrize("max_soft", [0.0, 0.1, 0.6])
def test_fmix_masks_pixel_by_pixel(max_soft):
    grey = rand(40, 5, 6)
    shares = rand(40, seed=1)
    shares[:2] = torch.tensor([0.0, 1.0])
    up = rand(40, seed=2) > 0.5
    masks = top_share(grey, shares, up, max_soft)
    for i in range(40):
        order = sorted(range(30), key=lambda p: -grey[i].flatten()[p])
        lam = float(shares[i])
        ones = math.ceil(lam * 30) if up[i] else math.floor(lam * 30)
        soft = int(30 * min(max_soft, lam, 1 - lam))
        expected = [0.0] * 30
        for place, p in enumerate(order):
            expected[p] = 1.0 if place < ones else 0.0
        ramp = np.linspace(1, 0, 2 * soft)
        for value, p in zip(ramp, order[ones - soft : ones + soft], strict=True):
            expected[p] = float(value)
        assert masks[i].flatten().tolist() == pytest.approx(expected)


def test_fmix_shows_the_first_image_where_it_is_bright_and_its_coin_is_fair():
    images = torch.zeros(600, 1, 7, 7)
    mixed = fmix(images + 1, images, 0.5, torch.Generator().manual_seed(0))
    counts = mixed.images.sum((1, 2, 3))
    assert set(counts.tolist()) == {24.0, 25.0}
    assert counts.mean().item() == pytest.approx(24.5, abs=0.07)
    assert mixed.lam.tolist() == [0.5] * 600
    # Low frequency: neighbours mostly agree.
    large = fmix(torch.ones(8, 1, 32, 32), torch.zeros(8, 1, 32, 32), 0.5, torch.Generator().manual_seed(0)).mask
    assert (large[..., 1:] == large[..., :-1]).float().mean() > 0.9


def saliency_by_loops(image):
    """Fine-grained saliency of one (3, H, W) image."""
    grey = sum(w * image[k] for k, w in enumerate(BRIGHTNESS)).numpy()
    height, width = grey.shape
    for _ in range(2):
        padded = np.pad(grey, 1, mode="reflect")
        kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
        grey = np.array([[(padded[r : r + 3, c : c + 3] * kernel).sum() for c in range(width)] for r in range(height)])
    bright, dark = np.zeros_like(grey), np.zeros_like(grey)
    for radius, r, c in itertools.product(RADII, range(height), range(width)):
        window = grey[max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1]
        difference = grey[r, c] - (window.sum() - grey[r, c]) / (window.size - 1)
        bright[r, c] += max(difference, 0)
        dark[r, c] += max(-difference, 0)
    return bright / bright.max() + dark / dark.max()


def test_saliency_and_saliencymix():
    images, partner, lam = rand(5, 3, 30, 17), torch.tensor([1, 2, 3, 4, 0]), torch.tensor([0.2, 0.5, 0.9, 0.0, 0.7])
    found = fine_grained_saliency(images)
    mixed = saliencymix(images, partner, lam)
    for i in range(5):
        expected = saliency_by_loops(images[i])
        assert found[i].numpy() == pytest.approx(expected, abs=1e-9)
        at = saliency_by_loops(images[partner[i]])
        row, column = (int(p) for p in np.unravel_index(at.argmax(), at.shape))
        top, left, bottom, right = box_of(float(lam[i].double()), row, column, 30, 17)
        mask = torch.ones(30, 17, dtype=torch.float64)
        mask[top:bottom, left:right] = 0
        assert torch.equal(mixed.mask[i, 0], mask)
    # Whatever the range of the pixels is (the fault of the released comparison).
    assert torch.allclose(fine_grained_saliency((images - 0.45) / 0.225), found, atol=1e-9)
    assert torch.equal(saliencymix((images - 0.45) / 0.225, partner, lam).mask, mixed.mask)
    own = torch.zeros(5, 30, 17)
    own[:, 4, 9] = 1
    peak = saliencymix(images, partner, 0.75, saliency=own)
    assert (peak.mask[:, 0, 4, 9] == 0).all()
    assert torch.equal(peak.mask[0], peak.mask[4])


def energy_by_loops(labels, costs, below, right, distance):
    total = 0
    for r, c in itertools.product(*map(range, labels.shape)):
        total += costs[r, c, labels[r, c]]
        if r + 1 < labels.shape[0]:
            total += below[r, c] * distance[labels[r, c], labels[r + 1, c]]
        if c + 1 < labels.shape[1]:
            total += right[r, c] * distance[labels[r, c], labels[r, c + 1]]
    return total


@pytest.mark.slow
def test_swap_ends_where_no_swap_helps_and_near_the_least_energy():
    rng = np.random.default_rng(0)
    count, shape = 12, (2, 4)
    costs = rng.integers(0, 60, (count, *shape, 3))
    below, right = rng.integers(0, 20, (count, 1, 4)), rng.integers(0, 20, (count, 2, 3))
    found = swap_labels(costs, below, right, DISTANCE)
    energies = energy(found, costs, below, right, DISTANCE)
    least = 0
    for i in range(count):
        parts = costs[i], below[i], right[i], DISTANCE
        assert energies[i] == energy_by_loops(found[i], *parts)
        everything = [np.reshape(p, shape) for p in itertools.product(range(3), repeat=8)]
        least += energies[i] == min(energy_by_loops(p, *parts) for p in everything)
        for pair in ((0, 1), (0, 2), (1, 2)):
            movable = np.argwhere(np.isin(found[i], pair))
            for values in itertools.product(pair, repeat=len(movable)):
                moved = found[i].copy()
                moved[tuple(movable.T)] = values
                assert energy_by_loops(moved, *parts) >= energies[i]
    assert least >= count // 2


def sources_by_loops(mask, saliency, cost):
    """Masked transport of one image: who claims what, round by round."""
    rows, columns = mask.shape
    places = list(itertools.product(range(rows), range(columns)))
    longest = max(rows - 1, columns - 1, 1)
    price = {
        (a, b): cost * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / longest**2 - saliency[a] * (mask[b] > 0)
        for a in places
        for b in places
    }
    for _ in range(max(rows, columns)):
        claims = {a: min(places, key=lambda b: price[a, b]) for a in places}
        winner = {}
        for a, b in claims.items():
            if b not in winner or price[a, b] < price[winner[b], b]:
                winner[b] = a
        for a, b in claims.items():
            if winner[b] != a:
                price[a, b] += 1
    return [places.index(winner.get(b, b)) for b in places]


@pytest.mark.parametrize("cost", [0.8, 0.05, 0.001])
def test_transport_claim_by_claim(cost):
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 3, (20, 4, 5), generator=generator) / 2
    saliency = rand(20, 4, 5) ** 6
    saliency /= saliency.sum((1, 2), keepdim=True)
    found = patch_sources(mask, saliency, cost)
    moved = 0
    for i in range(20):
        assert found[i].tolist() == sources_by_loops(mask[i].numpy(), saliency[i].float().numpy(), np.float32(cost))
        moved += sum(found[i] != torch.arange(20))
    assert moved > 0


def test_puzzlemix_keeps_what_is_salient():
    count, size = 8, 32
    images = rand(count, 3, size, size)
    saliency = torch.full((count, size, size), 1e-3)
    saliency[::2, :, : size // 2] = 1  # even rows are salient to the left, odd ones to the right
    saliency[1::2, :, size // 2 :] = 1
    partner = torch.arange(count).roll(1)
    mixed = puzzlemix(images, partner, 0.5, torch.Generator(), saliency=saliency, blocks=4, transport=False)
    left, right = mixed.mask[..., : size // 2], mixed.mask[..., size // 2 :]
    assert min(left[::2].mean(), right[1::2].mean()) > 0.9
    assert max(right[::2].mean(), left[1::2].mean()) < 0.1
    # Lambda moves the mask.
    shares = [
        puzzlemix(images, partner, lam, torch.Generator(), saliency=saliency, blocks=4).lam.mean().item()
        for lam in (0.02, 0.3, 0.5, 0.7, 0.98)
    ]
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.2
    # An image with no saliency anywhere is mixed, too.
    flat = puzzlemix(images, partner, 0.5, torch.Generator(), saliency=torch.zeros(count, size, size), blocks=4)
    assert flat.images.isfinite().all()


@pytest.mark.parametrize("patch", [None, 4])
def test_puzzlemix_on_images_that_are_not_square(patch):
    images = rand(3, 3, 32, 64)
    partner = torch.tensor([1, 2, 0])
    saliency = rand(3, 4, 4, seed=1).repeat_interleave(8, 1).repeat_interleave(16, 2) ** 4
    mixed = puzzlemix(images, partner, 0.6, torch.Generator(), saliency=saliency, blocks=4, patch=patch)
    cells = mixed.mask.unfold(2, 8, 8).unfold(3, 16, 16).flatten(4)
    assert torch.equal(cells.amin(4), cells.amax(4))
    assert mixed.lam.tolist() == pytest.approx(mixed.mask.mean((1, 2, 3)).tolist())
    # Every patch shown whole is a patch of the first image.
    size = (8, 16) if patch is None else (4, 4)
    tiles = lambda x: x.unfold(2, size[0], size[0]).unfold(3, size[1], size[1]).permute(0, 2, 3, 1, 4, 5).flatten(3)
    whole = tiles(mixed.mask).amin(3) == 1
    assert whole.any()
    for i in range(3):
        own = tiles(images)[i].flatten(0, 1)
        for tile in tiles(mixed.images)[i][whole[i]]:
            assert (own == tile).all(1).any()


def test_boxes_never_leave_the_image():
    boxes = Boxes(rand(500), rand(500, 2, seed=1))
    for size in ((7, 31), (224, 224), (1, 1)):
        edges = boxes.edges(*size)
        assert (edges >= 0).all()
        assert (edges[:, :2] <= edges[:, 2:]).all()
        assert (edges[:, 2:] <= torch.tensor(size)).all()


def test_saliency_is_wide_under_autocast() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = fine_grained_saliency(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fine_grained_saliency(images)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
