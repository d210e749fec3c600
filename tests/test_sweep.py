"""Sweeps: which runs, in which folders, in which order, and what happens when one fails or all are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from metrixkit import compare, config, sweep, train
from metrixkit.errors import InputError

TINY = [
    "data.train_classes=40", "data.test_classes=20", "sampler.batch_size=40", "sampler.m=4", "model.dim=32",
    "training.epochs=1", "training.accelerator=cpu", "training.tensorboard=false", "loader.workers=0",
    "evaluation.recall_at=[1,2]",
]  # fmt: skip


@pytest.fixture
def glyphs(repository: Path) -> Path:
    return repository / "configs/glyphs_metrix.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=0,1,2", ("seed", ["0", "1", "2"])),
        ("optimizer.lr=1e-3, 3.0e-5", ("optimizer.lr", ["1e-3", "3.0e-5"])),
        ("loss.pairs=[a,b],[c]", ("loss.pairs", ["[a,b]", "[c]"])),
        ('data.classes="1,2",3', ("data.classes", ['"1,2"', "3"])),
        ("loss=own:Loss,{name: triplet, margin: 0.3},null", ("loss", ["own:Loss", "{name: triplet, margin: 0.3}", "null"])),
        ("loss.weight=0.2", ("loss.weight", ["0.2"])),
    ],
)  # fmt: skip
def test_values_are_cut_at_outer_commas_and_keep_their_text(text: str, expected: tuple[str, list[str]]) -> None:
    assert sweep.read_values(text) == expected


@pytest.mark.parametrize(
    "text", ["seed", "seed=", "=1,2", "seed=0,,1", "loss.pairs=[a,b", "configs/glyphs_metrix.yaml"]
)
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--sweep"):
        sweep.read_values(text)


def test_the_product_is_named_as_runs_by_hand(glyphs: Path, tmp_path: Path) -> None:
    runs = sweep.plan(glyphs, ["training.epochs=2"], ["seed=0,1", "loss=contrastive,proxy_anchor"], tmp_path)
    assert [(r.config["seed"], r.config["loss"]["name"]) for r in runs] == [
        (0, "contrastive"), (0, "proxy_anchor"), (1, "contrastive"), (1, "proxy_anchor"),
    ]  # fmt: skip
    assert all(r.config["training"]["epochs"] == 2 for r in runs)
    by_hand = ["training.epochs=2", "seed=1", "loss=contrastive"]
    assert runs[2].folder == tmp_path / train.run_name(glyphs, by_hand)
    assert runs[2].config == config.load(glyphs, by_hand)
    listed = sweep.plan(glyphs, [], ["evaluation.recall_at=[1,2],[1]"], tmp_path)
    assert [r.config["evaluation"]["recall_at"] for r in listed] == [[1, 2], [1]]


def test_long_names_are_cut_and_stay_apart() -> None:
    long = [f"data.key{i}=value" for i in range(30)]
    one, two = train.run_name("a.yaml", [*long, "seed=1"]), train.run_name("a.yaml", [*long, "seed=2"])
    assert one != two
    assert len(one) == len(two) == 200
    assert train.run_name("configs/a.yaml", ["loss.pairs=[a,b]", "loader.workers=3"]) == "a-loss.pairs=_a,b_"


@pytest.mark.parametrize(
    ("fixed", "swept", "words"),
    [
        ([], ["loss.loss=contrastive,proxy_ancor"], ["loss.loss=proxy_ancor", "'proxy_anchor'"]),
        ([], ["seed=0,1", "loss.wieght=1,2"], ["seed=0 loss.wieght=1", "'weight'"]),
        (["seed=3"], ["seed=0,1"], ["seed is set twice"]),
        ([], ["seed=0", "seed=1"], ["seed is set twice"]),
        (["loss.weight=1"], ["loss=contrastive,metrix"], ["would undo loss.weight", "behind loss="]),
        ([], ["loss.weight=1,2", "loss=contrastive"], ["would undo loss.weight"]),
        ([], ["loss.weight=0.2,0.20"], ["are the same run"]),
        ([], ["loader.workers=0,1"], ["share the folder", "loader.*"]),
        ([], ["data.root=a,b"], ["data.root"]),
    ],
)
def test_mistakes_are_answered_before_anything_runs(
    glyphs: Path, tmp_path: Path, fixed: list[str], swept: list[str], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        sweep.plan(glyphs, fixed, swept, tmp_path)
    for word in words:
        assert word in str(caught.value)


def leave(run: sweep.Planned, *files: str) -> None:
    """Make a run folder as a run with these settings leaves it."""
    (run.folder / "checkpoints").mkdir(parents=True)
    config.save(run.config, run.folder / "config.yaml")
    for name in files:
        (run.folder / name).write_text("{}")


def test_states_and_their_list(glyphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sweep.plan(glyphs, [], ["seed=0,1,2,3,4"], tmp_path)
    leave(runs[0], "results.json", "report.html")
    leave(runs[1], "checkpoints/last.pt")
    leave(runs[2])
    leave(runs[3], "results.json")
    saved = runs[3].folder / "config.yaml"
    saved.write_text(saved.read_text().replace("epochs: 5", "epochs: 7"))
    assert [run.state()[0] for run in runs] == ["finished", "unfinished", "new", "other settings", "new"]
    command = [str(glyphs), "--run", str(tmp_path), "--sweep", "seed=0,1,2,3,4"]
    assert train.main([*command, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["0", "finished"], ["1", "unfinished"], ["2", "new"]]
    assert "training.epochs: 7 -> 5" in lines[3]
    with pytest.raises(InputError, match=r"other settings \(training.epochs: 7 -> 5\)"):
        sweep.execute(sweep.choose(runs, None), 5, print, worker(FINISH))
    assert runs[1].state() == ("unfinished", "")  # refused before anything started
    # What changes no number may differ, and what the file of an older version lacks stands at its default.
    older = yaml.safe_load((runs[0].folder / "config.yaml").read_text())
    older["loader"]["workers"] = 7
    del older["evaluation"]["neighbours"]
    (runs[0].folder / "config.yaml").write_text(yaml.safe_dump(older))
    assert runs[0].state() == ("finished", "")


def test_a_task_is_one_run(glyphs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(glyphs), "--run", str(tmp_path), "--sweep", "seed=0,1", "loss.weight=0.2,0.4", "--list"]
    assert train.main([*command, "--task", "2"]) == 0
    assert "seed=1-loss.weight=0.2" in capsys.readouterr().out
    for wrong in ("4", "-1"):
        assert train.main([*command, "--task", wrong]) == 2
        assert "the sweep has 4 runs, numbered 0 to 3" in capsys.readouterr().err
    assert train.main([str(glyphs), "--task", "0"]) == 2
    assert "add --sweep" in capsys.readouterr().err


def worker(code: str) -> Callable[[sweep.Planned, bool], list[str]]:
    """Return a stand-in for the training process; it gets the run folder, the seed and whether it continues."""
    return lambda run, resume: [
        sys.executable, "-c", code, str(run.folder), str(run.config["seed"]), str(int(resume)),
    ]  # fmt: skip


START = "import os, pathlib, signal, sys, time; folder, seed, resume = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
FINISH = START + "folder.mkdir(exist_ok=True); (folder / 'results.json').write_text(resume)\n"
FINISH += "(folder / 'report.html').touch()\n"


def test_a_failing_run_does_not_stop_the_others(glyphs: Path, tmp_path: Path) -> None:
    runs = sweep.plan(glyphs, [], ["seed=0,1,2,3"], tmp_path)
    said: list[str] = []
    code = START + "if seed == '1': sys.exit(3)\nif seed == '2': os.kill(os.getpid(), signal.SIGKILL)\n" + FINISH
    assert sweep.execute(sweep.choose(runs, None), 4, said.append, worker(code)) == 1
    assert [run.state()[0] for run in runs] == ["finished", "new", "new", "finished"]
    assert "2 done, 0 finished before, 2 failed" in said[-3]
    assert "[1] failed with status 3" in said[-2]
    assert "[2] killed by SIGKILL" in said[-1]
    # The next start does what is left, and only that: had it run seed 0 again, the file would say "0" again.
    (runs[0].folder / "results.json").write_text("kept")
    leave(runs[2], "checkpoints/last.pt")
    assert sweep.execute(sweep.choose(runs, None), 4, said.append, worker(FINISH)) == 0
    assert [(run.folder / "results.json").read_text() for run in runs] == ["kept", "0", "1", "0"]


def test_a_run_under_way_elsewhere_is_left_to_it(glyphs: Path, tmp_path: Path) -> None:
    runs = sweep.plan(glyphs, [], ["seed=0,1"], tmp_path)
    runs[0].folder.mkdir()
    # Another process, for the locks of one process do not keep it out itself.
    other = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib; from metrixkit.training.lock import FolderLock; "
         "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()", runs[0].folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == b"held\n"  # type: ignore[union-attr]
        said: list[str] = []
        code = START + "if seed == '0': sys.exit(2)\n" + FINISH
        assert sweep.execute(sweep.choose(runs, None), 2, said.append, worker(code)) == 0
        assert "[0] left to the other training" in "\n".join(said)
        assert said[-1] == "sweep: 1 done, 0 finished before, 0 failed, 1 left to other processes"
    finally:
        other.communicate()
    assert sweep.execute(sweep.choose(runs, None), 2, said.append, worker(code)) == 1  # nobody holds it any more


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize(
    ("number", "ignored"),
    [
        (signal.SIGTERM, []),
        (signal.SIGINT, []),
        (signal.SIGTERM, [signal.SIGINT, signal.SIGHUP]),  # as started by nohup in the background
        (signal.SIGTERM, [signal.SIGTERM]),
    ],
)
def test_a_stop_reaches_the_run_and_no_further_one_starts(
    glyphs: Path, tmp_path: Path, number: signal.Signals, ignored: list[signal.Signals]
) -> None:
    for each in ignored:
        signal.signal(each, signal.SIG_IGN)
    runs = sweep.plan(glyphs, [], ["seed=0,1"], tmp_path)
    code = START + (
        "def save(*_): (folder / 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); folder.mkdir(); (folder / 'group').write_text(str(os.getpgrp()))\n"
        "(folder / 'up').touch(); time.sleep(60)\n"
    )
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def ask() -> None:
        while not (runs[0].folder / "up").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    said: list[str] = []
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    assert sweep.execute(sweep.choose(runs, None), 2, said.append, worker(code)) == 128 + number
    asking.join()
    assert (runs[0].folder / "saved").exists()
    # Ctrl-C at a terminal goes to the whole group, and would end the run before it is asked.
    assert int((runs[0].folder / "group").read_text()) != os.getpgrp()
    assert not runs[1].folder.exists()
    assert not any(line.startswith("[1]") for line in said)
    assert f"stopped by {number.name}" in said[-1]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def test_torchrun_is_refused(glyphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    runs = sweep.plan(glyphs, [], ["seed=0"], tmp_path)
    with pytest.raises(InputError, match=r"training\.devices=N"):
        sweep.execute(sweep.choose(runs, None), 1, print, worker(FINISH))


def door(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "metrixkit.train", *words], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.slow
def test_a_sweep_on_glyphs_by_the_door(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["configs/glyphs_metrix.yaml", *TINY, "--run", str(tmp_path), "--sweep", "seed=0,1"]
    done = door(repository, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("before training, on the test split") == 2  # what runs print goes through
    assert "2 done, 0 finished before, 0 failed" in done.stdout
    folders = sorted(tmp_path.iterdir())
    assert [json.loads((f / "results.json").read_text())["seed"] for f in folders] == [0, 1]
    # In this process and in no time: both are finished.
    assert train.main([str(repository / command[0]), *command[1:]]) == 0
    assert "0 done, 2 finished before" in capsys.readouterr().out
    assert compare.main([str(tmp_path)]) == 0
    table = capsys.readouterr().out.splitlines()
    row = next(line for line in table if line.startswith(folders[0].name.removesuffix("-seed=0"))).split()
    values = [json.loads((f / "results.json").read_text())["metrics"]["recall@1"] for f in folders]
    assert row[1] == "2"
    assert float(row[2]) == pytest.approx(50 * sum(values), abs=0.051)


@pytest.mark.slow
@pytest.mark.usefixtures("usual_signals")
def test_a_stopped_sweep_continues_where_it_stood(repository: Path, tmp_path: Path) -> None:
    settings = [s for s in TINY if not s.startswith("training.epochs")]
    settings += ["training.epochs=12", "training.log_every=1", "evaluation.every=12"]
    command = ["configs/glyphs_metrix.yaml", *settings, "--run", str(tmp_path), "--sweep", "seed=0,1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "metrixkit.train", *command],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            logs = list(tmp_path.glob("*/metrics.jsonl"))
            if logs and len(logs[0].read_bytes().splitlines()) >= 8:
                break
            time.sleep(0.01)
        process.terminate()
        assert process.wait() == 143
    finally:
        process.kill()
    assert (next(tmp_path.iterdir()) / "checkpoints/last.pt").exists()
    done = door(repository, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[0] continuing" in done.stdout
    assert "continuing after step" in done.stdout
    assert "[1] starting" in done.stdout
