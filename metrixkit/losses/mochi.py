"""MoCHi (Kalantidis et al., NeurIPS 2020) on a queue: the negatives nearest to a query are mixed into harder ones.

B queries, K rows in the queue, d dimensions. No synthetic point is ever formed. A point h = a n + (1 - a) n', brought
to length 1, has with the query q the cosine

    (a q.n + (1 - a) q.n') / |a n + (1 - a) n'|,   |.|^2 = a^2 + (1 - a)^2 + 2 a (1 - a) n.n'

whose products with q are among those with the queue. What is left is n.n' for each pair that was drawn: s d products a
query, against N^2 d for all pairs of its N hardest or K^2 d / B for all pairs of the queue, both more at usual sizes.
:class:`~metrixkit.losses.MoCHi` is the same within a batch with class labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses.denominator import check_negatives, nce_rows, numbers_at_once
from metrixkit.losses.hardest import hardest_columns
from metrixkit.losses.matched import common_precision
from metrixkit.losses.mixed_contrast import check_same
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.row_gradients import by_parts
from metrixkit.losses.unit import no_autocast, products, unit_rows


@dataclass(frozen=True)
class HarderDraw:
    """What is random in MoCHi. Places count among a query's hardest negatives, the hardest being 0.

    Attributes:
        first: (B, s) int64 place of n.
        second: (B, s) int64 place of n', not that of n.
        share: (B, s) share a of n, in [0, 1].
        third: (B, s') int64 place of the negative that the query is mixed with.
        query_share: (B, s') share of the query, in [0, 0.5].
    """

    first: Tensor
    second: Tensor
    share: Tensor
    third: Tensor
    query_share: Tensor


def draw_harder(count: int, hardest: int, synthetic: int, harder: int, generator: torch.Generator) -> HarderDraw:
    """Draw pairs and shares evenly: places from `hardest`, two different ones a pair, a ~ U(0, 1), b ~ U(0, 0.5).

    Args:
        count: B, queries.
        hardest: N, hardest negatives to draw from; at least 2 where `synthetic` is not 0.
        synthetic: s, mixtures of two negatives a query.
        harder: s', mixtures of the query with a negative.
        generator: A CPU generator; one number is taken from it, whatever the sizes are.

    Raises:
        InputError: A count out of range.
    """
    least = 2 if synthetic else 1
    for name, value, bound in (("hardest", hardest, least), ("synthetic", synthetic, 0), ("harder", harder, 0)):
        if value < bound:
            raise InputError(f"{name} is {value}, expected at least {bound}.")
    child = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
    first = torch.randint(hardest, (count, synthetic), generator=child)
    step = torch.randint(1, max(hardest, 2), (count, synthetic), generator=child)
    return HarderDraw(
        first,
        (first + step) % hardest,
        torch.rand(count, synthetic, generator=child),
        torch.randint(hardest, (count, harder), generator=child),
        torch.rand(count, harder, generator=child) / 2,
    )


def mochi_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    hardest: int = 1024,
    synthetic: int = 1024,
    harder: int = 128,
    temperature: float = 0.2,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Return MoCo's loss with synthetic negatives beside the queue.

    Of each query the `hardest` nearest rows of the queue are taken; `synthetic` points between two of them and `harder`
    points between one of them and the query, nearer to the former, join its negatives.

    Args:
        query: (B, d) raw embeddings.
        key: (B, d) of the other views; no gradient.
        queue: (K, d) past keys, without these; no gradient.
        hardest: N, from 1 (from 2 with `synthetic`) to K.
        synthetic: s, >= 0.
        harder: s', >= 0.
        temperature: T, > 0.
        generator: A CPU generator; see :func:`draw_harder`.

    Returns:
        A scalar >= 0. See :func:`mochi_loss_drawn` for its gradient.

    Raises:
        InputError: Shapes, types or numbers do not fit; `hardest` is above K.
    """
    check_same("query", query, "key", key)
    draw = draw_harder(len(query), hardest, synthetic, harder, generator)
    return mochi_loss_drawn(query, key, queue, hardest, draw, temperature)


def mochi_loss_drawn(
    query: Tensor, key: Tensor, queue: Tensor, hardest: int, draw: HarderDraw, temperature: float = 0.2
) -> Tensor:
    """Return :func:`mochi_loss` with given pairs and shares.

    The synthetic points are constants, the copy of the query in the harder ones too: the gradient passes only through
    the query that is compared with them. It is worked out along with the value, for a part of the queries at a time.

    Args:
        query: (B, d) raw embeddings.
        key: (B, d) of the other views; no gradient.
        queue: (K, d) past keys; no gradient.
        hardest: N, the hardest negatives that places count among, at most K.
        draw: Places below N, and shares.
        temperature: T, > 0.

    Returns:
        A scalar >= 0.

    Raises:
        InputError: Shapes, types or numbers do not fit; `hardest` is above K.
    """
    temperature = positive_number("temperature", temperature)
    check_same("query", query, "key", key)
    check_negatives(queue, query, "queue")
    if not 1 <= hardest <= len(queue):
        raise InputError(
            f"hardest is {hardest} with {len(queue)} rows in the queue; expected 1 to {len(queue)}: lower hardest or "
            "take a longer queue."
        )
    _check_draw(draw, len(query), hardest)
    with no_autocast(query):
        q, k, n = (unit_rows(rows) for rows in common_precision(query, key.detach(), queue.detach()))

        def losses(rows: Tensor, part: slice) -> Tensor:
            positive = torch.linalg.vecdot(rows, k[part])
            to_queue = products(rows, n)
            to_harder = torch.cat(_cosines(to_queue, n, hardest, draw, part), 1)
            rest = to_queue.div(temperature).logsumexp(1)
            if to_harder.shape[1]:
                rest = torch.logaddexp(rest, to_harder.div(temperature).logsumexp(1))
            return nce_rows(positive / temperature, rest)

        return by_parts(q, losses, max(1, numbers_at_once(q.device) // len(n))).mean()


def _cosines(to_queue: Tensor, queue: Tensor, hardest: int, draw: HarderDraw, part: slice) -> list[Tensor]:
    """Return cosines of some queries with their points between negatives, (m, s), and with the harder, (m, s')."""
    first, second, third = (places[part].to(queue.device) for places in (draw.first, draw.second, draw.third))
    a, b = (share[part].to(queue) for share in (draw.share, draw.query_share))
    order = hardest_columns(to_queue, hardest)
    first, second, third = (order.gather(1, places) for places in (first, second, third))
    found = []
    if a.shape[1]:
        between = _row_products(queue, first, second)
        along = a * to_queue.gather(1, first) + (1 - a) * to_queue.gather(1, second)
        found.append(along * _inverse_length(a, between))
    if b.shape[1]:
        to_third = to_queue.gather(1, third)
        # The query times itself as a constant is 1, and does not change to first order as the query turns.
        found.append((b + (1 - b) * to_third) * _inverse_length(b, to_third.detach()))
    return found or [to_queue[:, :0]]


def _row_products(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the products of chosen rows, in the shape of both index tensors."""
    size = max(1, numbers_at_once(rows.device) // (16 * rows.shape[1]))  # so that both sides stay in a cache
    pairs = zip(first.reshape(-1).split(size), second.reshape(-1).split(size), strict=True)
    found = [rows.index_select(0, i).mul_(rows.index_select(0, j)).sum(1) for i, j in pairs]
    return torch.cat(found).view(first.shape)


def _inverse_length(share: Tensor, cosine: Tensor) -> Tensor:
    """Return ``1 / |share x + (1 - share) y|`` for unit x and y; opposite ones that cancel get a length above 0."""
    square = share * share + (1 - share) ** 2 + 2 * share * (1 - share) * cosine
    return square.clamp_(min=torch.finfo(square.dtype).eps).rsqrt_()


def _check_draw(draw: HarderDraw, count: int, hardest: int) -> None:
    for names in (("first", "second", "share"), ("third", "query_share")):
        shapes = {name: tuple(getattr(draw, name).shape) for name in names}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 or shape[0] != count for shape in shapes.values()):
            raise InputError(f"draw: got shapes {shapes}, expected one shape ({count}, points a query).")
    for name in ("first", "second", "third"):
        places = getattr(draw, name)
        if places.device.type == "cpu" and places.numel() and not 0 <= int(places.min()) <= int(places.max()) < hardest:
            raise InputError(f"draw.{name}: places from {int(places.min())} to {int(places.max())} of {hardest}.")
