"""The task of retrieval between texts and videos: which split is embedded and how it is judged."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from metrixkit.data.features import pad_features, read_features
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.pairs import PairItems, Read, pair_loader
from metrixkit.distributed import gather, rank, world_size
from metrixkit.errors import InputError, did_you_mean
from metrixkit.inference import evaluating
from metrixkit.retrieval.crossmodal import CrossModal, crossmodal

RSUM = "Sum of the recalls of both directions at {at}: between 0 and {most}, in the units of a recall."
LOWER = ("median_rank", "mean_rank")


@dataclass
class CrossModalSettings:
    """How retrieval between texts and videos is judged.

    Attributes:
        protocol: ``validation`` selects on validation pairs: those of the data set, else held out training videos with
            their texts. ``paper`` trains on all of the training split and looks at the test split after each evaluated
            epoch; the best is filed as ``oracle/...``, the median of the last ten as ``median10/...``.
        validation: Share of the training videos held out under ``validation`` where the data set has none; 0 keeps the
            last epoch.
        recall_at: The k of recall@k.
        group_by: "video" ranks videos by their best text in v2t, instead of all texts.
        compat: "clip4clip" follows that repository's way of counting.
        select_by: The metric that selects, higher being better: ``t2v/recall@1``, ``v2t/mrr``, ``rsum``, ...
        every: Epochs between evaluations.
        batch_size: Videos a forward call; of texts four times as many.
    """

    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.1
    recall_at: list[int] = field(default_factory=lambda: [1, 5, 10])
    group_by: Literal["video"] | None = None
    compat: Literal["clip4clip"] | None = None
    select_by: str = "t2v/recall@1"
    every: int = 1
    batch_size: int = 64


@dataclass(frozen=True)
class EmbeddedPairs:
    """Both sides of a split.

    Attributes:
        text: (T, d) float32.
        video: (V, d) float32.
        manifest: Its texts and items are the rows.
    """

    text: Tensor
    video: Tensor
    manifest: PairManifest


@dataclass
class CrossModalTask:
    """Texts search videos and videos search texts.

    Attributes:
        manifest: All splits.
        modality: Which modality is the video side.
        settings: Protocol and metrics.
        read: How the cells of that modality are read; None is by kind.
        max_length: Longer sequences of features are thinned to it, evenly; None keeps them.
        workers: Processes that read.
        autocast: Context of the forward calls.
    """

    settings_type: ClassVar[type] = CrossModalSettings
    unread: ClassVar[tuple[str, ...]] = ("transform", "loader.cache", "loader.cache_short_side", "training.compile")
    reads_frames: ClassVar[bool] = True

    manifest: PairManifest
    modality: str
    settings: CrossModalSettings
    read: Read | None = None
    max_length: int | None = None
    workers: int = 0
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    selecting: bool = True

    def __post_init__(self) -> None:
        if self.selecting:
            check_selects(self.settings)

    @property
    def watched_split(self) -> str | None:
        """The split that is evaluated after each epoch, or None."""
        if self.settings.protocol == "paper":
            return "test" if "test" in self.manifest.splits else None
        return "validation" if "validation" in self.manifest.splits else None

    @property
    def selects(self) -> str | None:
        """Name of the watched metric that selects the best epoch; None where the last one is kept."""
        return f"validation/{self.settings.select_by}" if self.watched_split == "validation" else None

    def watch(self, model: nn.Module) -> dict[str, float]:
        """Evaluate the watched split; names carry it."""
        if self.watched_split is None:
            return {}
        with warnings.catch_warnings():
            # A few validation videos may be fewer than k; the test split says so once.
            warnings.filterwarnings("ignore", ".*asks for more than the", UserWarning)
            found, _, _ = self.evaluate(model, self.watched_split)
        return {f"{self.watched_split}/{name}": value for name, value in found.items()}

    def evaluate(self, model: nn.Module, split: str) -> tuple[dict[str, float], CrossModal, EmbeddedPairs]:
        """Return the metrics of a split with rsum, what they come from, and the embeddings.

        Raises:
            InputError: No texts there, or of one video only.
        """
        refuse_one_video(self.manifest.part(split).texts["item"], f"split {split!r} of {self.manifest.name!r}")
        embedded = self.embed(model, split)
        part = embedded.manifest
        found = crossmodal(
            embedded.text,
            embedded.video,
            part.texts["item"].tolist(),
            recall_at=tuple(self.settings.recall_at),
            compat=self.settings.compat,
            text_ids=part.texts["id"].tolist(),
            video_ids=part.ids,
            group_by=self.settings.group_by,
        )
        found = with_rsum(found, self.settings.recall_at)
        return dict(found), found, embedded

    def embed(self, model: nn.Module, split: str) -> EmbeddedPairs:
        """Embed both sides of a split."""
        part = self.manifest.part(split)
        if not len(part.texts):
            raise InputError(f"split {split!r} of {part.name!r} has no captions, so there is nothing to search with.")
        with evaluating(model):
            video = self._shared(len(part), lambda rows: self._videos(model, part, rows, f"videos of {split}"))
            text = self._shared(len(part.texts), lambda rows: self._texts(model, part, rows))
        return EmbeddedPairs(text, video, part)

    def _shared(self, count: int, embed: Callable[[list[int]], Tensor]) -> Tensor:
        """Return the embeddings of `count` rows on the processor, each process having embedded its share."""
        share = -(-count // world_size())
        # Equal shares, the last rows over again where they do not divide: a gather needs equal shapes.
        own = [min(i, count - 1) for i in range(rank() * share, (rank() + 1) * share)]
        distinct = sorted(set(own))
        found = embed(distinct)
        place = {row: i for i, row in enumerate(distinct)}
        return gather(found[torch.tensor([place[row] for row in own], device=found.device)])[:count].cpu()

    @torch.no_grad()
    def _videos(self, model: nn.Module, part: PairManifest, rows: list[int], title: str) -> Tensor:
        some = replace(part, items=part.items.iloc[rows], texts=part.texts.iloc[:0])
        read = None if self.read is None else {self.modality: self.read}
        items = PairItems(some, "items", read, [self.modality])
        workers = min(self.workers, len(rows) // 256)
        loader = pair_loader(items, self.settings.batch_size, workers, self.max_length)
        device = next(model.parameters()).device
        quiet = rank() != 0 or not sys.stderr.isatty()
        found = []
        for batch in tqdm(loader, desc=title, disable=quiet, leave=False, dynamic_ncols=True):
            given = batch.to(device).modalities
            with self.autocast():
                vectors = model.embed_video(given[self.modality], given[f"{self.modality}_mask"])  # type: ignore[operator]
            found.append(vectors.float())
        return torch.cat(found)

    @torch.no_grad()
    def _texts(self, model: nn.Module, part: PairManifest, rows: list[int]) -> Tensor:
        size, found = 4 * self.settings.batch_size, []
        column = "features" if takes_text_features(model) else "caption"
        if column not in part.texts.columns:
            raise InputError(
                f"this model's text side takes features, and {self.manifest.name!r} has captions only; name them by "
                "data.text_features."
            )
        cells = part.texts[column].iloc[rows].tolist()
        device = next(model.parameters()).device
        for start in range(0, len(cells), size):
            some = cells[start : start + size]
            with self.autocast():
                if column == "caption":
                    found.append(model.embed_text(some).float())  # type: ignore[operator]
                else:
                    padded, mask = text_features(some)
                    found.append(model.embed_text(padded.to(device), mask.to(device)).float())  # type: ignore[operator]
        return torch.cat(found)


def refuse_one_video(of_text: Iterable[object], where: str) -> None:
    """Raise InputError where all texts belong to one video: it would find a right one whatever the model says.

    Args:
        of_text: The video of each text; none at all is another fault.
        where: Whose texts these are, for messages.
    """
    videos = {str(video) for video in of_text}
    if len(videos) == 1:
        raise InputError(
            f"{where}: all texts belong to one video ({''.join(videos)!r}), so that whatever it finds is right and "
            "recalls of 100 % would say nothing. Evaluate texts of two videos or more; see to the pairs and the splits."
        )


def takes_text_features(model: nn.Module) -> bool:
    """Return whether the text side of a model takes features instead of words."""
    return getattr(getattr(model, "inputs", None), "text_dim", None) is not None


def text_features(references: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Read features of texts into (B, T, D) and their (B, T) mask."""
    return pad_features([torch.from_numpy(read_features(reference)) for reference in references])


