"""Self-supervised learning: encoders trained without labels, judged by what their frozen features are worth."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from metrixkit.data.decode import decode as decode_file
from metrixkit.data.held_out import with_held_out
from metrixkit.data.manifest import Manifest
from metrixkit.errors import InputError, did_you_mean
from metrixkit.probing import UNLABELLED, fit_probe, intra_class_similarity, knn_ranks, labelled, top_accuracy
from metrixkit.probing.definitions import INTRA_CLASS, feature_definitions, knn_definitions
from metrixkit.probing.labels import TOP, tops
from metrixkit.retrieval import Evaluation, Predictions
from metrixkit.tasks.one_class import refuse_one_class
from metrixkit.tasks.retrieval import Embedded, EvaluationSettings, Retrieval, retrieval_part, spread

WATCHED = ("knn@1", "knn@5")


@dataclass
class SelfSupervisedSettings:
    """How a self-supervised run is judged. Labels are used here and nowhere else.

    Attributes:
        protocol: ``validation`` holds out a share of each class's training images and selects on them. ``paper`` trains
            on all of them and, as published tables do, looks at the test split after each epoch; the best such epoch is
            filed as ``oracle/...``, the median of the last ten as ``median10/...``, and the headline is the last one's.
        validation: That share; 0 holds out none and keeps the last epoch. Unlabelled images are all trained on.
        knn: Neighbours that vote.
        temperature: Of their votes, exp(cosine / temperature).
        linear: Also fit a linear classifier to the frozen features at the end.
        recall_at: The k of recall@k on the test split.
        metrics: Further retrieval metrics there, as for task=retrieval.
        select_by: What selects the best epoch: knn@1 or knn@5.
        every: Epochs between evaluations. Each one embeds the training and the watched images once, which costs about
            a quarter of an epoch of MoCo.
        batch_size: Images a forward call.
        neighbours: Neighbours kept for each query in ``predictions.npz``.
        distance: Of the retrieval metrics.
    """

    protocol: Literal["validation", "paper"] = "validation"
    validation: float = 0.1
    knn: int = 200
    temperature: float = 0.07
    linear: bool = True
    recall_at: list[int] = field(default_factory=lambda: [1])
    metrics: list[str] = field(default_factory=lambda: ["map@r"])
    select_by: str = "knn@1"
    every: int = 5
    batch_size: int = 128
    neighbours: int = 10
    distance: Literal["cosine"] = "cosine"

    def ranking(self) -> EvaluationSettings:
        """Return the settings of the retrieval part."""
        return retrieval_part(self)


class HoldsOut(Protocol):
    """Settings of a task whose training and test share their classes."""

    @property
    def protocol(self) -> str:
        """``validation`` or ``paper``."""
        ...

    @property
    def validation(self) -> float:
        """Share of each class's training images held out."""
        ...


def hold_out(manifest: Manifest, settings: HoldsOut, seed: int) -> Manifest:
    """Return a manifest with the images that the protocol selects on as split "validation".

    As it is under ``protocol=paper``, without a share, without training images, where none of these has a label, or
    where the data set has a validation split of its own.
    """
    if settings.protocol == "paper" or settings.validation == 0 or "train" not in manifest.splits:
        return manifest
    if "validation" in manifest.splits or not len(labelled(manifest.part("train").items)):
        return manifest
    return with_held_out(manifest, settings.validation, seed)


def labelled_part(manifest: Manifest) -> Manifest:
    """Return a manifest without its unlabelled items.

    Raises:
        InputError: None has a label.
    """
    rows = labelled(manifest.items)
    if not len(rows):
        raise InputError(f"no item of {manifest.name!r} has a label: there is nothing to judge by.")
    return manifest if len(rows) == len(manifest) else replace(manifest, items=manifest.items.iloc[rows])


def bank_splits(manifest: Manifest, split: str) -> list[str]:
    """Return the splits whose labels may answer for the items of `split`: train and validation, unless it is them."""
    return [name for name in ("train", "validation") if name in manifest.splits and name != split]


