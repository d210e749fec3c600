"""``factory="auto"``: the most exact index that fits a memory and a latency budget."""

from __future__ import annotations

import re
from dataclasses import dataclass

from metrixkit.errors import InputError
from metrixkit.retrieval.index.factory import PER_LIST, Factory, lists_for

LATENCY_MS = 100.0  # budget of one query where none is named
# Bytes one thread scans in a millisecond, cautious orders of magnitude (a server core did three times as much). float32
# rows stream from memory; 8-bit codes cost arithmetic; 4-bit codes are looked up in registers.
_SPEED = {"Flat": 8e6, "SQ8": 2e6, "fast": 4e6}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Choice:
    """What :func:`choose_factory` settled on.

    Attributes:
        factory: A string for :meth:`RetrievalIndex.build`.
        memory: Bytes it will take, about.
        latency_ms: Milliseconds of one query on one thread, as an order of magnitude; measure with ``sweep``.
        reason: One sentence for people.
    """

    factory: str
    memory: int
    latency_ms: float
    reason: str


def choose_factory(
    count: int, dim: int, memory_budget: int | str | None = None, latency_budget_ms: float | None = None
) -> Choice:
    """Return the first of these that fits both budgets, from exact to coarse.

    1. Flat: every vector, exact; 4 d bytes.
    2. IVF,Flat: float32 vectors in lists, sqrt(lists) of which are searched; 4 d + 8 bytes.
    3. IVF,PQ x4fs,RFlat: 4-bit codes, the first results scored by float32 vectors; 4.25 d + 8 bytes, quicker than 2.
    4. IVF,SQ8: one byte a number; d + 8 bytes.
    5. IVF,PQ x4fs: 4-bit codes alone; d / 4 + 8 bytes, and scores that are rough.

    HNSW is never chosen: it cannot forget a vector and takes long to build; name it where it is wanted. Below 39 x 16
    vectors lists make no sense and only Flat is offered.

    Args:
        count: Vectors, now and in the near future.
        dim: Dimensions.
        memory_budget: Bytes, or text such as "2GB" or "512MiB"; None leaves memory out of it.
        latency_budget_ms: Milliseconds one query may take on one thread; None takes 100.

    Raises:
        InputError: A budget that is none, or that nothing fits; the message names what comes nearest.
    """
    memory = _bytes(memory_budget)
    wanted = LATENCY_MS if latency_budget_ms is None else float(latency_budget_ms)
    if not wanted > 0:
        raise InputError(f"latency_budget_ms={latency_budget_ms}: expected milliseconds above 0.")
    tried = [_estimate(factory, count, dim) for factory in _candidates(count, dim)]
    for choice in tried:
        if choice.latency_ms <= wanted and (memory is None or choice.memory <= memory):
            return choice
    small = min(tried, key=lambda c: c.memory)
    quick = min(tried, key=lambda c: c.latency_ms)
    raise InputError(
        f"no index of {count} x {dim} fits memory_budget={memory_budget} and {wanted:g} ms a query. The smallest, "
        f"{small.factory}, takes about {small.memory / 1e6:.0f} MB; the quickest, {quick.factory}, about "
        f"{quick.latency_ms:.2g} ms. Raise the budget, or name a factory."
    )


def _candidates(count: int, dim: int) -> list[Factory]:
    found = [Factory("Flat")]
    if count >= 16 * PER_LIST:
        lists = lists_for(count)
        # Two dimensions a part where they divide, else the most parts that do.
        parts = next(m for m in range(max(1, dim // 2), 0, -1) if dim % m == 0)
        found.append(Factory("Flat", lists=lists))
        found.append(Factory("PQ", lists=lists, parts=parts, fast=True, refine=True))
        found.append(Factory("SQ8", lists=lists))
        found.append(Factory("PQ", lists=lists, parts=parts, fast=True))
    return found


def _estimate(factory: Factory, count: int, dim: int) -> Choice:
    memory = count * factory.vector_bytes(dim) + factory.fixed_bytes(dim)
    share = factory.defaults().get("nprobe", 1) / max(1, factory.lists)
    speed = _SPEED["fast" if factory.fast else factory.codec]
    latency = count * share * factory.code_bytes(dim) / speed + factory.lists * dim * 4 / _SPEED["Flat"]
    return Choice(
        str(factory),
        memory,
        latency,
        f"{factory} for {count} x {dim}: about {memory / 1e6:.0f} MB, and {latency:.2g} ms a query on one thread.",
    )


def _bytes(budget: int | str | None) -> int | None:
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-zA-Z]*)\s*", str(budget))
    if found is None or found[2].upper() not in _UNITS or float(found[1]) <= 0:
        raise InputError(f"memory_budget={budget!r}: expected bytes above 0, or text such as '2GB' or '512MiB'.")
    return int(float(found[1]) * _UNITS[found[2].upper()])