def check_selects(settings: CrossModalSettings) -> None:
    """Raise InputError unless the metric that selects is computed and better when higher."""
    each = [*(f"recall@{k}" for k in settings.recall_at), "mrr"]
    offered = [f"{direction}/{name}" for direction in ("t2v", "v2t") for name in each] + ["rsum"]
    name = settings.select_by
    if name.rpartition("/")[2] in LOWER:
        raise InputError(f"evaluation.select_by={name!r} is better when lower, and the highest is kept: take mrr.")
    if name not in offered:
        raise InputError(
            f"evaluation.select_by={name!r} is not computed.{did_you_mean(name, offered)} Its recalls come from "
            "evaluation.recall_at."
        )


def with_rsum(found: CrossModal, recall_at: Sequence[int]) -> CrossModal:
    """Return the evaluation with ``rsum``: both directions' recalls at 1, 5 and 10, as far as they are there, added."""
    wanted = list(dict.fromkeys(int(k) for k in recall_at))
    # The field's sum has these three; where none is asked for, what is.
    cutoffs = [k for k in wanted if k in (1, 5, 10)] or wanted
    total = sum(found[f"{direction}/recall@{k}"] for direction in ("t2v", "v2t") for k in cutoffs)
    told = RSUM.format(at=", ".join(map(str, cutoffs)), most=2 * len(cutoffs))
    return replace(found, metrics={**found.metrics, "rsum": total}, definitions={"rsum": told, **found.definitions})


def recall_intervals(found: CrossModal) -> dict[str, dict[str, Any]]:
    """Return for each recall its bootstrap interval over queries, and over videos with all their texts."""
    told: dict[str, dict[str, Any]] = {}
    for name in found.metrics:
        if "/recall@" in name and not name.endswith("/optimistic"):
            low, high = found.interval(name)
            told[name] = {"low": low, "high": high, "by_class": list(found.interval(name, by="class")), "level": 0.95}
    return told


def nearest_videos(embedded: EmbeddedPairs, texts: Sequence[int], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (Q, k) rows of the nearest videos of some texts, best first, and their cosines."""
    unit = [nn.functional.normalize(side.double(), dim=1) for side in (embedded.text[list(texts)], embedded.video)]
    scores, rows = (unit[0] @ unit[1].T).topk(min(k, len(unit[1])), dim=1)
    return rows.numpy(), scores.numpy()


def counts_of(manifest: PairManifest) -> Mapping[str, Any]:
    """Return the videos and captions of each split."""
    return {**manifest.counts(), **{f"captions_{k}": n for k, n in manifest.text_counts().items()}}
