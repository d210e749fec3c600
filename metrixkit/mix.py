"""Look at mixing: ``python -m metrixkit.mix [--mixers A,B] [--run RUN] IMAGES... --out FILE.png``.

IMAGES are image files (mixed in their order: the first with the second), folders (pairs are drawn), or a data set:
``data=cub [data.key=value ...]``. The sheet has a row for each mixer and a column for each lambda, the share asked of
the first image: the mixture, its mask, and the share that its label must get. --curve draws the mean of masks over
lambda, --accuracy what the classifier of a run sees of both classes, --information how much a mixture tells of its
first image (MINE; it trains a network for each mixer, lambda and repeat, so name few mixers); all write their numbers
as CSV beside the picture.
"""

from __future__ import annotations

import argparse
import sys

from metrixkit._doors import add_trust, run
from metrixkit.errors import InputError
from metrixkit.files import check_file
from metrixkit.seeds import seed_option
from metrixkit.visible import say


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit mix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", metavar="IMAGES", help="files, folders, or data=NAME; none: those of RUN")
    parser.add_argument("--mixers", default="all", metavar="A,B", help="names with commas; default all that can be had")
    parser.add_argument("--lambdas", metavar="L,L", help="shares of the first image; default 0,0.25,0.5,0.75,1")
    parser.add_argument("--pairs", type=int, default=1, metavar="N", help="pairs on the sheet (default 1)")
    parser.add_argument("--measure", type=int, default=128, metavar="N", help="pairs behind a curve (default 128)")
    parser.add_argument("--seed", type=seed_option, default=0, help="of pairs, boxes, noise and coins (default 0)")
    parser.add_argument("--run", metavar="RUN", help="a run or model: its Mixer, saliency for puzzlemix, classifier")
    parser.add_argument("--size", type=int, metavar="S", help="side in pixels; default 128, or the model's if larger")
    parser.add_argument("--views", default="", metavar="A,B", help="of a learned Mixer: content,attention")
    parser.add_argument(
        "--position", default="0.5,0.5", metavar="Y,X", help="place whose attention is shown, as shares"
    )
    parser.add_argument("--out", metavar="FILE.png", help="the sheet; default mixed.png where nothing else is asked")
    parser.add_argument("--curve", metavar="FILE.png", help="mask mean over lambda")
    parser.add_argument("--accuracy", metavar="FILE.png", help="top-1 and top-2 on mixed images over lambda")
    parser.add_argument("--information", metavar="FILE.png", help="mutual information with the first image over lambda")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of each network of it (default 300)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="networks behind each point (default 3)")
    add_trust(parser)

    def work(options: argparse.Namespace) -> int:
        from metrixkit.sheets.make import Wanted, make

        if options.out is not None:
            check_file(options.out, "--out")  # before the work and not after it
        others = (options.curve, options.accuracy, options.information)
        alone = options.out is None and all(other is None for other in others)
        position = numbers("--position", options.position)
        if len(position) != 2:
            raise InputError(f"--position {options.position}: expected row,column as shares in [0, 1].")
        wanted = Wanted(
            sources=options.images,
            mixers=options.mixers,
            lambdas=None if options.lambdas is None else numbers("--lambdas", options.lambdas),
            pairs=options.pairs,
            measured=options.measure,
            seed=options.seed,
            run=options.run,
            size=options.size,
            views=[view.strip() for view in options.views.split(",") if view.strip()],
            position=(position[0], position[1]),
            out="mixed.png" if alone else options.out,
            curve=options.curve,
            accuracy=options.accuracy,
            information=options.information,
            steps=options.steps,
            repeats=options.repeats,
        )
        make(wanted, say)
        return 0

    return run("mix", lambda: parser.parse_intermixed_args(argv), work)


def numbers(name: str, text: str) -> list[float]:
    """Return the numbers of a list such as ``0,0.5,1``.

    Raises:
        InputError: A part is no number.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{name} {text}: expected numbers with commas between, such as 0,0.5,1.") from None


if __name__ == "__main__":
    sys.exit(main())
