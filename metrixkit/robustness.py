"""What a model is worth where modalities are missing.

``python -m metrixkit.robustness RUN``: every subset of the modalities, and seeded missing rates on queries, gallery and
both, of a finished run of task=missing-modality. Several runs of one setting (its seeds) become one table with
deviations over them. The masks that were drawn are written beside the result; ``--masks FILE`` asks another model the
very same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from metrixkit._doors import add_trust, run
from metrixkit.errors import InputError
from metrixkit.files import check_folder
from metrixkit.seeds import check_seed
from metrixkit.visible import say

T = TypeVar("T", int, float)


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished run folders")
    parser.add_argument(
        "--rates", default="0,0.2,0.4,0.6,0.8,1", help='missing rates in [0, 1], "" for none (default %(default)s)'
    )
    parser.add_argument("--seeds", default="0,1,2", help="of the drawn masks (default %(default)s)")
    parser.add_argument("--sides", default="query,gallery,both", help="which lose modalities (default %(default)s)")
    parser.add_argument("--masks", metavar="F.csv", help="masks from a file: id and 0 or 1 for each modality")
    parser.add_argument(
        "--fill", choices=("auto", "mean", "renormalized", "zeros", "mean_embedding"), help="instead of the run's own"
    )
    parser.add_argument("--split", help="default the test split")
    parser.add_argument("--out", metavar="DIR", help="default RUN/robustness, of several runs robustness")
    add_trust(parser)

    def work(options: argparse.Namespace) -> int:
        rates, seeds = _numbers(options.rates, float, "--rates"), _numbers(options.seeds, int, "--seeds")
        for seed in seeds:
            check_seed(seed, "--seeds")
        from metrixkit.judging.missing_runs import Trial, try_runs, write_trial

        trial = Trial(
            rates=rates,
            seeds=seeds,
            sides=tuple(filter(None, options.sides.split(","))),
            masks=Path(options.masks) if options.masks else None,
            fill=options.fill,
            split=options.split,
        )
        if options.out:
            check_folder(options.out, "--out")  # before the work and not after it
        result, masks = try_runs(options.runs, trial)
        out = Path(options.out or (Path(options.runs[0]) / "robustness" if len(options.runs) == 1 else "robustness"))
        files = write_trial(out, result, masks, "model" if len(options.runs) == 1 else f"{len(options.runs)} runs")
        say(result.to_markdown())
        say("\n".join(f"{title}: {path}" for title, path in files.items()))
        return 0

    return run("robustness", lambda: parser.parse_args(argv), work)


def _numbers(text: str, kind: Callable[[str], T], option: str) -> tuple[T, ...]:
    try:
        return tuple(kind(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{option} {text!r}: expected numbers with commas between, such as 0,0.5,1.") from None


if __name__ == "__main__":
    sys.exit(main())
