"""Which of many small faults the tests notice: each is put into a copy of the tree, and its tests are run.

    python benchmarks/mutations.py [--only 10:20] [--timeout 600]

A place (``mutations.yaml``) is a line of core code, the line that a slip would leave there, and the tests of its
module, not the whole suite: a fault that only some far test notices is hard to find. A run that fails or does not end
is a fault caught; one that passes is a survivor. A place whose line is no longer there is told, and counts as neither.
About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Place:
    """A fault and the tests that must notice it.

    Attributes:
        file: Below ``metrixkit``.
        old: Text that stands in it once.
        new: What stands there instead.
        tests: Below ``tests``, separated by blanks.
    """

    file: str
    old: str
    new: str
    tests: str


def places() -> list[Place]:
    """Read ``mutations.yaml``: for each list of tests the faults that they must notice."""
    listed = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return [Place(tests=group["tests"], **fault) for group in listed for fault in group["places"]]


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of the files under version control, which goes away afterwards."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for name in filter(None, listed.split("\0")):
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        yield Path(folder)


def passes(tree: Path, tests: str, timeout: float) -> bool:
    """Run tests in a tree; whether they passed. Such as do not end in time have not."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not gpu and not ddp",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    where = [str(tree / "tests" / name) for name in tests.split()]
    try:
        done = subprocess.run([*command, *where], cwd=tree, env=environment, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1, 2):  # 2: the fault breaks an import
        raise SystemExit(f"pytest ended with {done.returncode} on {tests}:\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 0


def main() -> None:
    """Print a line a place, and how many were caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=":", metavar="A:B", help="places A to B - 1, from 0")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the tests of a place")
    arguments = parser.parse_args()
    first, last = (int(part) if part else None for part in arguments.only.split(":"))
    caught, survived, gone = 0, [], []
    with copied() as tree:
        sound: dict[str, bool] = {}
        for number, place in list(enumerate(places()))[first:last]:
            told = f"{number:3d} {place.file}: {place.new.splitlines()[0]}"
            file = tree / "metrixkit" / place.file
            text = file.read_text(encoding="utf-8")
            if text.count(place.old) != 1:
                gone.append(told)
                print(f"gone      {told}", flush=True)
                continue
            if place.tests not in sound:
                sound[place.tests] = passes(tree, place.tests, arguments.timeout)
                if not sound[place.tests]:
                    raise SystemExit(f"{place.tests} fails without any fault")
            file.write_text(text.replace(place.old, place.new), encoding="utf-8")
            alive = passes(tree, place.tests, arguments.timeout)
            file.write_text(text, encoding="utf-8")
            caught += not alive
            if alive:
                survived.append(told)
            print(f"{'SURVIVED' if alive else 'caught':9s} {told}", flush=True)
    print(f"\n{caught} caught, {len(survived)} survived, {len(gone)} gone")


if __name__ == "__main__":
    main()
