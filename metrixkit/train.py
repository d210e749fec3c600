"""Train an embedding from a config: ``python -m metrixkit.train CONFIG [key=value ...] [--run DIR] [--resume]``."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from metrixkit._doors import guarded


def run_name(config: str | Path, overrides: list[str]) -> str:
    """Return the folder name of a run: the config's name and what was changed, fit for a file system."""
    changes = [
        re.sub(r"[^A-Za-z0-9=.,+-]+", "_", change)
        for change in overrides
        if not change.startswith(("loader.", "data.root="))
    ]
    return "-".join([Path(config).stem, *changes])[:200]


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(prog="metrixkit train", description=__doc__, add_help=False)
    parser.add_argument("config", nargs="?", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the file")
    # torchrun takes every --run for an abbreviation of its own --run-path, hence the second name.
    parser.add_argument("--run", "--run-dir", metavar="DIR", help="run folder; default runs/CONFIG_NAME[-changes]")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in that folder from its last checkpoint"
    )
    parser.add_argument("--help", "-h", action="store_true", help="show this and every setting with its default")
    options = parser.parse_intermixed_args(argv)

    def work() -> int:
        from metrixkit import config as configs

        if options.help or options.config is None:
            parser.print_help()
            print()
            print(configs.help_text())
            return 0 if options.help else 2
        config = configs.load(options.config, options.overrides)
        from metrixkit.experiment import train

        train(config, options.run or Path("runs") / run_name(options.config, options.overrides), options.resume)
        return 0

    return guarded("train", work)


if __name__ == "__main__":
    sys.exit(main())
