"""Files cut, flipped, emptied, of another kind: 40 distinct damages in the fast suite, 450 in the slow one.

And no silent drop: of a table that is read, every row is evaluated or told of.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from hostile_judge import judge, many, sizes
from hostile_world import ROWS, World, ask
from hypothesis import strategies as st

COUNTS = {"fast": 40, "slow": 450}
TABLES = {"fast": 10, "slow": 120}
# Which files are damaged, and the commands that then read them; {x} is the place of x.
READERS: dict[str, list[tuple[str, ...]]] = {
    "e.npy": [("evaluate", "--embeddings", "{e.npy}", "--table", "{t.csv}"), ("index", "search", "{index}", "--embeddings", "{e.npy}")],
    "t.csv": [("evaluate", "--embeddings", "{e.npy}", "--table", "{t.csv}")],
    "text.npy": [("evaluate", "--text", "{text.npy}", "--video", "{video.npy}", "--pairs", "{pairs.csv}")],
    "pairs.csv": [("evaluate", "--text", "{text.npy}", "--video", "{video.npy}", "--pairs", "{pairs.csv}")],
    "captions.csv": [("data", "check", "captions", "table={captions.csv}", "videos={photos}")],
    "index": [("index", "info", "{index}"), ("index", "search", "{index}", "--embeddings", "{e.npy}"), ("index", "remove", "{index}", "--ids", "i1")],
    "run": [("compare", "{run}"), ("evaluate", "{run}", "loader.workers=0")],
    "photos": [("data", "check", "{photos}")],
}  # fmt: skip
BLOBS = [
    b"", b"\x00" * 64, b"\xff\xfe\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00v\x00{", b"[]", b"{}", b"null", b"1", b'"a"',
    b"[1, 2", b'{"version": 99}', b'{"version": "1"}', b"a,b\n1\n", b"id,label\n", b"label\n" + b"a\n" * 3, b"\xef\xbb\xbfid;label\n1;2\n", b"\n" * 9,
    b'id,label\n"a,b\n', b"id\tlabel\na\tb\n", b"nan\n" * 24, b"label\n" + b"1e400\n" * 24, b"\x1b[31m,x\n", b"id,id\na,b\n", b"x" * 70000,
    "label\n日本\n".encode("utf-16"), b"[NaN]", b'{"metrics": {"recall@1": NaN}}', b'{"metrics": []}', b"- 1\n- 2\n", b"a: &a [*a]\n",
]  # fmt: skip


def damages() -> st.SearchStrategy[tuple[str, int, int, str, int, int]]:
    """Return (what, which command, which file of a folder, how, where, with what)."""
    return st.sampled_from(list(READERS)).flatmap(
        lambda part: st.tuples(
            st.just(part),
            st.integers(0, len(READERS[part]) - 1),
            st.integers(0, 200),
            st.sampled_from(["cut", "flip", "blob", "gone", "twice", "folder", "insert"]),
            st.integers(0, 2**16),
            st.integers(0, 255),
        )
    )


def damage(file: Path, how: str, where: int, what: int) -> None:
    content = file.read_bytes()
    at = where % max(1, len(content))
    file.unlink()
    if how == "cut":
        file.write_bytes(content[:at])
    elif how == "flip":
        file.write_bytes(content[:at] + bytes([content[at] ^ (what or 1)]) + content[at + 1 :] if content else b"\x01")
    elif how == "blob":
        file.write_bytes(BLOBS[what % len(BLOBS)])
    elif how == "twice":
        file.write_bytes(content + content)
    elif how == "folder":
        file.mkdir()
    elif how == "insert":
        file.write_bytes(content[:at] + BLOBS[what % len(BLOBS)][:40] + content[at:])


@sizes
def test_damaged_files(world: World, place: Path, size: str) -> None:
    def check(case: tuple[str, int, int, str, int, int]) -> None:
        part, which, number, how, where, what = case
        target = world.copy(part, place)
        files = sorted(file for file in target.rglob("*") if file.is_file()) if target.is_dir() else [target]
        damage(files[number % len(files)], how, where, what)
        words = READERS[part][which]
        filled = [
            re.sub(r"\{(.*)\}", lambda m: str(target if m[1] == part else world.folder / m[1]), word) for word in words
        ]
        judge(ask(*filled), wrong=(1, 2))
        if target.is_dir() and how == "folder":
            pass
        elif target.is_file():
            target.unlink()
        elif how == "folder":
            target.rmdir()

    many(damages(), COUNTS[size], check)


@sizes
def test_no_row_of_a_table_is_lost(world: World, place: Path, size: str) -> None:
    """10 tables in the fast suite, 120 in the slow one: queries evaluated and left out are the rows of the split asked for."""
    cell = st.sampled_from(
        [
            "a",
            "b",
            "c",
            "é",
            "e\u0301",
            "007",
            "7",
            "1e3",
            "",
            " a",
            "a,b",
            'q"q',
            "nan",
            "None",
            "NULL",
            "-0",
            "x" * 300,
        ]
    )
    split = st.sampled_from(["test", "train", "query", "gallery", "Test", "", "validation"])
    rows = st.lists(st.tuples(cell, split), min_size=ROWS, max_size=ROWS)
    kept = st.sampled_from([("label",), ("label", "split")])

    def check(case: tuple[list[tuple[str, str]], tuple[str, ...]]) -> None:
        found, columns = case
        lines = [",".join(['"' + cell.replace('"', '""') + '"' for cell in row[: len(columns)]]) for row in found]
        (place / "t.csv").write_text("\n".join([",".join(columns), *lines]) + "\n", encoding="utf-8")
        (place / "r.json").unlink(missing_ok=True)
        answer = ask(
            "evaluate", "--embeddings", world.embeddings, "--table", place / "t.csv", "--out", place / "r.json"
        )
        judge(answer)
        if answer.status == 0:
            result = json.loads((place / "r.json").read_text())
            counts = result["counts"]
            if columns == ("label",):
                assert counts["queries"] == ROWS == counts["evaluated"] + counts["without_relevant"], counts
                assert all(0 <= value <= 1 for name, value in result["metrics"].items() if name.startswith("recall"))

    many(st.tuples(rows, kept), TABLES[size], check)


def test_the_world_itself_is_fine(world: World, place: Path) -> None:
    """Damages tell nothing where the undamaged is refused."""
    for readers in READERS.values():
        for words in readers:
            filled = [re.sub(r"\{(.*)\}", lambda m: str(world.folder / m[1]), word) for word in words]
            if "remove" in words:
                filled[2] = str(world.copy("index", place))
            answer = ask(*filled)
            if "captions" not in words:
                assert answer.status == 0, (words, answer)
    assert np.load(world.embeddings).shape[0] == ROWS
