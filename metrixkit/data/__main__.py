"""List the data sets, or check one.

``python -m metrixkit.data list``: which readers there are, and where their data was found.
``python -m metrixkit.data check cub classes=1-50``: a data set by name, with its settings.
``python -m metrixkit.data check FOLDER``: own images, a folder per class.
``python -m metrixkit.data check TABLE.csv root=photos columns.path=file columns.label=sku``: own images in a table.
``python -m metrixkit.data check captions table=TABLE.csv videos=clips``: own captions and videos.

Exit status of ``check``: 0 when all is well, 1 when it found problems, 2 when the data set cannot be read at all.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from metrixkit._doors import run
from metrixkit.visible import say


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="which data sets there are, and where they were found")
    checking = verbs.add_parser("check", help="counts, broken files, copies under two labels or in two splits")
    checking.add_argument("target", help="a data set's name, a folder of class folders, or a table")
    checking.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of the reader, such as classes=1-50"
    )
    checking.add_argument("--lists-only", action="store_true", help="compare lists; do not open the images")

    def work(options: argparse.Namespace) -> int:
        if options.verb == "list":
            return _list()
        return _check(options.target, options.settings, not options.lists_only)

    return run("data", lambda: parser.parse_args(argv), work)


def _list() -> int:
    from metrixkit.data import DATASETS
    from metrixkit.data.roots import data_roots, locate

    say(f"data roots (METRIXKIT_DATA): {os.pathsep.join(str(root.absolute()) for root in data_roots())}")
    for name, reader in DATASETS.items():
        about = (sys.modules[reader.__module__].__doc__ or "").strip().splitlines()[0]
        source = getattr(reader, "source", None)
        say(f"\n{name}\n  {about}")
        if source is not None:
            found = locate(source)
            say(f"  found at {found.absolute()}" if found else f"  not found; get it from {source.origin}")
            say(f"  layout: {source.card}")
    return 0


def _check(target: str, settings: Sequence[str], deep: bool) -> int:
    from metrixkit.data.check import check
    from metrixkit.data.check_pairs import check_pairs
    from metrixkit.data.pair_manifest import PairManifest
    from metrixkit.families import ANY, allow_code

    with allow_code(ANY):  # all of it was typed
        found = _reader(target, settings).read()
    report = check_pairs(found, deep=deep) if isinstance(found, PairManifest) else check(found, deep=deep)
    say(report.render())
    return 1 if report.problems else 0


def _reader(target: str, settings: Sequence[str]) -> Any:
    """Construct the reader that `target` and `settings` describe."""
    from typing import get_args

    from metrixkit import config as configs
    from metrixkit.data import DATASETS
    from metrixkit.data.kinds import DATA_SET
    from metrixkit.errors import InputError
    from metrixkit.families import lookup
    from metrixkit.schema import fields_of
    from metrixkit.source import node_of

    raw = {"data": node_of(target)}
    for setting in settings:
        if "=" not in setting.strip("="):
            raise InputError(f"{setting!r}: expected key=value, such as classes=1-50 or columns.label=sku.")
        # Keys may be copied from a config with their "data.".
        configs.apply_override(raw, f"data.{setting.removeprefix('data.')}")
    # Missing files are what a check is to report, not what it is to stop at.
    on_missing = fields_of(lookup(raw["data"]["name"], DATASETS, DATA_SET)).get("on_missing")
    if on_missing is not None:
        raw["data"].setdefault("on_missing", "blank" if "blank" in get_args(on_missing.annotation) else "drop")
    return configs.build(configs.resolve_sections(raw, ("data",)), "data")


if __name__ == "__main__":
    sys.exit(main())
