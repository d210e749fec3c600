"""Compare runs: ``python -m metrixkit.compare RUN... [--csv F] [--markdown F] [--latex F] [--plot F.png]
[--html F.html]``.

RUN is a run folder, or a folder with runs anywhere below it. Runs that differ only in their seeds make one row, named
by the settings in which it differs from the other rows: mean, standard deviation and number. The others are measured
against the first row (or --against), with a paired bootstrap over queries.
"""

from __future__ import annotations

import argparse
import sys

from metrixkit._doors import run
from metrixkit.files import check_file, refuse_overwriting
from metrixkit.seeds import seed_option
from metrixkit.visible import say


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders that hold some")
    parser.add_argument(
        "--metrics",
        metavar="A,B",
        help="columns; default top-k, linear@k, knn@k where there are such, every recall@k, map@r and utilization",
    )
    parser.add_argument("--against", metavar="ROW", help="the reference row, by its name or a part of it")
    parser.add_argument(
        "--force", action="store_true", help="also compare other data, splits, protocols or queries, or a run twice"
    )
    parser.add_argument("--seed", type=seed_option, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--csv", metavar="FILE", help="full precision, with the run folders")
    parser.add_argument("--markdown", metavar="FILE", help="the tables in Markdown")
    parser.add_argument("--latex", metavar="FILE", help="the tables in LaTeX")
    parser.add_argument("--plot", metavar="FILE.png", help="means with error bars")
    parser.add_argument("--html", metavar="FILE.html", help="one self-contained page with all of it, and the runs")

    def work(options: argparse.Namespace) -> int:
        from metrixkit.comparison import compare
        from metrixkit.report.comparison import WRITERS, as_text
        from metrixkit.report.comparison_page import comparison_page
        from metrixkit.report.comparison_plot import comparison_plot
        from metrixkit.report.markup import write_text
        from metrixkit.training.run import command

        outputs = {kind: vars(options)[kind] for kind in (*WRITERS, "plot", "html")}
        for kind, target in outputs.items():
            if target:
                check_file(target, f"--{kind}")  # before the work and not after it
        refuse_overwriting(((f"--{kind}", target or None) for kind, target in outputs.items()), ())
        metrics = None if options.metrics is None else [m.strip() for m in options.metrics.split(",") if m.strip()]
        comparison = compare(options.runs, metrics, options.against, options.force, options.seed)
        say(as_text(comparison))
        for kind, write in WRITERS.items():
            if outputs[kind]:
                say(f"{kind}: {write_text(write(comparison), outputs[kind])}")
        if options.plot:
            say(f"plot: {comparison_plot(comparison, options.plot)}")
        if options.html:
            say(f"page: {comparison_page(comparison, options.html, command())}")
        return 0

    return run("compare", lambda: parser.parse_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
