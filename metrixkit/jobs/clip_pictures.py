"""The picture that a finished run on videos leaves for its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metrixkit.report.clip_panel import ClipAnswer, clip_panel
from metrixkit.retrieval.crossmodal import CrossModal
from metrixkit.tasks.crossmodal import CrossModalTask, EmbeddedPairs, nearest_videos

ROWS, RESULTS, FRAMES = 8, 4, 4


def draw_clips(path: Path, embedded: EmbeddedPairs, found: CrossModal, task: CrossModalTask, seed: int = 0) -> Path:
    """Draw some texts of a split and the clips they find: half of them right at once, half not, as far as there are.

    Args:
        path: A ``.png`` to write.
        embedded: Both sides of the split.
        found: Its evaluation.
        task: Says how clips are read.
        seed: Of the drawing of lots.
    """
    part = embedded.manifest
    ranks = found.per_query["rank"][found.per_query["direction"] == "t2v"].to_numpy(dtype=np.int64)
    chosen = _chosen(ranks, seed)
    rows, scores = nearest_videos(embedded, chosen, RESULTS)
    ids, captions, owners = part.ids, part.captions, part.texts["item"].tolist()
    answers = [
        ClipAnswer(captions[text], owners[text], int(ranks[text]), [ids[i] for i in row], score.tolist())
        for text, row, score in zip(chosen, rows, scores, strict=True)
    ]
    cells = dict(zip(ids, part.items[task.modality], strict=True))

    def load(name: str) -> np.ndarray:
        assert task.read is not None
        frames = task.read(cells[name])
        few = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
        shown: np.ndarray = frames[few].permute(0, 2, 3, 1).numpy()
        return shown

    right = 100 * float((ranks == 1).mean())
    how = (
        "Texts of the test split drawn at random, half of them such whose clip comes first and half others, as far as "
        f"there are (of all {right:.1f} % come first)."
    )
    return clip_panel(path, answers, load, how)


def _chosen(ranks: np.ndarray, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    right, wrong = (generator.permutation(np.flatnonzero(part)) for part in (ranks == 1, ranks != 1))
    some = max(ROWS // 2, ROWS - len(wrong))
    few = right[:some].tolist()
    return sorted(few + wrong[: ROWS - len(few)].tolist())
