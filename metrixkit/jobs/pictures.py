"""The pictures that a finished run leaves for its page, made while embeddings and model are still at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from metrixkit.data.decode import decode as plain_decode
from metrixkit.data.manifest import Manifest
from metrixkit.inference import evaluating
from metrixkit.losses import Metrix
from metrixkit.mixing import draw_one, draw_ratio
from metrixkit.mixing.images import MixedImages
from metrixkit.models import ImageEncoder
from metrixkit.report import (
    Mixture,
    embedding_map,
    mixed_examples,
    nearest_is_right,
    retrieval_panel,
    similarity_histogram,
)
from metrixkit.report.similarities import Items, similarities
from metrixkit.retrieval import Predictions
from metrixkit.tasks import Classification, Embedded, Retrieval, SelfSupervised

MIXTURES, NEAREST = 5, 6
CLASSES, EACH = 32, 16  # training items among which a mixture's neighbours are sought: 512 at most
SAME_CLASS = frozenset({"positive-anchor", "positive-positive"})


def draw_pictures(
    folder: Path,
    manifest: Manifest,
    task: Retrieval | Classification | SelfSupervised,
    found: Predictions,
    queries: Embedded,
    gallery: Embedded | None,
) -> None:
    """Draw what a model found on the test split: panels, the map, the similarities.

    Args:
        folder: Where the pictures go.
        manifest: Whose images are shown.
        task: Says by which distance the embeddings are compared.
        found: The predictions.
        queries: Embeddings that searched.
        gallery: What they searched, None for each other.
    """
    load = Loader(manifest)
    right = nearest_is_right(found)
    retrieval_panel(folder / "retrieval.png", found, load)
    if right.any():
        retrieval_panel(folder / "retrieval_right.png", found, load, rows=5, choice="right")
    if (~right & (found.rank_of_first > 0)).any():
        retrieval_panel(folder / "retrieval_wrong.png", found, load, rows=5, choice="wrong")
    cosine = task.settings.distance == "cosine"
    embedding_map(folder / "map.png", _array(queries.vectors), queries.labels, queries.ids, load, unit=cosine)
    if cosine:  # under another distance cosines do not say who is found
        sampled = similarities(_items(queries), None if gallery is None else _items(gallery))
        similarity_histogram(folder / "similarities.png", sampled, len(queries.ids))


class Loader:
    """Item id to an (H, W, 3) uint8 image, read from its file."""

    def __init__(self, manifest: Manifest) -> None:
        self.paths = dict(zip(manifest.ids, manifest.paths, strict=True))

    def __call__(self, item: str) -> np.ndarray:
        """Return the image of an item."""
        image: np.ndarray = plain_decode(self.paths[item]).permute(1, 2, 0).numpy()
        return image


def draw_mixtures(
    path: Path,
    criterion: nn.Module | None,
    model: ImageEncoder,
    stage: int | None,
    task: Retrieval | Classification | SelfSupervised,
    seed: int = 0,
) -> Path | None:
    """Draw mixed examples of a run that mixes with Metrix, by the trained model; None for any other run.

    Pairs and lambdas are drawn anew as a step draws them, from the training split; the mixtures are encoded in
    evaluation mode.

    Args:
        path: A ``.png`` to write.
        criterion: The loss.
        model: The encoder.
        stage: Where level "feature" mixes.
        task: Holds training items and how they are read.
        seed: Of the draws.
    """
    if not isinstance(criterion, Metrix):
        return None
    items = _sample(task.manifest.part("train").items, seed)
    if items["label"].nunique() < 2:
        return None
    encode = Encode(model, stage, task, criterion.image_mixer, seed)
    unit = nn.functional.normalize(encode.items(items["path"].tolist()), dim=1)
    generator = torch.Generator().manual_seed(seed)
    mixtures = [_mixture(criterion, encode, items, unit, generator) for _ in range(MIXTURES)]
    levels = " and ".join(
        {"embed": "embeddings", "feature": "features", "input": "images"}[n] for n in criterion.levels
    )
    few = any(criterion.hardest_at(level) is not None for level in criterion.levels)
    nearest = ", the second element among the first one's hardest" if few else ""
    how = (
        f"Mixtures of {levels} ({', '.join(criterion.kinds)}; λ from Beta({criterion.alpha:g}, {criterion.alpha:g}))"
        f"{nearest}, drawn for this picture with seed {seed} and not taken from a step of training; encoded by the "
        f"trained model and searched among {len(items)} training pictures of {items['label'].nunique()} classes."
    )
    return mixed_examples(
        path, mixtures, dict(zip(items["id"], items["label"], strict=True)), Loader(task.manifest), how
    )


class Encode:
    """A model in evaluation mode, on this process alone: the others do not draw and would not answer a gather.

    Args:
        model: The encoder.
        stage: Where level "feature" mixes.
        task: Says how images are read.
        mixer: What mixes images at level "input"; None interpolates.
        seed: Of its boxes and masks.
    """

    def __init__(
        self,
        model: ImageEncoder,
        stage: int | None,
        task: Retrieval | Classification | SelfSupervised,
        mixer: Callable[..., MixedImages] | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.stage, self.task, self.mixer = model, stage, task, mixer
        self.generator = torch.Generator().manual_seed(seed)
        self.device = next(model.parameters()).device

    def read(self, paths: list[str]) -> Tensor:
        """Return (n, 3, H, W) uint8 images."""
        return torch.stack([self.task.transform(self.task.decode(path)) for path in paths]).to(self.device)

    @torch.no_grad()
    def items(self, paths: list[str]) -> Tensor:
        """Return (n, d) float64 embeddings."""
        size = self.task.settings.batch_size
        with evaluating(self.model), self.task.autocast():
            parts = [self.model(self.read(paths[i : i + size])) for i in range(0, len(paths), size)]
        return torch.cat(parts).double().cpu()

    @torch.no_grad()
    def mixture(self, level: str, paths: list[str], ratio: float) -> tuple[Tensor, np.ndarray | None, float]:
        """Return the (d,) embedding of a mixture of two images, or of their features, at "input" the mixed image, and
        the share of the first one in it.

        Args:
            level: "feature" or "input".
            paths: Of the two.
            ratio: Weight of the first.
        """
        images = self.read(paths)
        with evaluating(self.model), self.task.autocast():
            if level == "feature":
                first, second = self.model.features(images, self.stage).split(1)
                return (
                    self.model.head_from(self.stage)(ratio * first + (1 - ratio) * second)[0].double().cpu(),
                    None,
                    ratio,
                )
            first, second = (images / 255).split(1)
            if self.mixer is None:
                pixels = ratio * first + (1 - ratio) * second
            else:
                pixels, left, _ = self.mixer(first, second, ratio, self.generator)
                ratio = float(left)
            shown = (255 * pixels[0]).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            return self.model(pixels)[0].double().cpu(), shown, ratio


def _sample(items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return items of a few classes that have two or more."""
    generator = np.random.default_rng(seed)
    sizes = items["label"].value_counts().sort_index()
    drawn = generator.permutation(sizes.index[sizes > 1].to_numpy())[:CLASSES]
    places = [generator.permutation(np.flatnonzero((items["label"] == name).to_numpy()))[:EACH] for name in drawn]
    return items.iloc[np.sort(np.concatenate(places)) if places else []].reset_index(drop=True)


