"""PuzzleMix: masks that keep what is salient in both images, and patches moved into them (Kim et al., ICML 2020).

B images; the masks live on a grid of `blocks` x `blocks` places.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.mixing.images.graph_cut import swap_labels
from metrixkit.mixing.images.mixed import MixedImages, branch, label_share, prepare, with_mask
from metrixkit.mixing.images.transport import move_patches

# Shares that a place of the mask may take, by the labels of the cut: the first image, half of each, the partner.
LEVELS = (1.0, 0.5, 0.0)
# Squared difference of labels, in quarters of the squared distance of the outer two.
DISTANCE = np.array([[0, 1, 4], [1, 0, 1], [4, 1, 0]])


def gradient_saliency(gradient: Tensor) -> Tensor:
    """Return ``sqrt(mean over channels of the squared gradient)``: the saliency that PuzzleMix wants.

    Args:
        gradient: (B, C, H, W) gradient of a loss by the images; the authors take the clean cross-entropy.

    Returns:
        (B, H, W) >= 0.
    """
    return gradient.detach().square().mean(1).sqrt()


def puzzlemix(
    images: Tensor,
    partner: Tensor,
    lam: float | Tensor,
    generator: torch.Generator,
    saliency: Tensor,
    partner_saliency: Tensor | None = None,
    blocks: int | None = None,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neighbourhood: int = 4,
    transport: bool = True,
    patch: int | None = None,
    transport_cost: float = 0.8,
) -> MixedImages:
    """Mix by a mask that gives each place to the image which is salient there, smooth and near lambda in its mean.

    The mask takes 1, 1/2 or 0 in every place; alpha-beta swap finds it (section 4.1). Then each image's
    salient patches move into the places that are its own (section 4.2). Lambda enters through the prior
    on the mask alone; lambda 1 and 0, where the prior forbids all else, give one of the images.

    Args:
        images: (B, C, H, W) floating, [0, 1] (weights on differences of colour count on that range); or uint8. Both
            sides must be multiples of `blocks`.
        partner: (B,) int64 rows of `images`, or (B, C, H, W) other images.
        lam: Share of the first image asked for: a number in [0, 1], or (B,) of such.
        generator: A CPU generator, advanced by one draw; it is used where `blocks` is None.
        saliency: (B, H, W) >= 0 of the images, such as :func:`gradient_saliency` returns.
        partner_saliency: (B, H, W) of the partners; needed where `partner` holds images.
        blocks: Places of the mask to a side; None draws one of 2, 4, 8, 16 for the batch (up to 8 above 64 pixels, as
            the authors do for large images).
        beta: Weight of the smoothness of labels.
        gamma: Weight of the smoothness of colours across a border of the mask, as a share of `beta`.
        eta: Weight of the prior.
        neighbourhood: Pixels to a side over which colours are averaged before they are compared; the largest divisor
            of a place's side up to this is taken.
        transport: Whether patches move.
        patch: Side in pixels of the patches that move; None is a place of the mask. It must divide a place's sides.
            Memory grows with the fourth power of the number of patches to a side.
        transport_cost: What it costs to move a patch across the image, in shares of the whole saliency (0.8 in the
            authors' settings).

    Returns:
        The mixtures; lambda is the mean of each row's mask. Mask and patches carry no gradient, the pixels do.

    Raises:
        InputError: Types, shapes or values do not fit.
    """
    images, others, shares = prepare(images, partner, lam)
    saliency = _checked_saliency(saliency, images)
    if partner_saliency is None:
        if partner.ndim != 1:
            raise InputError("partner holds images: give their saliency as partner_saliency.")
        partner_saliency = saliency[partner.to(saliency.device)]
    partner_saliency = _checked_saliency(partner_saliency, images)
    height, width = images.shape[-2:]
    blocks = _draw_blocks(height, width, generator) if blocks is None else blocks
    if blocks < 1 or height % blocks or width % blocks:
        raise InputError(f"blocks={blocks} does not divide images of {height} x {width}; choose one that does.")
    place = (height // blocks, width // blocks)
    first, second = _shares_of(saliency, place), _shares_of(partner_saliency, place)
    borders = _colour_borders(images.detach(), others.detach(), place, neighbourhood)
    grid = _cut(first, second, borders, shares, beta / blocks / 16, gamma, eta)
    if transport:
        size = place if patch is None else (patch, patch)
        if min(size) < 1 or place[0] % size[0] or place[1] % size[1]:
            raise InputError(f"patch={patch} does not divide the places of the mask, {place[0]} x {place[1]} pixels.")
        finer = grid.repeat_interleave(place[0] // size[0], 1).repeat_interleave(place[1] // size[1], 2)
        images = move_patches(images, finer, _shares_of(saliency, size), transport_cost)
        others = move_patches(others, 1 - finer, _shares_of(partner_saliency, size), transport_cost)
    mask = grid.repeat_interleave(place[0], 1).repeat_interleave(place[1], 2)[:, None].to(images.dtype)
    return MixedImages(with_mask(images, others, mask), label_share(grid.mean((1, 2)), images), mask)


def _checked_saliency(saliency: Tensor, images: Tensor) -> Tensor:
    """Return saliency on the images' device, without gradient."""
    expected = (len(images), *images.shape[-2:])
    if saliency.shape != expected or not saliency.is_floating_point():
        raise InputError(f"saliency: got {saliency.dtype} {tuple(saliency.shape)}, expected floating {expected}.")
    if not bool((saliency.isfinite() & (saliency >= 0)).all()):
        raise InputError("saliency holds negative, infinite or NaN values, expected >= 0: gradient_saliency(gradient).")
    return saliency.detach().to(images.device)


def _draw_blocks(height: int, width: int, generator: torch.Generator) -> int:
    options = [n for n in ((2, 4, 8, 16) if width <= 64 else (2, 4, 8)) if height % n == 0 and width % n == 0]
    if not options:
        raise InputError(f"no number of blocks among 2, 4, 8, 16 divides images of {height} x {width}: give blocks.")
    return options[int(torch.randint(len(options), (), generator=branch(generator)))]


def _shares_of(saliency: Tensor, place: tuple[int, int]) -> Tensor:
    """Return (B, rows, columns) float64: each place's share of the image's saliency; even where there is none."""
    pooled = F.avg_pool2d(saliency.double()[:, None], place)[:, 0]
    total = pooled.sum((1, 2), keepdim=True)
    return torch.where(total > 0, pooled / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / pooled[0].numel())


def _colour_borders(
    images: Tensor, others: Tensor, place: tuple[int, int], neighbourhood: int
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Return how much colours differ across the borders of places, below and to the right of each.

    Each is a table: entry [a][b] is for a place that shows image a (0 the partner, 1 the first) beside one that shows
    b. Below is (B, n - 1, n), right (B, n, n - 1).
    """
    cell = tuple(max(d for d in range(1, min(side, max(neighbourhood, 1)) + 1) if side % d == 0) for side in place)
    down, across = place[0] // cell[0], place[1] // cell[1]
    small = [F.avg_pool2d(x, cell).double() for x in (others, images)]

    def border(a: Tensor, b: Tensor, axis: int, cells: int, along: int) -> Tensor:
        """Mean difference, over channels and along the border, of the last cell of a place and the next one's first."""
        last = a.narrow(axis, 0, a.shape[axis] - 1) - b.narrow(axis, 1, b.shape[axis] - 1)
        step = torch.arange(cells - 1, last.shape[axis], cells, device=a.device)
        difference = last.index_select(axis, step).abs().mean(1)
        return F.avg_pool2d(difference, (1, along) if axis == 2 else (along, 1))

    below = [[border(a, b, 2, down, across) for b in small] for a in small]
    right = [[border(a, b, 3, across, down) for b in small] for a in small]
    return below, right


def _cut(
    first: Tensor,
    second: Tensor,
    borders: tuple[list[list[Tensor]], list[list[Tensor]]],
    shares: Tensor,
    smooth: float,
    gamma: float,
    eta: float,
) -> Tensor:
    """Return (B, n, n) masks, shares of the first image, on the device of `first`."""
    lose_second, lose_first = second.clone(), first.clone()
    weights = []
    for axis, table in ((1, borders[0]), (2, borders[1])):
        b = [[smooth * gamma * entry for entry in row] for row in table]
        here = (slice(None),) * axis + (slice(None, -1),)
        there = (slice(None),) * axis + (slice(1, None),)
        # The quadratic term of two neighbours, split into what each pays alone and what they pay for differing.
        lose_second[here] += (b[1][0] + b[1][1]) / 2
        lose_second[there] += (b[0][1] + b[1][1]) / 2
        lose_first[here] += (b[0][1] + b[0][0]) / 2
        lose_first[there] += (b[1][0] + b[0][0]) / 2
        weights.append((b[1][0] + b[0][1] - b[1][1] - b[0][0]) / 2 + smooth)
    places = first[0].numel()
    # Whole costs, as fine as the authors' (a thousand steps of an even share), in quarters for the distance.
    scale = 1000 * places
    prior = eta / places * _surprise(shares).to(first.device)
    costs = torch.stack(
        [level * lose_second + (1 - level) * lose_first + prior[:, k, None, None] for k, level in enumerate(LEVELS)],
        dim=3,
    )
    costs_whole = 4 * (scale * costs).long()
    below, right = ((scale * w).clamp(min=0).long().cpu().numpy() for w in weights)
    labels = swap_labels(costs_whole.cpu().numpy(), below, right, DISTANCE)
    grid = first.new_tensor(LEVELS)[torch.from_numpy(labels).to(first.device)]
    for end in (0.0, 1.0):  # where the prior forbids all else
        grid = torch.where((shares == end).to(grid.device)[:, None, None], end, grid)
    return grid


def _surprise(shares: Tensor) -> Tensor:
    """Return (B, 3): minus the logarithm of the binomial probability of each level of the mask."""
    p = torch.stack([shares**2, 2 * shares * (1 - shares), (1 - shares) ** 2], dim=1)
    return -(p + 1e-8).log()
