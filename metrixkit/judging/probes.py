"""What a door adds about frozen features when asked: neighbours that vote, classifiers, tightness, a t-SNE picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from metrixkit.data.manifest import Manifest
from metrixkit.data.transforms import Transform, train_transform
from metrixkit.errors import InputError, did_you_mean
from metrixkit.judging.extras import Added
from metrixkit.probing import (
    LINEAR,
    SEMI,
    Pictures,
    ProbeSchedule,
    Trained,
    choose_labelled,
    fit_probe,
    intra_class_similarity,
    knn_accuracy,
    linear_schedule,
    train_classifier,
)
from metrixkit.probing.definitions import INTRA_CLASS, feature_definitions, knn_definitions, trained_definitions
from metrixkit.probing.schedules import changed
from metrixkit.report.tsne import tsne_picture
from metrixkit.schema import check_value, instantiate
from metrixkit.tasks import Embedded, Retrieval, SelfSupervisedSettings
from metrixkit.tasks.self_supervised import bank_splits, embed_bank, labelled_part

FEATURES, KNN = "features", 200
PROBED = ("knn@", "linear@", "semi@")
SECTIONS = ("linear", "semi")  # of overrides, beside those of the door


@dataclass(frozen=True)
class Probes:
    """What was asked for. The constructor refuses what cannot be, before anything is embedded.

    Attributes:
        linear: "features", or a published protocol (:data:`~metrixkit.probing.LINEAR`).
        knn: Neighbours that vote.
        semi: A list of items, or a share ("1%"), whose labels fine-tuning may use.
        tsne: A ``.png`` to draw.
        similarity: Also tell the intra-class similarity.
        temperature: Of the votes.
        by_default: Nobody asked: what cannot be judged is left out, and not refused.

    Raises:
        InputError: No such protocol, no neighbour, or a picture of another format.
    """

    linear: str | None = None
    knn: int | None = None
    semi: str | None = None
    tsne: str | None = None
    similarity: bool = False
    temperature: float = 0.07
    by_default: bool = False

    def __post_init__(self) -> None:
        if self.linear is not None and self.linear not in (FEATURES, *LINEAR):
            raise InputError(
                f"no linear protocol is called {self.linear!r} (--linear)."
                f"{did_you_mean(self.linear, (FEATURES, *LINEAR))}"
            )
        if self.knn is not None and self.knn < 1:
            raise InputError(f"--knn {self.knn}: expected at least one neighbour.")
        if self.tsne is not None and Path(self.tsne).suffix.lower() != ".png":
            raise InputError(f"--tsne {self.tsne}: expected the name of a picture that ends in .png.")

    @property
    def asked(self) -> bool:
        """Whether anything is."""
        return self.judges or self.tsne is not None or self.similarity

    @property
    def judges(self) -> bool:
        """Whether anything needs labelled training items."""
        return self.linear is not None or self.knn is not None or self.semi is not None


def complete(words: Sequence[str]) -> list[str]:
    """Return a command line in which ``--linear`` and ``--knn`` without a value have their default.

    Otherwise they would take the word that follows, be it a run's folder.
    """
    found = list(words)
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        # A word that is no setting, option, folder or hub name must be a protocol, perhaps a mistyped one.
        plain = re.fullmatch(r"[^-=/][^=/]*", following) and not Path(following).exists()
        if word == "--linear" and not (following in (FEATURES, *LINEAR) or plain):
            found[i] = f"--linear={FEATURES}"
        elif word == "--knn" and not re.fullmatch(r"-?\d+", following):
            found[i] = f"--knn={KNN}"
    return found


def settle(raw: dict[str, Any], task: str | None, probes: Probes) -> tuple[Probes, dict[str, Any]]:
    """Take from the raw settings what is for probes, and bring the rest to what the door evaluates by.

    Args:
        raw: The sections of a run, overrides applied; changed in place.
        task: The run's task, or None.
        probes: What was asked for. Of a self-supervised run that is asked for nothing, what its task reports.

    Returns:
        The probes, and their settings by section.

    Raises:
        InputError: Settings of a probe that was not asked for, or bad ones of a self-supervised run.
    """
    changes = {name: raw.pop(name) for name in SECTIONS if name in raw}
    for name in changes:
        flag = getattr(probes, name)
        if flag is None or flag == FEATURES:
            raise InputError(
                f"{name} settings belong to --{name}" + (" with a protocol's name, such as moco." if flag else ".")
            )
    if task != "self-supervised":
        return probes, changes
    values = check_value(raw.get("evaluation") or {}, SelfSupervisedSettings, "evaluation")
    own: SelfSupervisedSettings = instantiate(values, SelfSupervisedSettings)
    # No class is held out: training and test share them.
    raw["evaluation"] = vars(replace(own, protocol="paper").ranking())
    if not probes.asked:
        probes = Probes(FEATURES if own.linear else None, own.knn, similarity=True, by_default=True)
    return replace(probes, temperature=own.temperature), changes


@dataclass(frozen=True)
class Plan:
    """Probes whose data and settings have been looked at.

    Attributes:
        probes: What was asked for.
        ranking: Embeds labelled items.
        train: Labelled items to learn from.
        semi: Those among them that fine-tuning may use.
        schedules: Of "linear" and "semi", where a classifier is trained.
    """

    probes: Probes
    ranking: Retrieval
    train: pd.DataFrame
    semi: pd.DataFrame
    schedules: Mapping[str, ProbeSchedule]


def plan(probes: Probes, changes: Mapping[str, Any], task: Retrieval, split: str, seed: int) -> Plan:
    """Look at what probes need, before anything is embedded.

    Args:
        probes: What was asked for.
        changes: Settings by section, from :func:`settle`.
        task: The evaluation they stand beside.
        split: What is judged.
        seed: Of the labels drawn.

    Raises:
        InputError: No labelled training items, no class in common, a bad list, or bad settings.
    """
    empty = task.manifest.items.iloc[:0]
    if not probes.judges:
        return Plan(probes, task, empty, empty, {})
    manifest = labelled_part(task.manifest)
    if probes.by_default and (split == "train" or not bank_splits(manifest, split)):
        return Plan(replace(probes, linear=None, knn=None), task, empty, empty, {})
    ranking = replace(task, manifest=manifest)
    train, semi = _training_items(manifest, split), empty
    if not set(train["label"]) & set(manifest.part(split).labels):
        raise InputError(
            f"the classes of split {split!r} of {manifest.name!r} are not those of its training items (it is "
            f"{manifest.split_name!r}), and kNN and classifiers answer with classes that they know. Evaluate on a "
            "split that shares them, such as data.split=classification."
        )
    schedules = {}
    if probes.linear is not None and probes.linear != FEATURES:
        schedules["linear"] = linear_schedule(probes.linear, changes.get("linear"))
    if probes.semi is not None:
        schedules["semi"] = changed(SEMI, changes.get("semi") or {}, "semi")
        semi = choose_labelled(probes.semi, train, seed)
    return Plan(probes, ranking, train, semi, schedules)


def _training_items(manifest: Manifest, split: str) -> pd.DataFrame:
    names = bank_splits(manifest, split)
    if split == "train" or not names:
        raise InputError(
            f"data set {manifest.name!r}: no labelled training items answer for split {split!r}; it has "
            f"{', '.join(manifest.splits)}. --knn, --linear and --semi judge other items than those they learn from."
        )
    return pd.concat([manifest.part(name).items for name in names], ignore_index=True)


def probed(
    made: Plan, more: Added, encoder: nn.Module, transform: Mapping[str, Any], queries: Embedded, seed: int
) -> Added:
    """Compute what was asked for, beside what else was.

    Args:
        made: From :func:`plan`.
        more: What it is added to.
        encoder: The tower; left as it is.
        transform: Its evaluation transform, as saved with a model.
        queries: The judged items and their embeddings.
        seed: Of classifiers and pictures.

    Raises:
        InputError: As :mod:`metrixkit.probing`; too few items for a picture.
    """
    metrics, words, lines = dict(more.metrics), dict(more.definitions), list(more.lines)
    probes = made.probes
    told: dict[str, Any] = {"labelled_training_items": len(made.train)} if len(made.train) else {}
    if probes.knn is not None or probes.linear == FEATURES:
        bank = embed_bank(made.ranking, encoder, str(queries.items["split"].iloc[0]))
        if probes.knn is not None:
            metrics |= knn_accuracy(
                bank.vectors, bank.labels, queries.vectors, queries.labels, probes.knn, probes.temperature
            )
            words |= knn_definitions(probes.knn, probes.temperature)
        if probes.linear == FEATURES:
            probe = fit_probe(bank.vectors, bank.labels)
            metrics |= probe.accuracy(queries.vectors, queries.labels)
            words |= feature_definitions(probe)
            told["linear"] = {"protocol": FEATURES, "strength": probe.strength}
    for name, schedule in made.schedules.items():
        items = made.train if name == "linear" else made.semi
        trained = _trained(made, name, schedule, items, encoder, transform, queries, seed)
        metrics |= trained.metrics(name)
        what = (
            f"a linear classifier on the frozen encoder, trained on {len(items):,} labelled items"
            if name == "linear"
            else f"encoder and classifier fine-tuned together on {len(items):,} labelled items ({probes.semi})"
        )
        words |= trained_definitions(name, f"{what} ({schedule})")
        told[name] = {
            "protocol": probes.linear if name == "linear" else probes.semi,
            **vars(schedule),
            "items": len(items),
            "history": trained.history,
        }
        lines.append(f"{name}: {what}")
    words = {name: text for name, text in words.items() if name in metrics or not name.startswith(PROBED)}
    if probes.similarity:
        metrics["intra_class_similarity"] = intra_class_similarity(queries.vectors, queries.labels)
        words |= INTRA_CLASS
    if probes.tsne is not None:
        called = dict(zip(queries.labels, queries.items["name"], strict=True)) if "name" in queries.items else None
        picture = tsne_picture(probes.tsne, np.asarray(queries.vectors), queries.labels, called, seed=seed)
        lines.append(f"t-SNE: {picture}")
    return replace(more, metrics=metrics, definitions=words, parts={**more.parts, "probes": told}, lines=lines)


def _trained(
    made: Plan, name: str, schedule: ProbeSchedule, items: pd.DataFrame, encoder: nn.Module,
    transform: Mapping[str, Any], queries: Embedded, seed: int,
) -> Trained:  # fmt: skip
    crops = Transform(resize=transform["resize"], interpolation=transform["interpolation"])
    pictures = Pictures(
        train_transform(crops, transform["image_size"]),
        made.ranking.transform,
        made.ranking.decode,
        made.ranking.workers,
        made.ranking.settings.batch_size,
    )
    return train_classifier(encoder, items, queries.items, pictures, schedule, seed, title=name)
