"""Train an embedding from a config.

``python -m metrixkit.train CONFIG [key=value ...] [--run DIR] [--resume]``: one run.
``python -m metrixkit.train CONFIG [key=value ...] --sweep seed=0,1,2 loss.weight=0.2,0.4``: all combinations, each in
its own folder and process. Finished runs are skipped and unfinished ones continued, so the same command goes on after
any stop; a run that fails does not stop the others. Values are YAML; one that holds a comma is quoted or bracketed
(loss.pairs=[a,b],[c] are two values).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from metrixkit._doors import run
from metrixkit.errors import InputError
from metrixkit.visible import say

LONGEST_NAME = 200


def run_name(config: str | Path, overrides: Sequence[str]) -> str:
    """Return the folder name of a run: the config's name and what was changed, fit for a file system.

    A name that grows too long is cut and ends in a digest of the whole, so that two long names stay two.
    """
    changes = [
        re.sub(r"[^A-Za-z0-9=.,+-]+", "_", change)
        for change in overrides
        if not change.startswith(("loader.", "data.root="))
    ]
    name = "-".join([Path(config).stem, *changes])
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metrixkit train",
        description=__doc__,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the file")
    # torchrun takes every --run for an abbreviation of its own --run-path, hence the second name.
    parser.add_argument(
        "--run",
        "--run-dir",
        metavar="DIR",
        help="run folder, default runs/CONFIG_NAME[-changes]; with --sweep the folder they all go into, default runs",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in that folder from its last checkpoint"
    )
    parser.add_argument(
        "--sweep", nargs="+", action="extend", metavar="key=v1,v2", help="run all combinations of these values"
    )
    parser.add_argument("--task", type=int, metavar="N", help="only the N-th run of the sweep, from 0 (job arrays)")
    parser.add_argument("--list", action="store_true", help="print the runs of the sweep with their states")
    parser.add_argument("--help", "-h", action="store_true", help="show this and every setting with its default")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = _parser()

    def work(options: argparse.Namespace) -> int:
        from metrixkit import config as configs

        if options.help or options.config is None:
            parser.print_help()
            print()
            print(configs.help_text())
            return 0 if options.help else 2
        if options.sweep:
            return _sweep(options)
        if options.task is not None or options.list:
            raise InputError("--task and --list are of a sweep: add --sweep key=v1,v2.")
        config = configs.load(options.config, options.overrides)
        from metrixkit.experiment import train

        train(config, options.run or Path("runs") / run_name(options.config, options.overrides), options.resume)
        return 0

    return run("train", lambda: parser.parse_intermixed_args(argv), work)


def _sweep(options: argparse.Namespace) -> int:
    from metrixkit import sweep

    runs = sweep.plan(options.config, options.overrides, options.sweep, options.run or "runs")
    chosen = sweep.choose(runs, options.task)
    if options.list:
        say(sweep.listing(chosen))
        return 0
    return sweep.execute(chosen, len(runs), say)


if __name__ == "__main__":
    sys.exit(main())
