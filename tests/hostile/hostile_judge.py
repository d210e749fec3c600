"""What hostile input may lead to: a plausible answer, or one line that says what was wrong. Never anything else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import TypeVar

import pytest
from hostile_world import Answer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
# One sentence may hold a file's own words; a traceback or a page of text is no sentence.
LONGEST = 2500
sizes = pytest.mark.parametrize("size", ["fast", pytest.param("slow", marks=pytest.mark.slow)])


def judge(answer: Answer, wrong: tuple[int, ...] = (2,)) -> None:
    """Assert that a command answered: status 0 with words, or a refusal in one line on standard error."""
    said = answer.out + answer.err
    assert "Traceback (most recent call last)" not in said, said[-3000:]
    assert answer.status in (0, *wrong), answer
    if answer.status == 0:
        assert answer.out.strip(), answer
        assert not re.search(r"(?<![\w./-])(nan|inf)\s*%", answer.out), answer.out
    elif answer.status == 2:
        lines = [line for line in answer.err.splitlines() if line.startswith(("metrixkit", "usage:"))]
        assert lines or answer.out.startswith("usage:"), answer  # nothing was asked: the whole help is the answer
        assert len(answer.err) < LONGEST, answer


def many(cases: SearchStrategy[T], count: int, check: Callable[[T], None]) -> None:
    """Check `count` distinct cases and some that come twice.

    The cases are hypothesis's, the same at each run; a failing one is made as small as it gets.
    """
    seen: set[str] = set()

    @settings(
        max_examples=3 * count // 2,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(case=cases)
    def each(case: T) -> None:
        seen.add(repr(case))
        state = random.getstate()
        try:
            check(case)
        finally:
            random.setstate(state)

    each()
    assert len(seen) >= count, f"only {len(seen)} of {count} cases were distinct"