def embed_bank(ranking: Retrieval, encoder: nn.Module, split: str) -> Embedded:
    """Embed the items of :func:`bank_splits`.

    Args:
        ranking: Its manifest has labelled items only.
        encoder: Any tower.
        split: What is judged.

    Raises:
        InputError: There are none.
    """
    splits = bank_splits(ranking.manifest, split)
    if split == "train" or not splits:
        raise InputError(
            f"data set {ranking.manifest.name!r}: no labelled training items answer for split {split!r}; it has "
            f"{', '.join(ranking.manifest.splits)}. kNN and linear probes judge other items than those they learn from."
        )
    parts = [ranking.embed(encoder, name) for name in splits]
    vectors = torch.cat([torch.as_tensor(part.vectors) for part in parts])
    return Embedded(pd.concat([part.items for part in parts], ignore_index=True), vectors)


@dataclass
class SelfSupervised:
    """Evaluation of frozen features: neighbours that vote, a linear classifier, retrieval.

    Used where :class:`~metrixkit.tasks.Retrieval` is: ``watch``, ``selects``, ``embed``, ``evaluate``, ``describe``.

    Attributes:
        manifest: All splits, see :func:`hold_out`. Items labelled "unlabelled" are embedded, and never judged by.
        transform: Evaluation transform.
        settings: Protocol and metrics.
        workers: Processes that decode.
        decode: How images are read.
        autocast: Context of the forward calls.

    Raises:
        InputError: A setting out of range, or test images without a label.
    """

    settings_type: ClassVar[type] = SelfSupervisedSettings

    manifest: Manifest
    transform: Callable[[Tensor], Tensor]
    settings: SelfSupervisedSettings
    workers: int = 0
    decode: Callable[[Any], Tensor] = decode_file
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext

    def __post_init__(self) -> None:
        s = self.settings
        if s.select_by not in WATCHED:
            raise InputError(
                f"evaluation.select_by={s.select_by!r} does not select here: labels are looked at by neighbours that "
                f"vote.{did_you_mean(s.select_by, WATCHED)}"
            )
        if s.knn < 1 or not s.temperature > 0:
            raise InputError(
                f"evaluation.knn={s.knn}, evaluation.temperature={s.temperature}: expected at least one neighbour and "
                "a positive number."
            )
        reading = (self.transform, s.ranking(), self.workers, self.decode, self.autocast)
        self._whole = Retrieval(self.manifest, *reading)
        test = self.manifest.items[self.manifest.items["split"] == self.test_split]
        without = len(test) - len(labelled(test))
        if without:
            raise InputError(
                f"{without} of {len(test)} items of split {self.test_split!r} of {self.manifest.name!r} are "
                f"{UNLABELLED}: they cannot be judged. Leave them out, or put them into the training split."
            )
        self._ranking = Retrieval(labelled_part(self.manifest), *reading)

    @property
    def test_split(self) -> str:
        """``test``, or ``query`` where the data set has queries and a gallery."""
        return self._whole.test_split

    @property
    def has_labels(self) -> bool:
        """Whether any training image has a label, so that kNN and linear probes can be asked."""
        return bool(bank_splits(self._ranking.manifest, self.test_split))

    @property
    def watched_split(self) -> str | None:
        """The split that is evaluated every few epochs, or None."""
        return self._ranking.watched_split if self.has_labels else None

    @property
    def selects(self) -> str | None:
        """Name, among those of :meth:`watch`, that selects the best epoch; None where the last one is kept."""
        return f"validation/{self.settings.select_by}" if self.watched_split == "validation" else None

    @property
    def headline(self) -> str:
        """The metric that training is judged by: the first of retrieval where no training image has a label."""
        return self.settings.select_by if self.has_labels else self._ranking.settings.select_by

    @property
    def notes(self) -> list[str]:
        """What somebody who starts a run should know, sentence by sentence."""
        if not self.has_labels:
            return [
                "no training image has a label: nothing selects an epoch, the last one is kept; no kNN, no linear probe"
            ]
        train = self.manifest.counts().get("train", 0)
        without = train - self._ranking.manifest.counts().get("train", 0)
        if not without:
            return []
        return [f"{without:,} of {train:,} training images are {UNLABELLED}: trained on, never judged by"]

    def embed(self, encoder: nn.Module, split: str) -> Embedded:
        """Embed the items of a split, unlabelled ones as well."""
        return self._whole.embed(encoder, split)

    def watch(self, encoder: nn.Module, epoch: int) -> dict[str, float]:
        """Return knn@1 and knn@5 of the watched split against the training images; names carry the split."""
        split = self.watched_split
        if split is None:
            return {}
        prefix = "validation" if split == "validation" else "test"
        items, bank = self._ranking.embed(encoder, split), self.bank(encoder, split)
        refuse_one_class(items.labels, f"items of split {split!r}")
        found = top_accuracy(self._votes(items, bank), "knn")
        return {f"{prefix}/{name}": value for name, value in found.items()}

    def evaluate(self, encoder: nn.Module, split: str) -> tuple[Evaluation, Embedded, Embedded | None]:
        """Return retrieval of a split, its embeddings and those of the gallery; as of task=retrieval."""
        return self._ranking.evaluate(encoder, split)

    def describe(
        self, encoder: nn.Module, evaluation: Evaluation, queries: Embedded, gallery: Embedded | None
    ) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Return all that is told of the test split.

        Args:
            encoder: Embeds the labelled training images, those held out included: the encoder is settled by now.
            evaluation: What :meth:`evaluate` answered for the test split, like the next two.
            queries: Its embeddings.
            gallery: Those of the gallery, or None.

        Returns:
            knn@1, knn@5, linear@1, linear@5, retrieval, intra-class similarity, alignment and uniformity; the
            evaluation with their definitions and counts; each query's neighbours, and places of its own class.
        """
        metrics: dict[str, float] = {}
        words: dict[str, str] = {}
        counts: dict[str, int] = {}
        ranks: dict[str, Tensor] = {}
        if self.has_labels:
            bank = self.bank(encoder, self.test_split)
            ranks["knn@"] = self._votes(queries, bank)
            words |= knn_definitions(self.settings.knn, self.settings.temperature)
            counts["labelled_training_items"] = len(bank.ids)
            if self.settings.linear:
                with warnings.catch_warnings():
                    # The votes above have said which classes are absent.
                    warnings.filterwarnings("ignore", ".*count as wrong", UserWarning)
                    probe = fit_probe(bank.vectors, bank.labels)
                    ranks["linear@"] = probe.ranks(queries.vectors, queries.labels)
                words |= feature_definitions(probe)
            for name, places in ranks.items():
                # All of five classes are among the first five; neighbours do not vote for all.
                said = tops(len(set(bank.labels))) if name == "linear@" else TOP
                metrics |= top_accuracy(places, name[:-1], said)
            words = {name: text for name, text in words.items() if name in metrics}
        ranked, evaluation, found = self._ranking.describe(encoder, evaluation, queries, gallery)
        metrics |= ranked
        if len(set(queries.labels)) < len(queries.labels):
            metrics["intra_class_similarity"] = intra_class_similarity(queries.vectors, queries.labels)
        metrics |= spread(queries)
        words = {**words, **evaluation.definitions, **INTRA_CLASS}
        found = replace(found, class_ranks={name: places.numpy() for name, places in ranks.items()})
        return metrics, replace(evaluation, definitions=words, counts={**evaluation.counts, **counts}), found

    def test(self, encoder: nn.Module) -> tuple[dict[str, float], Evaluation, Predictions]:
        """Return :meth:`describe` of the test split."""
        return self.describe(encoder, *self.evaluate(encoder, self.test_split))

    def bank(self, encoder: nn.Module, split: str) -> Embedded:
        """Embed the labelled items that judge `split`: training items, and held-out ones unless they are judged."""
        return embed_bank(self._ranking, encoder, split)

    def _votes(self, queries: Embedded, bank: Embedded) -> Tensor:
        s = self.settings
        return knn_ranks(bank.vectors, bank.labels, queries.vectors, queries.labels, s.knn, s.temperature)
