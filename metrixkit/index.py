"""An index of embeddings that answers queries: ``python -m metrixkit.index VERB ...``.

  build MODEL [SOURCE...] --out DIR  embed images and index them; or --embeddings E.npy --table T.csv
  add DIR SOURCE...                  embed further images with the index's model; or --embeddings
  remove DIR --ids A,B               take items out
  search DIR QUERY...                nearest items of images or folders; or --text, --video, or --embeddings
  info DIR                           everything the index knows of itself
  threshold DIR --embeddings ...     set the score below which the answer is "no match"
  tune DIR                           kinds of index measured on its vectors; or --embeddings
  duplicates RUN                     near-duplicates and doubtful labels of a data set; or --embeddings

MODEL is a run folder, a model folder or a hub name; SOURCE folders, tables (products.csv) or image files, or data=NAME
with data.key=value, labelled and split as train and check see them; without SOURCE the run's own data, of which the
splits that are searched are taken (test, or query and gallery; --split chooses others). A model of texts and videos
indexes videos instead of images, and is searched by --text "..." and --video FILE.
Each change is a new version of DIR that appears whole; the version before stays. ``VERB --help`` tells more.
"""

from __future__ import annotations

import argparse
import sys

from metrixkit._doors import add_trust, run
from metrixkit.errors import did_you_mean
from metrixkit.seeds import seed_option
from metrixkit.visible import say

VERBS = ("build", "add", "remove", "search", "info", "threshold", "tune", "duplicates")


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: metrixkit index VERB ...\n\n{__doc__}")
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"metrixkit index: no verb is called {verb!r}.{did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2

    def work(options: argparse.Namespace) -> int:
        from metrixkit.indexing import verbs

        for line in getattr(verbs, verb)(options):
            say(line)
        return 0

    return run(f"index {verb}", lambda: _parser(verb).parse_intermixed_args(rest), work)


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"metrixkit index {verb}")
    add = parser.add_argument
    if verb == "build":
        add("model", nargs="?", help="a run folder, a model folder or a hub name; not with --embeddings")
        add("source", nargs="*", help="folders, tables, image files, or data=NAME with data.key=value; none: RUN's own")
        add(
            "--split",
            metavar="A[,B]",
            help="splits, or all; default all of a SOURCE, test or query,gallery of RUN's own",
        )
        add("--out", required=True, metavar="DIR", help="a new folder, or an index, which gets a new version")
        add("--factory", default="auto", help="kind of index, such as Flat, IVF1024,SQ8, HNSW32; default auto")
        add("--metric", default="cosine", help="cosine (default), dot or euclidean")
        add("--memory-budget", metavar="2GB", help="for auto: the most memory it may take")
        add("--latency-budget-ms", type=float, metavar="MS", help="for auto: the most one query may take")
        add("--seed", type=seed_option, default=0, help="of the training of lists and code books (default 0)")
    elif verb == "duplicates":
        add("run", nargs="?", help="a run folder: all splits of its data, embedded by its model")
        add("overrides", nargs="*", metavar="key=value", help="data and loader settings of the run")
        add("--threshold", type=float, default=0.98, help="cosine from which two items are one (default 0.98)")
        add("-k", type=int, default=5, help="neighbours that must all bear another label (default 5)")
        add("--out", metavar="D.csv", help="write the pairs there, and D-groups.csv and D-labels.csv beside")
    else:
        add("folder", nargs="?" if verb == "tune" else None, metavar="DIR", help="the index")
    if verb == "add":
        add("source", nargs="*", help="folders, tables and image files, or data=NAME and data.key=value")
        add("--replace", action="store_true", help="give new vectors to ids that are there already")
    if verb == "remove":
        add("--ids", metavar="A,B", help="ids, with commas between them")
        add("--file", metavar="IDS.txt", help="a file with an id a line")
        add("--compact", action="store_true", help="rebuild it without what is only marked as removed")
    if verb == "search":
        add("query", nargs="*", metavar="QUERY", help="images and folders of images")
        add("--text", action="append", metavar="TEXT", help="a text to search with, for models of texts and videos")
        add("--video", action="append", metavar="FILE", help="a video to search with, likewise; both may be repeated")
        add("-k", type=int, help="results of each query at most (default 10; with --radius all)")
        add("--radius", type=float, metavar="R", help="all items that score R at least, or lie within distance R")
        add("--threshold", metavar="SCORE", help="leave out results below it; default the index's own, none for none")
        add("--out", metavar="FILE", help="also write .csv or .json")
        add("--json", action="store_true", help="print JSON instead of a table")
        add("--panel", metavar="FILE.png", help="draw the queries and their results")
    if verb == "info":
        add("--json", action="store_true", help="print JSON instead of lines")
    if verb == "threshold":
        add("--false-match-rate", type=float, required=True, metavar="0.001", help="wanted share of false matches")
        add("--strangers", action="store_true", help="the embeddings are of things that are not in the index")
        add("--force", action="store_true", help="also store one that rejects more than half of the right answers")
    if verb == "tune":
        add("--queries", metavar="Q.npy", help="queries; default a sample of items, held out of the gallery")
        add("-k", type=int, default=10, help="neighbours asked for (default 10)")
        add("--factories", nargs="+", metavar="KIND", help="kinds to try; default some that suit the size")
        add("--metric", help="of --embeddings: cosine (default), dot or euclidean")
        add("--seed", type=seed_option, default=0, help="of the sample and of training (default 0)")
        add("--out", metavar="FOLDER", help="also write tuning.csv and tuning.png there")
        add("--set", metavar="nprobe=16", help="measure nothing; give DIR these search parameters")
    if verb in ("add", "search"):
        add("--model", help="the model, if it is not where it was when the index was built")
    if verb in ("build", "add", "search"):
        add("--batch-size", type=int, default=128, help="images a forward call (default 128)")
    if verb not in ("remove", "info"):
        add("--embeddings", metavar="E.npy", help="(N, d) array of embeddings made before")
        add("--table", metavar="T.csv", help="N rows: label, and optionally id, path, split")
        add("--label", default="label", metavar="COLUMN", help="the table's label column (default label)")
        add("--separator", metavar="CHARACTER", help="between the table's cells; default found out")
    add_trust(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
