"""Files that appear whole or not at all, and only where a file belongs."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from metrixkit import files
from metrixkit.__main__ import main
from metrixkit.errors import InputError


def kind(path: Path) -> int:
    return stat.S_IFMT(path.lstat().st_mode)


def test_new_content_takes_the_name_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "E.npy"
    with files.replacing(target) as file:
        np.save(file, np.arange(5))
        assert not target.exists(), "the name appears with the whole content only"
    assert np.load(target).tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in target.parent.iterdir()] == ["E.npy"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("x"), KeyboardInterrupt()]
)
def test_after_an_error_the_old_file_stands_alone(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    expected = InputError if isinstance(error, OSError) else type(error)

    def write() -> None:
        with files.replacing(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(expected):
        write()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    real = tmp_path / "far" / "real.json"
    real.parent.mkdir()
    real.write_text("old")
    link, dangling = tmp_path / "link.json", tmp_path / "dangling.json"
    link.symlink_to(Path("far") / "real.json")
    dangling.symlink_to(tmp_path / "far" / "new.json")
    files.write_text(link, "new")
    files.write_text(dangling, "new")
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert real.read_text() == (real.parent / "new.json").read_text() == "new"


def test_what_is_no_ordinary_file_is_refused_and_stays(tmp_path: Path) -> None:
    pipe, folder, circle = tmp_path / "pipe", tmp_path / "folder", tmp_path / "circle"
    os.mkfifo(pipe)
    folder.mkdir()
    circle.symlink_to(circle)
    short = Path(os.path.relpath(tmp_path / "s"))  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(short))
    told = {pipe: "FIFO", folder: "is a folder", circle: "circle", short: "a socket", Path("/dev/null"): "/dev/null"}
    before = {path: kind(path) for path in told}
    for path, words in told.items():
        with pytest.raises(InputError, match=f"^--out: .*{words}"):
            files.write_text(path, "x", "--out")
        with pytest.raises(InputError, match=words):
            files.check_file(path, "--out")
    assert {path: kind(path) for path in told} == before


def test_standard_output_is_not_cut_off(tmp_path: Path) -> None:
    for name in ("/dev/stdout", "/dev/fd/1", f"/proc/{os.getpid()}/fd/1"):
        with pytest.raises(InputError, match="no place for a file"):
            files.write_text(name, "x")


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="--out: cannot write .*a part of the path is a file"):
        files.write_text(tmp_path / "file" / "result.json", "x", "--out")
    with pytest.raises(InputError, match="--out: .* is a file; expected a folder"):
        files.check_folder(tmp_path / "file", "--out")
    with pytest.raises(InputError, match=r"named pipe \(FIFO\); expected a folder"):
        files.check_folder(tmp_path / "pipe", "--out")
    assert files.check_folder(tmp_path / "new" / "folder").is_dir()
    assert not list((tmp_path / "new" / "folder").iterdir())


def test_a_name_planted_for_the_unfinished_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / f"{files.UNFINISHED}abc.json").symlink_to(precious)
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "abc")
    with pytest.raises(InputError, match="cannot write"):
        files.write_text(tmp_path / "result.json", "new")
    assert precious.read_text() == "precious"


def test_permissions_are_those_of_the_old_file_or_of_the_umask(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("x")
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        files.write_text(old, "y")
        files.write_text(new, "y")
    finally:
        os.umask(before)
    assert stat.S_IMODE(old.stat().st_mode) == stat.S_IMODE(new.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o555)
    with pytest.raises(InputError, match="cannot write .*Permission denied.*change its permissions"):
        files.check_file(closed / "x")
    guarded = tmp_path / "guarded"
    guarded.write_text("precious")
    guarded.chmod(0o444)
    with pytest.raises(InputError, match="write-protected"):
        files.write_text(guarded, "x")


@pytest.fixture
def small_files() -> object:
    """Files may not grow beyond 4 kB: what numpy and torch meet is what they meet on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "save",
    [
        lambda file: np.save(file, np.zeros(100_000)),
        lambda file: np.savez(file, a=np.zeros(100_000)),
        lambda file: torch.save({"a": torch.zeros(100_000)}, file),
        lambda file: file.write(bytes(100_000)),
        lambda file: Path(file.name).write_bytes(bytes(100_000)),
    ],
    ids=["np.save", "np.savez", "torch.save", "write", "by name"],
)
def test_a_full_disk_is_a_sentence_whoever_writes(tmp_path: Path, small_files: object, save) -> None:  # type: ignore[no-untyped-def]
    target = tmp_path / "x.npy"
    target.write_bytes(b"old")
    with (
        pytest.raises(InputError, match="cannot write .*What was there before is as it was"),
        files.replacing(target) as f,
    ):
        save(f)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_json_keeps_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    path = files.write_json(tmp_path / "a.json", {"id": name, "score": np.float32(0.5), "at": tmp_path})
    assert json.loads(path.read_text(encoding="utf-8")) == {"id": name, "score": 0.5, "at": str(tmp_path)}
    assert files.write_text(tmp_path / "a.csv", f"id\n{name}\n").read_bytes() == b"id\ncaf\xe9.png\n"


def test_halves_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{files.UNFINISHED}0123.pt").write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"whole")
    files.remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["evaluate", "--embeddings", "E.npy", "--table", "T.csv", "--out"], "--out"),
        (["compare", "run", "--csv"], "--csv"),
        (["compare", "run", "--plot"], "--plot"),
        (["mix", "a.png", "--out"], "--out"),
        (["robustness", "run", "--out"], "--out"),
    ],
)
def test_doors_refuse_a_pipe_before_they_work(
    tmp_path: Path, words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert main([*words, str(pipe)]) == 2
    assert f"{option}: {pipe} is a named pipe (FIFO)" in capsys.readouterr().err
    assert kind(pipe) == stat.S_IFIFO


def test_results_are_not_written_over_what_they_are_made_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("id\n")
    Path("link.csv").symlink_to("table.csv")
    for word in ("table.csv", "./table.csv", str(tmp_path / "table.csv"), "link.csv", "data.path=table.csv"):
        with pytest.raises(InputError, match="--out: table.csv is read by this command"):
            files.refuse_overwriting([("--out", "table.csv")], [None, word])
    with pytest.raises(InputError, match="--out: new.npz is read"):
        files.refuse_overwriting([("--out", "new.npz")], ["new.npz#train"])
    with pytest.raises(InputError, match="--latex: ./new.csv is also where --csv goes"):
        files.refuse_overwriting([("--csv", "new.csv"), ("--latex", "./new.csv")], [])
    files.refuse_overwriting([("--csv", "new.csv"), ("--html", None)], ["table.csv", "data=images", "\0"])


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--embeddings", "E.npy", "--table", "t.csv", "--out", "t.csv"),
        ("index", "duplicates", "--embeddings", "E.npy", "--table", "d-labels.csv", "--out", "d.csv"),
        ("index", "tune", "--embeddings", "E.npy", "--table", "tuning.csv", "--out", "."),
        ("index", "search", "DIR", "--embeddings", "E.npy", "--table", "t.csv", "--out", "t.csv"),
        ("embed", "RUN", "table.csv", "--out", "."),
        ("compare", "RUN", "--csv", "same", "--markdown", "same"),
    ],
)
def test_doors_look_before_they_write_over_what_they_read(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "d-labels.csv", "tuning.csv", "table.csv"):
        Path(name).write_text("precious")
    assert main(list(words)) == 2
    told = capsys.readouterr().err
    assert "is read by this command" in told or "is also where" in told
    assert all(path.read_text() == "precious" for path in Path().glob("*.csv"))
