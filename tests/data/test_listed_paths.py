"""Paths in tables: made on Windows, on a Mac, in archives; ids that name files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from metrixkit.data.listed_paths import locate_listed
from metrixkit.data.sets.captions import Captions
from metrixkit.data.sets.images import Images
from metrixkit.errors import InputError


def form(name: str, text: str) -> str:
    return unicodedata.normalize(name, text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/0.png", form("NFD", "café/1.png"), "d\\e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ("a/0.png", "a/0.png"),
        ("a\\0.png", "a/0.png"),
        (".\\a\\0.png", "./a/0.png"),
        ("d\\e.png", "d\\e.png"),  # a name that is there goes before what it may mean
        (form("NFC", "café/1.png"), form("NFD", "café/1.png")),
        (form("NFC", "café\\1.png"), form("NFD", "café/1.png")),
        (form("NFC", "café/1.png#t=1,2"), form("NFD", "café/1.png#t=1,2")),
        ("a\\0.png!b/c.png", "a/0.png!b/c.png"),
        ("a\\9.png", "a\\9.png"),
        (form("NFC", "café/9.png"), form("NFC", "café/9.png")),
        ("", ""),
    ],
)
def test_a_path_is_found_as_somebody_s_machine_wrote_it(root: Path, cell: str, wanted: str) -> None:
    found = locate_listed(root, [cell])[0]
    assert (found and Path(found)) == (wanted and root / wanted)


def test_absolute_paths_are_found_too(root: Path) -> None:
    assert locate_listed(Path("elsewhere"), [str(root / "a" / "0.png")]) == [str(root / "a/0.png")]


def test_images_of_a_table_from_windows_and_one_from_a_mac(tmp_path: Path) -> None:
    lines = ["path;label"]
    for name in ("café", "b", "c"):
        for i in range(2):
            file = tmp_path / form("NFD", name) / f"{i}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x")
            lines.append(f"{form('NFC', name)}\\{i}.png;{name}")
    (tmp_path / "t.csv").write_text("\r\n".join(lines), encoding="utf-8-sig", newline="")
    found = Images(table=str(tmp_path / "t.csv")).read()
    assert len(found) == 6
    assert found.dropped == 0
    assert all(Path(path).is_file() for path in found.paths)


def test_ids_of_captions_may_name_the_file(tmp_path: Path) -> None:
    for name in ("001.mp4", "002.webm", form("NFD", "é.mp4")):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "t.csv").write_text(form("NFC", "id,caption\n001.mp4,one\n002,two\né,three\n"), encoding="utf-8")
    found = Captions(str(tmp_path / "t.csv"), videos=str(tmp_path)).read()
    assert found.items["id"].tolist() == ["001.mp4", "002", form("NFC", "é")]
    assert [Path(path).name for path in found.items["video"]] == ["001.mp4", "002.webm", form("NFD", "é.mp4")]
    np.savez(tmp_path / "f.npz", **{"001": np.ones((2, 3)), "002": np.ones((1, 3)), form("NFD", "é"): np.ones((1, 3))})
    found = Captions(str(tmp_path / "t.csv"), features={"sound": str(tmp_path / "f.npz")}).read()
    assert [Path(path).name.split("#")[1] for path in found.items["sound"]] == ["001", "002", form("NFD", "é")]
    (tmp_path / "t.csv").write_text("id,caption\n004.mp4,one\n002,two\n")
    with pytest.raises(InputError, match=r"004\.mp4"):
        Captions(str(tmp_path / "t.csv"), videos=str(tmp_path)).read()
