"""Evaluation of retrieval between texts and videos outside of training: a saved model, or anybody's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrixkit import config as configs
from metrixkit.data.arrays import read_matrix
from metrixkit.data.loader import default_workers
from metrixkit.embedding.pairs import PairEmbeddingModel
from metrixkit.errors import InputError
from metrixkit.jobs.pairs import check_modality, read_pairs
from metrixkit.judging.pair_files import (
    PairFiles,
    check_protocol,
    pair_shape,
    read_pair_table,
    read_row_ids,
)
from metrixkit.retrieval.crossmodal import CrossModal, crossmodal
from metrixkit.retrieval.rerank import dual_softmax
from metrixkit.schema import check_value, instantiate
from metrixkit.tasks.crossmodal import (
    CrossModalSettings,
    CrossModalTask,
    counts_of,
    recall_intervals,
    refuse_one_video,
    with_rsum,
)
from metrixkit.training.run import command, versions


def pair_embeddings(
    files: PairFiles,
    overrides: Sequence[str] = (),
    protocol: str | None = None,
    compat: str | None = None,
    group_by: str | None = None,
    rerank: Sequence[str] = (),
    separator: str | None = None,
) -> dict[str, Any]:
    """Evaluate embeddings or scores of texts and videos.

    The table of pairs has a column ``video`` (or ``video_id``): an id of a video, or its row. With a column ``text``
    (or ``text_id``) a row tells of that text, each exactly once; without, row i tells of text i. Where videos have
    names and nothing names the rows of V, these are taken in the order in which the table first mentions them.

    Args:
        files: See there.
        overrides: ``evaluation.key=value``, as for task=crossmodal.
        protocol: A name of :data:`~metrixkit.judging.pair_files.PROTOCOLS`, whose counts are enforced.
        compat: "clip4clip", or None.
        group_by: "video", or None.
        rerank: "dual_softmax", for further rows ``rerank/dual_softmax/...``; or nothing.
        separator: Between the cells of a text table; None is found out.

    Returns:
        As :func:`metrixkit.judging.labelled.embeddings`.

    Raises:
        InputError: A file is absent or no such file, counts do not fit, NaN, a text twice or without its video.
    """
    for name in rerank:
        if name != "dual_softmax":
            raise InputError(f"--rerank {name!r} does not apply to texts and videos; dual_softmax does.")
    settings = pair_settings(overrides, compat, group_by)
    given = {"text": files.text, "video": files.video, "similarity": files.similarity}
    arrays = {name: None if file is None else read_matrix(file, f"--{name}") for name, file in given.items()}
    shape = pair_shape(arrays)
    if protocol is not None:
        check_protocol(protocol, *shape)
    text_ids = read_row_ids(files.text_ids, files.text, shape[0], "--text-ids")
    video_ids = read_row_ids(files.video_ids, files.video, shape[1], "--video-ids")
    said = [f"{shape[0]:,} texts and {shape[1]:,} videos"]
    of_text: list[str] | None = None
    if files.pairs is not None:
        of_text, video_ids, note = read_pair_table(Path(files.pairs), text_ids, video_ids, shape, separator)
        said += [note] if note else []
    refuse_one_video(range(shape[0]) if of_text is None else of_text, "--pairs")
    found = crossmodal(
        arrays["text"],
        arrays["video"],
        of_text,
        arrays["similarity"],
        tuple(settings.recall_at),
        settings.compat,
        text_ids,
        video_ids,
        settings.group_by,
    )
    source = {name: value for name, value in vars(files).items() if value is not None}
    result = _result(with_rsum(found, settings.recall_at), settings, protocol or "table", said, source)
    if rerank:
        scores = _scores(arrays)
        # Each direction normalises over its own queries.
        for way, similarity in (("t2v", dual_softmax(scores)), ("v2t", dual_softmax(scores.T).T)):
            again = crossmodal(
                None, None, of_text, similarity, tuple(settings.recall_at), settings.compat, text_ids, video_ids,
                settings.group_by,
            )  # fmt: skip
            result["metrics"] |= {f"rerank/dual_softmax/{n}": v for n, v in again.items() if n.startswith(way)}
        result["definitions"]["rerank/dual_softmax"] = DUAL_SOFTMAX
        said.append(f"rerank/dual_softmax: {DUAL_SOFTMAX}")
    return result


DUAL_SOFTMAX = (
    "After dual softmax at temperature 0.01, which sees all queries at once and takes each item to belong "
    "to few of them."
)


def _scores(arrays: Mapping[str, Any]) -> np.ndarray:
    """Return the (texts, videos) float64 similarities: those given, or the cosines of both sides."""
    if arrays["similarity"] is not None:
        return np.asarray(arrays["similarity"], dtype=np.float64)
    sides = [np.asarray(arrays[name], dtype=np.float64) for name in ("text", "video")]
    text, video = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return np.asarray(text @ video.T)


def pair_model(
    embedder: PairEmbeddingModel,
    where: str,
    raw: dict[str, Any],
    split: str | None,
    compat: str | None = None,
    group_by: str | None = None,
) -> dict[str, Any]:
    """Evaluate a saved model of texts and videos.

    Args:
        embedder: The model.
        where: Where it was loaded from.
        raw: Sections data, loader, evaluation, as a run has them or by overrides.
        split: Split of the data set; None for the test split.
        compat: "clip4clip", or None for what the settings say.
        group_by: "video", likewise.

    Returns:
        As :func:`metrixkit.judging.labelled.embeddings`.

    Raises:
        InputError: Bad settings or data, or no such split.
    """
    settings = _settings(raw.get("evaluation") or {}, compat, group_by)
    config = configs.resolve_sections({k: v for k, v in raw.items() if k != "evaluation"}, ("seed", "data", "loader"))
    manifest = read_pairs({**config, "evaluation": vars(settings), "task": "crossmodal"})
    kind, workers = check_modality(manifest, embedder.model.modality), config["loader"]["workers"]
    task = CrossModalTask(
        manifest,
        embedder.model.modality,
        settings,
        embedder.frames if kind == "video" else None,
        embedder.frames_config["max_frames"],
        default_workers() if workers is None else workers,
        selecting=False,
    )
    _, found, _ = task.evaluate(embedder.model, split or "test")
    dropped = f"; {manifest.dropped} listed items dropped" if manifest.dropped else ""
    said = [f"model: {where}", f"data: {manifest.name}, split {manifest.split_name}{dropped}"]
    source = {"model": str(where), "fingerprint": embedder.fingerprint}
    return _result(found, settings, manifest.split_name, said, source, counts_of(manifest))


def pair_settings(overrides: Sequence[str], compat: str | None, group_by: str | None) -> CrossModalSettings:
    """Return the settings of ``evaluation.key=value`` overrides; any other key is refused."""
    raw: dict[str, Any] = {}
    for override in overrides:
        configs.apply_override(raw, override)
    other = next((key for key in raw if key != "evaluation"), None)
    if other is not None:
        raise InputError(f"{other} does not apply here; what does: evaluation.{', evaluation.'.join(_known())}.")
    return _settings(raw.get("evaluation") or {}, compat, group_by)


def _settings(values: Mapping[str, Any], compat: str | None, group_by: str | None) -> CrossModalSettings:
    asked = {name: value for name, value in (("compat", compat), ("group_by", group_by)) if value is not None}
    checked = check_value({**values, **asked}, CrossModalSettings, "evaluation")
    return instantiate(checked, CrossModalSettings)  # type: ignore[no-any-return]


def _known() -> list[str]:
    return ["recall_at", "compat", "group_by"]


def _result(
    found: CrossModal,
    settings: CrossModalSettings,
    split: str,
    said: list[str],
    source: Mapping[str, str],
    counts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    alone = found.counts["v2t/without_relevant"]
    if alone:
        said.append(f"{alone:,} videos have no text and are left out of v2t")
    return {
        "metrics": dict(found),
        "split": split,
        "counts": {**(counts or {}), **found.counts},
        "definitions": found.definitions,
        "intervals": recall_intervals(found),
        "group_by": settings.group_by,
        "compat": settings.compat,
        "versions": versions(),
        "command": command(),
        **source,
        "said": said,
        "tables": [],
        "picture": None,
    }
