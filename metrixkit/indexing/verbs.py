"""What each verb of ``metrixkit index`` does with its options; each returns the lines to print."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from metrixkit.data.arrays import read_matrix
from metrixkit.data.tables import read_names
from metrixkit.embedding.images import kind_of_model, load_model
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.files import check_file, check_folder, refuse_overwriting
from metrixkit.indexing import build as builds
from metrixkit.indexing import duplicates as copies
from metrixkit.indexing import search as searches
from metrixkit.indexing import tune as tuning
from metrixkit.indexing.inputs import Given, from_files, from_images, open_model, refuse_other_model
from metrixkit.indexing.items import read_items
from metrixkit.indexing.kind import Kind
from metrixkit.indexing.shards import own_device
from metrixkit.indexing.videos import from_queries, from_videos
from metrixkit.models.pair_export import KINDS as PAIR_KINDS
from metrixkit.retrieval.index import RetrievalIndex, store

CLIPS = 32  # clips a forward call at most: a clip is many images


def build(options: argparse.Namespace) -> list[str]:
    """Build an index of images or of embeddings."""
    said: tuple[str, ...] = ()
    kind = Kind(options.factory, options.metric, options.memory_budget, options.latency_budget_ms, options.seed)
    if options.embeddings or options.table:
        if options.model:
            raise InputError(f"give either MODEL and SOURCE or --embeddings and --table, not both ({options.model}).")
        if options.split:
            raise InputError("--split belongs to MODEL and SOURCE; embeddings are indexed as they are.")
        given = from_files(options.embeddings, options.table, options.label, False, options.separator)
        index: RetrievalIndex | None = builds.build_from_embeddings(given, options.out, kind)
    elif options.model and kind_of_model(options.model) in PAIR_KINDS:
        builds.refuse_foreign(Path(options.out))
        model = load_model(options.model, own_device())
        assert isinstance(model, PairEmbeddingModel)  # by its kind
        given = from_videos(options.source, model, options.model, min(options.batch_size, CLIPS), options.split)
        said = given.said
        index = builds.build_from_embeddings(given, options.out, kind)
    elif options.model:
        index, said = builds.build_from_images(
            options.model, options.source, options.out, kind, options.batch_size, options.split
        )
    else:
        raise InputError("what is to be indexed? Give MODEL and SOURCE, or --embeddings E.npy --table T.csv.")
    return [] if index is None else [*said, _one_line(index, options.out)]


def add(options: argparse.Namespace) -> list[str]:
    """Add items."""
    given = _given(options, options.source, labelled=False)
    index, said = builds.add(options.folder, given, options.replace)
    return [*said, _one_line(index, options.folder)]


def remove(options: argparse.Namespace) -> list[str]:
    """Remove items."""
    ids = [name.strip() for name in (options.ids or "").split(",") if name.strip()]
    if options.file:
        ids += read_names(Path(options.file), "--file")
    if not ids and not options.compact:
        raise InputError("which items? Give --ids A,B or --file IDS.txt with an id a line (or --compact alone).")
    index, said = builds.remove(options.folder, ids, options.compact)
    return [*said, _one_line(index, options.folder)]


def search(options: argparse.Namespace) -> list[str]:
    """Search, and tell, write and draw the results."""
    # Where results go is looked at before the work, here and below, and not after it.
    if options.out:
        searches.answers_file(options.out)
    if options.panel:
        check_file(options.panel, "--panel")
    refuse_overwriting(
        [("--out", options.out), ("--panel", options.panel)],
        [options.embeddings, options.table, *options.query, *(options.video or ())],
    )
    index = RetrievalIndex.load(options.folder)
    if options.radius is not None and options.threshold is not None:
        raise InputError("give either --radius or --threshold: both say which results are near enough.")
    threshold = _threshold(options.threshold if options.radius is None else "none", index)
    given = _given(options, options.query, labelled=False, index=index)
    answers, said = searches.search(index, options.folder, given, options.k, threshold, options.radius)
    if options.json:
        lines = [searches.as_json(answers)]
    else:
        limit = []
        if threshold is not None:
            limit = [f"results below {threshold:.4f} are left out{_rejects(threshold, index)}"]
        lines = [searches.as_text(answers), *limit, *said]
    written = [f"results: {searches.write_answers(answers, options.out)}"] if options.out else []
    if options.panel:
        path, missing = searches.draw_answers(answers, options.panel, threshold)
        written += [f"panel: {path}", *missing]
    return lines if options.json else [*lines, *written]


def info(options: argparse.Namespace) -> list[str]:
    """Tell everything the index knows."""
    index = RetrievalIndex.load(options.folder)
    known = index.info()
    folder = Path(options.folder)
    manifest = store.read_manifest(folder, known["version"])
    known |= {name: manifest[name] for name in ("saved", "versions", "files") if name in manifest}
    known["saved_versions"] = ", ".join(store.versions(folder))
    items = read_items(folder)
    known["items_with_a_path"] = len(set(items["id"][items["path"] != ""]) & set(index.ids.tolist()))
    if options.json:
        return [json.dumps(known, indent=2, ensure_ascii=False)]
    lines = []
    for name, value in known.items():
        inner = value.items() if isinstance(value, dict) and value else [("", value)]
        lines += [f"{f'{name}.{key}' if key else name:36} {_told(item)}" for key, item in inner]
    return lines


def threshold(options: argparse.Namespace) -> list[str]:
    """Set the score of a match on validation embeddings."""
    given = from_files(options.embeddings, options.table, options.label, not options.strangers, options.separator)
    found = builds.set_threshold(
        options.folder, given, options.false_match_rate, options.strangers, options.force
    ).threshold
    if found is None:
        raise RuntimeError("the index was saved without the threshold that was just set")
    lines = [
        f"threshold {found.value:.4f}: {100 * found.measured_false_match_rate:.3g} % of {found.impostors} queries "
        f"without a counterpart are matched (wanted {100 * found.false_match_rate:.3g} %)"
    ]
    if found.false_rejection_rate is None:
        lines.append(
            "how many right answers it rejects is not known: the index has no two items of one label; set it on "
            "labelled embeddings (--table) instead of --strangers to know"
        )
    else:
        lines.append(
            f"it rejects {100 * found.false_rejection_rate:.1f} % of the right answers, of {found.genuine} queries "
            "with a counterpart"
        )
    if found.source == "validation":
        lines.append(
            f"set among {found.gallery} validation items; a larger index offers strangers more chances, and "
            "--strangers sets it on the index itself"
        )
    return lines


def tune(options: argparse.Namespace) -> list[str]:
    """Measure kinds of index, or set search parameters."""
    if options.set:
        if not options.folder:
            raise InputError("--set belongs to an index: metrixkit index tune DIR --set nprobe=16.")
        return [f"{options.folder}: {builds.set_parameters(options.folder, options.set)}"]
    if options.out:
        folder = check_folder(options.out, "--out")
        refuse_overwriting(
            [("--out", folder / tuning.TABLE), ("--out", folder / tuning.PLOT)],
            [options.embeddings, options.table, options.queries],
        )
    own: list[str] = []
    if options.embeddings:
        if options.folder:
            raise InputError("give either an index or --embeddings, not both.")
        given = from_files(options.embeddings, options.table, options.label, False, options.separator)
        metric = options.metric or "cosine"
    elif options.folder:
        given, metric, factory = tuning.gallery_of(options.folder)
        if options.metric not in (None, metric):
            raise InputError(f"--metric {options.metric}: {options.folder} is an index by {metric}.")
        own = [factory]
    else:
        raise InputError("tune what? Give an index, or --embeddings E.npy.")
    if options.queries:
        queries, how = read_matrix(options.queries, "--queries"), f"queries of {options.queries}"
    else:
        given, queries = tuning.held_out(given, tuning.QUERIES, options.seed)
        how = f"items held out of the gallery (seed {options.seed})"
    count, dim = given.vectors.shape
    kinds = options.factories or [*own, *tuning.usual_factories(count, dim)]
    found = tuning.tune(given, queries, options.k, tuning.settings_for(kinds, count, dim), metric, options.seed)
    title = f"{count:,} x {dim}, {len(queries):,} {how}"
    lines = [title, tuning.as_text(found)]
    if options.out:
        table, plot = tuning.write_tuning(found, options.out, f"{count:,} x {dim}, {metric}")
        lines += [f"table: {table}", f"plot: {plot}"]
    return lines


def duplicates(options: argparse.Namespace) -> list[str]:
    """Find near-duplicates and doubtful labels."""
    if options.out:
        places = copies.table_files(options.out)
        refuse_overwriting(
            [("--out", path) for path in places],
            [options.embeddings, options.table, *options.overrides],
        )
    if options.embeddings or options.table:
        given = from_files(options.embeddings, options.table, options.label, separator=options.separator)
    elif options.run:
        given = copies.from_run(options.run, options.overrides)
    else:
        raise InputError("of what? Give a run folder, or --embeddings E.npy --table T.csv.")
    found = copies.duplicate_pairs(given, options.threshold)
    doubtful, alone = copies.suspects(given, options.k)
    lines = copies.summary(found, doubtful, alone, len(given.items), options.threshold, options.k)
    if options.out:
        lines += [f"written: {path}" for path in copies.write_tables(found, doubtful, options.out)]
    return lines


def _given(
    options: argparse.Namespace, source: list[str], labelled: bool, index: RetrievalIndex | None = None
) -> Given:
    """Return the embeddings of the command line, or those of its images, texts or videos by the index's model."""
    texts, videos = getattr(options, "text", None) or [], getattr(options, "video", None) or []
    if options.embeddings or options.table:
        if source or texts or videos:
            raise InputError(f"give either queries or --embeddings, not both ({[*source, *texts, *videos][0]}).")
        return from_files(options.embeddings, options.table, options.label, labelled, options.separator)
    if not source and not texts and not videos:
        raise InputError("give images, folders of images, --text, --video, or --embeddings E.npy.")
    index = RetrievalIndex.load(options.folder) if index is None else index
    model, where = open_model(options.model, index.notes.get("model"), options.folder)
    # Before the images are embedded, not after it.
    refuse_other_model(index.model_fingerprint, model.fingerprint, options.folder)
    if isinstance(model, PairEmbeddingModel):
        if source and not hasattr(options, "text"):  # to be added
            return from_videos(source, model, where, min(options.batch_size, CLIPS))
        if source:
            raise InputError(f"the model {where} embeds texts and videos: ask by --text or --video, not by images.")
        return from_queries(texts, videos, model, where)
    if texts or videos:
        raise InputError(f"the model {where} embeds images; --text and --video need a model with towers for them.")
    return from_images(source, model, where, options.batch_size)


def _rejects(threshold: float, index: RetrievalIndex) -> str:
    """Return what is known of the right answers that the index's own threshold rejects, else ""."""
    own = index.threshold
    if own is None or own.value != threshold or own.false_rejection_rate is None:
        return ""
    return f", and so are {100 * own.false_rejection_rate:.1f} % of the right answers it was set on"


def _threshold(text: str | None, index: RetrievalIndex) -> float | None:
    if text is None:
        return None if index.threshold is None else index.threshold.value
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--threshold {text}: expected a score, or none.") from None


def _one_line(index: RetrievalIndex, folder: str) -> str:
    known = index.info()
    size = known["bytes"] / 1e6
    dead = f", {known['tombstones']} removed ones still in it" if known["tombstones"] else ""
    return (
        f"{folder} {known['version']}: {known['count']} items x {known['dim']}, {known['factory']}, {known['metric']}, "
        f"{size:.1f} MB{dead}"
    )


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items()) or "-"
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