def _mixture(
    criterion: Metrix, encode: Encode, items: pd.DataFrame, unit: Tensor, generator: torch.Generator
) -> Mixture:
    level, kind = draw_one(criterion.levels, generator), draw_one(criterion.kinds, generator)
    ratio = float(draw_ratio(criterion.alpha, generator))
    names = items["label"].to_numpy()
    first = int(torch.randint(len(items), (), generator=generator))
    wanted = (names == names[first]) if kind in SAME_CLASS else (names != names[first])
    wanted[first] = False
    others = torch.from_numpy(np.flatnonzero(wanted))
    hardest = criterion.hardest_at(level)
    if hardest is not None and kind not in SAME_CLASS:
        others = others[(unit[others] @ unit[first]).argsort(descending=True)[:hardest]]
    second = int(others[int(torch.randint(len(others), (), generator=generator))])
    vector, image = unit[first] * ratio + unit[second] * (1 - ratio), None
    if level != "embed":
        vector, image, ratio = encode.mixture(level, [items["path"].iloc[i] for i in (first, second)], ratio)
    cosines = unit @ nn.functional.normalize(vector, dim=0)
    order = cosines.argsort(descending=True, stable=True)[:NEAREST].tolist()
    ids = items["id"].tolist()
    return Mixture(ids[first], ids[second], ratio, level, [ids[i] for i in order], cosines[order].tolist(), image)


def _array(vectors: Tensor | np.ndarray) -> np.ndarray:
    return vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else vectors


def _items(embedded: Embedded) -> Items:
    return Items(_array(embedded.vectors), np.array(embedded.labels), np.array(embedded.ids))
