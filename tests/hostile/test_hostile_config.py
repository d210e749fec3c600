"""Settings: every key of a config with values of every kind. 40 distinct overrides in the fast suite, 450 in the slow one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_judge import judge, many, sizes
from hostile_world import World, ask
from hypothesis import strategies as st

from metrixkit import config as configs

COUNTS = {"fast": 40, "slow": 450}
VALUES = [
    "", " ", "null", "~", "true", "no", "0", "-1", "1", "007", "3.5", "-0.0", "1e400", "nan", ".inf", "-.inf", "9" * 40, "1_000", "0x10",
    "1:30", "text", "two words", "[]", "[1]", "[1,2]", "[nan]", "[[1]]", "{}", "{a: 1}", "{name: image}", "{name: }", "{name: 5}",
    "{name: [a]}", "{1: 2}", "a:B", "os:system", "subprocess:getoutput", "metrixkit.losses:NCA", "x.y:", ":", "[", "{", '"', "'", "&a", "*a",
    "&a [*a]", "!!python/object:os.system", "!x", "- a", "a: b: c", "${seed}", "${oc.env:HOME}", "${", "%", "@", "`", "#", "\\", "é", "e\u0301",
    "日本", "\u202etxt", "\x1b[31m", "\x07", "a\tb", "a\nb", "../../x", "/dev/zero", "~", "2024-01-01", "=", "a=b", "," * 30, "[" * 60, "a" * 500,
]  # fmt: skip


def overrides() -> st.SearchStrategy[list[str]]:
    """Return lists of one or two ``key=value``: real keys mostly, and some that are none."""
    keys = sorted({path for path, _ in configs.all_settings()} | set(configs.FAMILIES))
    odd = [
        "",
        ".",
        "a",
        "seed.x",
        "loss.loss.loss.margin",
        "training..epochs",
        "é",
        "data.",
        ".data",
        "__class__",
        "data.columns.path",
        "0",
    ]
    one = st.builds(
        "{}={}".format, st.sampled_from(keys) | st.sampled_from(odd), st.sampled_from(VALUES) | st.text(max_size=12)
    )
    return st.lists(one, min_size=1, max_size=2)


@sizes
def test_settings_of_every_kind(world: World, place: Path, size: str) -> None:
    def check(words: list[str]) -> None:
        judge(ask("train", world.config, f"data.root={world.photos}", *words, "--sweep", "seed=0", "--list"))

    many(overrides(), COUNTS[size], check)


@pytest.mark.parametrize(
    "text", ["", "[]", "a", "seed: [", "a: &a [*a]", "\x00", "\ufeffseed: 1", "seed: 1\nseed: 2", "? a", "--- 1\n--- 2"]
)
def test_files_that_are_no_config(place: Path, text: str) -> None:
    (place / "c.yaml").write_text(text, encoding="utf-8")
    answer = ask("train", place / "c.yaml", "--sweep", "seed=0", "--list")
    judge(answer)
    assert answer.status == 2
