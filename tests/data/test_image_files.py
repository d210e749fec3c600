"""Which files of a folder are read, and that whatever is passed over is said: links, odd names, odd suffixes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from metrixkit.data import Images
from metrixkit.data import __main__ as door
from metrixkit.data.decode import decode
from metrixkit.data.image_files import BROKEN_LINK, EMPTY, HIDDEN, LOOP, OTHER, is_utf8, printable, scan_images, told
from metrixkit.errors import InputError


def picture(path: Path, value: int = 0, form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, 9, 30)).save(path, form)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for c, name in enumerate(("cat", "dog", "owl")):
        for k in range(2):
            picture(tmp_path / "photos" / name / f"{k}.png", 40 * c + k)
    return tmp_path / "photos"


def test_suffixes_of_jpeg_in_any_case(photos: Path) -> None:
    for name in ("a.jfif", "b.jpe", "c.JIF", "d.JPG", "e.Jpeg"):
        picture(photos / "cat" / name, form="JPEG")
    assert [Path(name).name for name in scan_images(photos).files][:5] == [
        "0.png",
        "1.png",
        "a.jfif",
        "b.jpe",
        "c.JIF",
    ]
    assert len(Images(str(photos)).read()) == 11


def test_what_is_passed_over_is_counted_and_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "cat/raw.cr2", "phone/0.xcf", ".DS_Store", ".thumbs/0.png", "old/deep/nothing/x.svg"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_text("x")
    (photos / "owl" / "empty").mkdir()
    found = Images(str(photos)).read()
    assert len(found) == 6
    assert found.passed_over == {
        HIDDEN: (".DS_Store", ".thumbs/"),
        OTHER: ("notes.txt", "cat/raw.cr2", "old/deep/nothing/x.svg", "phone/0.xcf"),
        EMPTY: ("owl/empty/", "old/", "phone/"),
    }
    assert told(found.passed_over) == (
        "passed over: 2 hidden (.DS_Store, .thumbs/); 4 of other kinds (notes.txt, cat/raw.cr2, "
        "old/deep/nothing/x.svg, ...); 3 folders without any (owl/empty/, old/, phone/)"
    )
    assert door.main(["check", str(photos)]) == 0
    assert told(found.passed_over) in capsys.readouterr().out
    assert told({}) == ""


def test_a_file_is_its_path_not_its_target(tmp_path: Path) -> None:
    for c in range(3):
        for k in range(2):
            picture(tmp_path / "pool" / f"c{c}" / f"{k}.png", 40 * c + k)
    root = tmp_path / "set"
    for split in ("query", "gallery"):
        (root / split).mkdir(parents=True)
        for c in range(3):
            (root / split / f"c{c}").symlink_to(tmp_path / "pool" / f"c{c}")
    (root / "query" / "c0b").mkdir()
    (root / "query" / "c0b" / "linked.png").symlink_to(tmp_path / "pool/c1/0.png")
    found = Images(str(root)).read()
    assert found.counts() == {"query": 7, "gallery": 6}
    row = found.items.set_index("id").loc["query/c0b/linked.png"]
    assert (row["label"], row["split"], row["path"]) == ("c0b", "query", str(root / "query/c0b/linked.png"))


def test_links_that_lead_nowhere_upwards_or_to_themselves(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cat" / "self.jpg").symlink_to("self.jpg")
    (photos / "cat" / "gone.jpg").symlink_to("/nowhere/gone.jpg")
    (photos / "rat").symlink_to("/nowhere/rat")
    (photos / "dog" / "up").symlink_to("..")
    (photos / "owl" / "side").symlink_to("../dog")
    scan = scan_images(photos)
    # Through owl/side the photographs of dog are there once more; up from there leads above again.
    assert scan.files[-2:] == ["owl/side/0.png", "owl/side/1.png"]
    assert scan.passed_over[LOOP] == ["dog/up/", "owl/side/up/"]
    assert scan.passed_over[BROKEN_LINK] == ["rat"]
    with pytest.raises(InputError, match=r"gone\.jpg: a link to nothing \(/nowhere/gone\.jpg\); cat/self\.jpg: a link"):
        Images(str(photos)).read()
    assert door.main(["check", str(photos)]) == 1
    shown = capsys.readouterr().out
    assert "2 missing or broken files were left out: cat/gone.jpg: a link to nothing" in shown
    assert "passed over: 1 links to nothing (rat)" in shown.partition("problem(s)")[2]


def test_links_that_multiply_are_refused(tmp_path: Path) -> None:
    for depth in range(12):
        (tmp_path / f"{depth}").mkdir()
        for name in "ab":
            (tmp_path / f"{depth}" / name).symlink_to(f"../{depth + 1}")
    (tmp_path / "12").mkdir()
    with pytest.raises(InputError, match="in more than 64 ways"):
        scan_images(tmp_path / "0")


def test_folders_that_nest_without_end(tmp_path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(220):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    with pytest.raises(InputError, match="more than 200 folders deep"):
        scan_images(tmp_path)


def test_names_that_are_not_utf8_are_an_error_that_shows_their_bytes(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsencode(photos) + b"/caf\xe9"
    os.mkdir(odd)
    with open(odd + b"/0.png", "wb") as file:
        Image.new("RGB", (6, 4)).save(file, "PNG")
    with pytest.raises(InputError, match=r"the name caf\\xe9/0\.png is not UTF-8.*convmv"):
        Images(str(photos)).read()
    assert door.main(["check", str(photos)]) == 2
    assert r"caf\xe9/0.png is not UTF-8" in capsys.readouterr().err
    assert is_utf8("café")
    assert not is_utf8("caf\udce9")
    assert printable("a\x1b[31m\udce9é") == "a\\x1b[31m\\xe9é"


def test_twins_of_one_unicode_name_are_told_apart_in_the_message(tmp_path: Path) -> None:
    for name in ("caf\u00e9", "cafe\u0301"):
        for k in range(2):
            picture(tmp_path / name / f"{k}.png")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system does not tell the two names apart")
    with pytest.raises(InputError, match=r"differ in Unicode form: 'cafe\\u0301', 'caf\\xe9'"):
        Images(str(tmp_path)).read()


def test_a_pipe_under_an_images_name_does_not_hang(photos: Path) -> None:
    os.mkfifo(photos / "cat" / "pipe.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        decode(photos / "cat" / "pipe.jpg")
    with pytest.raises(InputError, match=r"cat/pipe\.jpg: not a regular file"):
        Images(str(photos)).read()


def test_a_folder_of_nothing_readable_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.psd").write_text("x")
    with pytest.raises(InputError, match=r"empty, no file ends in .*; passed over: 1 of other kinds \(a/0\.psd\)"):
        Images(str(tmp_path)).read()


@pytest.mark.parametrize("name", ["0.heic", "0.png"])
def test_heic_names_the_package_it_needs(photos: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    file = photos / "cat" / name
    file.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")
    with pytest.raises(InputError, match=r"pip install 'metrixkit\[heif\]'"):
        decode(file)
    if name.endswith("heic"):  # told before a training starts, not in the middle of it
        with pytest.raises(InputError, match=r"cat/0\.heic: HEIC is read through pillow-heif"):
            Images(str(photos)).read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(40), "broken AVIF"),
    ],
)
def test_what_stands_in_for_an_image_is_named(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(content)


def test_heic_and_avif_are_read(photos: Path) -> None:
    picture(photos / "cat" / "2.avif", 40)
    assert abs(int(decode(photos / "cat" / "2.avif")[0, 0, 0]) - 40) < 8
    heif = pytest.importorskip("pillow_heif", reason="reads HEIC; the extra `heif`")
    heif.from_pillow(Image.new("RGB", (64, 64), (40, 9, 30))).save(photos / "cat" / "3.heic")
    assert abs(int(decode(photos / "cat" / "3.heic")[0, 0, 0]) - 40) < 8
    assert len(Images(str(photos)).read()) == 8
