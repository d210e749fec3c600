"""Evaluate a run, a model, or anybody's embeddings.

``python -m metrixkit.evaluate RUN [key=value ...]``: a run folder, on its own data and split.
``python -m metrixkit.evaluate MODEL data=cub [key=value ...]``: an exported model or a hub name, on any data set.
``python -m metrixkit.evaluate --embeddings E.npy --table T.csv``: embeddings made elsewhere; row i of the table tells
of row i of the array, in columns ``label`` and, where there are, ``id`` and ``split`` (query, gallery).
``python -m metrixkit.evaluate --text T.npy --video V.npy --pairs P.csv`` (or ``--similarity S.npy``, texts x videos):
retrieval between texts and videos in both directions; P.csv tells in its column ``video`` which video row i of T
belongs to, or with a column ``text`` which text the row tells of. Without --pairs the i-th belong together.
``python -m metrixkit.evaluate RUN --knn --linear``: what the frozen features of a model of images are worth, on the
run's own data or, with ``data=OTHER``, on another set: neighbours that vote, a linear classifier (``--linear moco`` and
others: as published, epochs long; ``linear.epochs=20`` and the like change them), fine-tuning on few labels (``--semi
1%``, ``semi.lr=1``), the intra-class similarity, a t-SNE picture. Of a self-supervised run, what its task reports. Of a
classification run, top-1 and top-5 of its classifier beside the retrieval.
``--group-by``, ``--verify``, ``--rerank``, ``--index`` and ``--factory`` go with images, ``--group-by video`` and
``--compat`` with texts and videos, whether a model made them or somebody.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from metrixkit._doors import add_trust, run
from metrixkit.visible import say


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("where", nargs="?", help="a run folder, a model folder, or a hub name")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="data, loader and evaluation settings")
    parser.add_argument(
        "--embeddings", metavar="E.npy", help="(N, d) array of embeddings: .npy, .npz, .pt, .safetensors"
    )
    parser.add_argument("--table", metavar="T.csv", help="N rows: label, and optionally id and split")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="the table's label column (default label)")
    parser.add_argument("--separator", metavar="CHARACTER", help="between cells of text tables; default found out")
    parser.add_argument("--split", help="the split to evaluate, or all; default test (or query against gallery)")
    parser.add_argument("--group-by", metavar="COLUMN", help="rank the groups of this column (products), not photos")
    parser.add_argument(
        "--verify", action="store_true", help="also tell how well a threshold decides: ROC, equal error rate, unknowns"
    )
    parser.add_argument(
        "--rerank",
        default="",
        metavar="A[,B]",
        help="rows after re-ranking: k_reciprocal, k_reciprocal_paper, alpha_qe; of texts and videos dual_softmax",
    )
    parser.add_argument("--index", metavar="DIR", help="also ask this index: recall through faiss, latency of a query")
    parser.add_argument("--factory", metavar="KIND", help="the same with an index built of the gallery (IVF256,SQ8)")
    parser.add_argument(
        "--linear",
        metavar="NAME",
        help="linear classification of frozen features: features (default; at hand, seconds), or the protocol of moco, "
        "clim, mixco, samix or byol (trained on crops)",
    )
    parser.add_argument(
        "--knn", metavar="K", type=int, help="classification by K training items that vote (default 200)"
    )
    parser.add_argument(
        "--semi", metavar="LIST|1%%", help="fine-tune on these labels: a file of ids, or a share of each class"
    )
    parser.add_argument("--tsne", metavar="FILE.png", help="draw some classes on a plane")
    parser.add_argument("--similarity-within", action="store_true", help="mean cosine of items of one class")
    parser.add_argument("--text", metavar="T.npy", help="(T, d) array of embeddings of texts")
    parser.add_argument("--video", metavar="V.npy", help="(V, d) array of embeddings of videos")
    parser.add_argument("--similarity", metavar="S.npy", help="(T, V) scores instead of embeddings")
    parser.add_argument("--pairs", metavar="P.csv", help="the video of each text: columns video and perhaps text")
    parser.add_argument(
        "--text-ids", metavar="FILE", help="ids of the texts; default T.txt or T.csv beside, or numbers"
    )
    parser.add_argument("--video-ids", metavar="FILE", help="ids of the videos, likewise")
    parser.add_argument("--protocol", metavar="NAME", help="published test set whose counts are enforced, such as 1k-A")
    parser.add_argument("--compat", metavar="NAME", help="clip4clip: count as that repository does")
    parser.add_argument("--out", metavar="FILE.json", help="also write the result there")
    add_trust(parser)

    def parse() -> argparse.Namespace:
        words = list(sys.argv[1:] if argv is None else argv)
        if {"--linear", "--knn"} & set(words):
            from metrixkit.judging.probes import complete

            words = complete(words)
        return parser.parse_intermixed_args(words)

    def work(options: argparse.Namespace) -> int:
        from metrixkit.errors import InputError
        from metrixkit.files import check_file, refuse_overwriting, write_json
        from metrixkit.judging import labelled
        from metrixkit.judging.extras import Extras
        from metrixkit.judging.pair_files import PairFiles
        from metrixkit.judging.pairs import pair_embeddings
        from metrixkit.judging.probes import Probes
        from metrixkit.report import format_table
        from metrixkit.report.roc import roc_curve

        rerank = tuple(filter(None, options.rerank.split(",")))
        files = PairFiles(
            options.text, options.video, options.similarity, options.pairs, options.text_ids, options.video_ids
        )
        overrides = [*([options.where] if options.where else []), *options.overrides]
        paired = files != PairFiles()
        if options.out:
            check_file(options.out, "--out")  # before the work and not after it
            refuse_overwriting(
                [("--out", options.out)], [*vars(files).values(), options.embeddings, options.table, options.semi]
            )
        if paired and (options.verify or options.index or options.factory):
            raise InputError("--verify, --index and --factory do not go with --text, --video or --similarity.")
        extras = Extras(options.group_by, options.verify, () if paired else rerank, options.index, options.factory)
        probes = Probes(options.linear, options.knn, options.semi, options.tsne, options.similarity_within)
        if probes.asked and (paired or options.embeddings or options.table):
            raise InputError(
                "--linear, --knn, --semi, --tsne and --similarity-within need a model of images and its training items."
            )
        if paired:
            result = pair_embeddings(
                files, overrides, options.protocol, options.compat, options.group_by, rerank, options.separator
            )
        elif options.protocol or (options.compat and (options.embeddings or options.table)):
            raise InputError("--protocol goes with --text and --video or --similarity, --compat with these or a model.")
        elif options.embeddings or options.table:
            result = labelled.embeddings(
                options.embeddings, options.table, options.label, options.split, overrides, extras, options.separator
            )
        else:
            result = labelled.model(options.where, options.split, options.overrides, extras, options.compat, probes)
        said, tables, picture = (result.pop(key) for key in ("said", "tables", "picture"))
        # Operating points stand in tables of their own, with their thresholds.
        ranked = {n: v for n, v in result["metrics"].items() if not n.startswith(("verify/", "open_set/"))}
        say("\n".join([*said, format_table(ranked), *tables]))
        if options.out:
            out = Path(options.out)
            write_json(out, result, "--out")
            say(f"result: {out}")
            if picture is not None:
                say(f"curve: {roc_curve(picture, out.with_suffix('.roc.png'))}")
        return 0

    return run("evaluate", parse, work)


if __name__ == "__main__":
    sys.exit(main())
