"""Signatures become schemas: every refusal names the key's path, what was expected and the near name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from metrixkit.errors import InputError
from metrixkit.families import ANY, Kind, allow_code, class_with
from metrixkit.schema import Family, build, build_node, check_mapping, check_node, check_value, fields_of


@dataclass
class Columns:
    path: str = "path"
    split: str | None = None


@dataclass
class Section:
    rate: float = 0.1
    flags: list[int] = field(default_factory=lambda: [1, 2])
    columns: Columns = field(default_factory=Columns)


class Plain:
    def __init__(
        self, margin: float = 0.5, mode: Literal["sum", "mean"] = "sum", extra: dict[str, Any] | None = None
    ) -> None:
        self.margin, self.mode, self.extra = margin, mode, extra


class Needy:
    def __init__(self, num_classes: int, dim: int, beta: float) -> None:
        self.num_classes, self.dim, self.beta = num_classes, dim, beta


class Wrapper:
    def __init__(self, loss: Plain, kinds: str | list[str] = "a", count: int | None = None) -> None:
        self.loss, self.kinds, self.count = loss, kinds, count


class NamesALoss:
    def __init__(self, loss: str, on: bool = False) -> None:
        self.loss, self.on = loss, on


FAMILIES = {
    "loss": Family(
        {"plain": Plain, "needy": Needy, "wrapper": Wrapper, "named": NamesALoss},
        "loss",
        frozenset({"num_classes", "dim"}),
    )
}


def node(**values: Any) -> dict[str, Any]:
    return check_node(values, FAMILIES, "loss", "loss")


def test_defaults_are_written_out() -> None:
    assert node(name="plain") == {"name": "plain", "margin": 0.5, "mode": "sum", "extra": None}


def test_numbers_in_scientific_notation_and_texts() -> None:
    checked = check_mapping({"rate": "3e-5"}, fields_of(Section), "")
    assert checked["rate"] == pytest.approx(3e-5)
    assert check_mapping({"columns": {"path": 7}}, fields_of(Section), "")["columns"]["path"] == "7"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "plain", "margn": 1}, ["loss.margn", "plain", "margin"]),
        ({"name": "plain", "beta": 1}, ["loss.beta", "is not a setting", "loss 'plain' takes margin, mode, extra"]),
        ({"name": "plain", "margin": "wide"}, ["loss.margin", "a number", "'wide'"]),
        ({"name": "plain", "mode": "meen"}, ["loss.mode", "one of 'sum', 'mean'", "Did you mean 'mean'"]),
        ({"name": "plane"}, ["no loss is called 'plane'", "Did you mean 'plain'"]),
        ({"name": "needy"}, ["loss.beta is missing", "a number"]),
        ({"name": "needy", "beta": 1, "dim": 4}, ["loss.dim is not a setting"]),
        ({"name": "wrapper"}, ["loss.loss is missing", "wrapper"]),
        ({"name": "wrapper", "loss": {"name": "plain", "margin": []}}, ["loss.loss.margin", "a number"]),
        ({"name": "wrapper", "loss": "plain", "count": 1.5}, ["loss.count", "a whole number or null"]),
        ({"name": "named", "loss": "x", "on": 1}, ["loss.on", "true or false"]),
        ({"margin": 1}, ["loss.name is missing", "plain"]),
    ],
)
def test_refusals_name_path_and_expectation(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        check_node(values, FAMILIES, "loss", "loss")
    for word in words:
        assert word in str(caught.value)


def test_nested_families_build_inside_out_with_what_the_programme_provides() -> None:
    built = build_node(
        node(name="wrapper", loss={"name": "plain", "margin": 2}, kinds=["a", "b"]),
        FAMILIES,
        "loss",
        "loss",
        {"dim": 3},
    )
    assert isinstance(built.loss, Plain)
    assert (built.loss.margin, built.kinds) == (2.0, ["a", "b"])
    needy = build_node(node(name="needy", beta=1), FAMILIES, "loss", "loss", {"dim": 3, "num_classes": 5, "unused": 1})
    assert (needy.num_classes, needy.dim) == (5, 3)


def test_a_text_parameter_that_shares_a_family_name_stays_text() -> None:
    assert (
        build_node(node(name="named", loss="ProxyAnchorLoss"), FAMILIES, "loss", "loss", {}).loss == "ProxyAnchorLoss"
    )


def test_a_bare_name_is_a_node() -> None:
    assert check_node("plain", FAMILIES, "loss", "loss")["name"] == "plain"


def test_build_makes_nested_dataclasses() -> None:
    section = build(Section, {"columns": {"split": "part"}}, "section")
    assert section.columns == Columns("path", "part")
    with pytest.raises(InputError, match="section.colums is not a setting.*columns"):
        build(Section, {"colums": {}}, "section")


def test_own_class_by_module_path(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownlosses.py").write_text(
        "class Base: ...\n"
        "class Mine(Base):\n    def __init__(self, k: int = 3) -> None:\n        self.k = k\n"
        "def made() -> Mine: ...\n"
        "def other() -> str: raise RuntimeError\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = class_with("__init__")

    def fits(found: Any) -> bool:
        return mine(found) and [base.__name__ for base in found.__mro__][1:2] == ["Base"]

    families = {"loss": Family(FAMILIES["loss"].members, Kind("loss", "Base class", fits))}

    def own(**values: Any) -> dict[str, Any]:
        return check_node(values, families, "loss", "loss")

    with pytest.raises(InputError, match=r"loss 'ownlosses:Mine' is code of the module 'ownlosses'.*--trust"):
        own(name="ownlosses:Mine", k=4)
    with allow_code({"ownlosses:Mine"}):
        assert build_node(own(name="ownlosses:Mine", k=4), families, "loss", "loss", {}).k == 4
        with pytest.raises(InputError, match=r"loss.z is not a setting: loss 'ownlosses:Mine' takes k"):
            own(name="ownlosses:Mine", z=1)
        with pytest.raises(InputError, match="'ownlosses:other' is code of"):
            own(name="ownlosses:other")
    with allow_code(ANY):
        with pytest.raises(InputError, match="has no 'Mein'.*Did you mean 'Mine'"):
            own(name="ownlosses:Mein")
        with pytest.raises(InputError, match="cannot import 'absent_module'"):
            own(name="absent_module:Mine")
        with pytest.raises(InputError, match=r"'ownlosses:other' is no Base class \(it is a function\)"):
            own(name="ownlosses:other")
        with pytest.raises(InputError, match="'os' is of Python's own library"):
            own(name="os:system")
        with pytest.raises(InputError, match="no loss is called 'ownlosses:Mine'"):
            check_node("ownlosses:Mine", FAMILIES, "loss", "loss")  # a family that is closed


@pytest.mark.parametrize("value", [{}, {"a": 1}, "x", 3, [[1]]])
def test_a_pair_of_numbers_is_nothing_else(value: Any) -> None:
    with pytest.raises(InputError, match=r"^ratio: expected "):
        check_value(value, tuple[float, float], "ratio")
    with pytest.raises(InputError, match=r"^ratio: expected "):
        check_value(value, list[float], "ratio")
