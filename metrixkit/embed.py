"""Write embeddings of images: ``python -m metrixkit.embed MODEL SOURCE --out DIR``.

MODEL is a run folder, an exported model's folder, or a hub name. SOURCE is a folder (a folder per class, split folders
above them), a table (``products.csv columns.path=file``), image files, or a data set: ``data=cub [data.key=value
...]``; labels and splits are those that ``train`` and ``check`` see. Without SOURCE it is the run's own data, of which
the splits that are searched are taken: test, or query and gallery (--split chooses others; a named SOURCE is taken
whole). DIR gets ``embeddings.npy`` (N, d float32) and ``table.csv`` (row i tells of row i: id, path, label, split), the
pair that ``metrixkit evaluate --embeddings --table`` takes; with --parquet also ``embeddings.parquet`` (id, label,
path, split, vector), as vector databases read it. Of a model of several modalities SOURCE is a table with a column
``id`` and one for each modality, blank where it is missing; the column ``used`` says what each embedding rests on.
"""

from __future__ import annotations

import argparse
import sys

from metrixkit._doors import add_trust, run
from metrixkit.errors import InputError
from metrixkit.visible import say


def main(argv: list[str] | None = None) -> int:
    """Run the door; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="metrixkit embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run folder, a model folder, or a hub name")
    parser.add_argument(
        "source",
        nargs="*",
        help="folders, tables or image files with key=value, data=NAME with data.key=value; none: the run's own data",
    )
    parser.add_argument(
        "--split",
        metavar="A[,B]",
        help="splits to embed, or all; default all of a SOURCE, of a run's own data test, or query and gallery",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for embeddings.npy and table.csv")
    parser.add_argument("--batch-size", type=int, default=128, help="images a forward call (default 128)")
    parser.add_argument("--separator", metavar="CHARACTER", help="between cells of a table of several modalities")
    parser.add_argument("--parquet", action="store_true", help="also write embeddings.parquet (needs pyarrow)")
    add_trust(parser)

    def work(options: argparse.Namespace) -> int:
        from metrixkit.embedding.folder import embed_to_folder
        from metrixkit.embedding.parts import embed_table, is_multimodal

        if is_multimodal(options.model):
            if len(options.source) != 1 or options.parquet or options.split:
                raise InputError(
                    "of a model of several modalities, embed takes one table, and neither --parquet nor --split."
                )
            count, dim = embed_table(
                options.model, options.source[0], options.out, options.batch_size, options.separator
            )
            say(f"{count} embeddings of {dim} numbers: {options.out}/embeddings.npy, {options.out}/table.csv")
            return 0
        count, dim, said = embed_to_folder(
            options.model, options.source, options.out, options.batch_size, options.parquet, options.split
        )
        for line in said:
            say(line)
        more = f", {options.out}/embeddings.parquet" if options.parquet else ""
        say(f"{count} embeddings of {dim} numbers: {options.out}/embeddings.npy, {options.out}/table.csv{more}")
        return 0

    return run("embed", lambda: parser.parse_intermixed_args(argv), work)


if __name__ == "__main__":
    sys.exit(main())
