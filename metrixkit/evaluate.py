"""Evaluate a run, a model, or anybody's embeddings.

``python -m metrixkit.evaluate RUN [key=value ...]``: a run folder, on its own data and split.
``python -m metrixkit.evaluate MODEL data=cub [key=value ...]``: an exported model or a hub name, on any data set.
``python -m metrixkit.evaluate --embeddings E.npy --table T.csv``: embeddings made elsewhere; row i of the table tells
of row i of the array, in columns ``label`` and, where there are, ``id`` and ``split`` (query, gallery).
"""

from __future__ import annotations

import argparse
import sys

from metrixkit._doors import guarded


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where", nargs="?", help="a run folder, a model folder, or a hub name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data, loader and evaluation settings")
    parser.add_argument("--embeddings", metavar="E.npy", help="(N, d) array of somebody else's embeddings")
    parser.add_argument("--table", metavar="T.csv", help="N rows: label, and optionally id and split")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="the table's label column (default label)")
    parser.add_argument("--split", help="the split to evaluate; default the test split (or query against gallery)")
    parser.add_argument("--out", metavar="FILE.json", help="also write the result there")
    options = parser.parse_intermixed_args(argv)

    def work() -> int:
        from metrixkit import judge
        from metrixkit.report import format_table
        from metrixkit.training.run import write_json

        if options.embeddings or options.table:
            overrides = [*([options.where] if options.where else []), *options.overrides]
            result = judge.embeddings(options.embeddings, options.table, options.label, options.split, overrides)
        else:
            result = judge.model(options.where, options.split, options.overrides)
        for line in result["said"]:
            print(line)
        print(format_table(result["metrics"]))
        if options.out:
            from pathlib import Path

            write_json(Path(options.out), {key: value for key, value in result.items() if key != "said"})
            print(f"result: {options.out}")
        return 0

    return guarded("evaluate", work)


if __name__ == "__main__":
    sys.exit(main())
