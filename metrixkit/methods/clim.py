"""CLIM: images mixed with local neighbours that lie nearer to their cluster's centre, at several resolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit._faiss import load_faiss
from metrixkit.distributed import world_size
from metrixkit.errors import InputError
from metrixkit.losses import clim_loss, info_nce
from metrixkit.losses.pairs import positive_number
from metrixkit.methods.moco import contrast_accuracy
from metrixkit.methods.momentum_tower import MomentumTower, own_share, pixels
from metrixkit.mixing import draw_ratio, select_positives
from metrixkit.mixing.images import Boxes, cutmix_boxes, draw_boxes
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class CLIM(nn.Module):
    """CLIM (Li et al., 2020): centre-wise local image mixture, on MoCo v2.

    Every `refresh` epochs the momentum encoder's features of all training images choose, for each, a pool of positives;
    whenever an image is drawn, so is one of its pool. A CutMix of the two is contrasted with the keys of both, by area
    (Eq. 4); at several resolutions, over all pairs of them (Eq. 6). Until the warm-up is over the method is MoCo v2.

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``).
        rule: How pools are chosen: centre-wise (the paper's), or its baselines knn, k-means and random.
        clusters: Centres m; null is one for 128 images, as 10,000 are for ImageNet.
        neighbours: k nearest among which pools are sought.
        positives: Size of a pool.
        fallback: What an image gets whose pool is too small: fill, with its nearest neighbours, or nearest, which
            takes these alone: two readings of the paper.
        warmup_epochs: Epochs before the first selection.
        refresh: Epochs between selections.
        cut: Whether images are mixed. Without, an unmixed query has both keys for positives, half and half.
        alpha: lambda ~ Beta(alpha, alpha), before it is corrected to the area of the box.
        resolutions: Sides in pixels at which the same crops are rendered; empty is the model's size alone.
        reduction: Over the pairs of resolutions: mean, or sum as printed, which raises the rate with their number.
        clean_weight: Factor on MoCo's own loss beside; the paper has none.
        small_views: Further small views a query each, contrasted with the image's own key: the paper's multi-crop
            baseline.
        small_size: Their side in pixels; null is 3 / 7 of the model's.
        dim: Length of queries and keys.
        hidden: Width of the projector's inner layer; null takes the features' own.
        queue_size: Keys kept as negatives; only keys of drawn images join, not those of their partners.
        momentum: Share of the key encoder that an update keeps.
        temperature: T of the contrast.
        groups: Parts of a process's batch with batch-norm statistics of their own.
        count: Training images. Given by the programme.
        seed: Of lambda, boxes, shuffles, clusters and pools.

    Raises:
        InputError: A model that projects by itself, fewer images than clusters, a number out of range.
    """

    partners: Tensor

    def __init__(
        self,
        model: nn.Module,
        rule: Literal["centre-wise", "knn", "k-means", "random"] = "centre-wise",
        clusters: int | None = None,
        neighbours: int = 40,
        positives: int = 10,
        fallback: Literal["fill", "nearest"] = "fill",
        warmup_epochs: int = 5,
        refresh: int = 5,
        cut: bool = True,
        alpha: float = 2.0,
        resolutions: list[int] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        clean_weight: float = 0.0,
        small_views: int = 0,
        small_size: int | None = None,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        groups: int = 8,
        count: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("neighbours", neighbours, 1),
            ("positives", positives, 1),
            ("refresh", refresh, 1),
            ("warmup_epochs", warmup_epochs, 0),
            ("small_views", small_views, 0),
        ):
            if value < least:
                raise InputError(f"method.{name}={value}: expected {least} or more.")
        # Said now, and not after the epochs of warm-up.
        if rule == "centre-wise" and positives > neighbours:
            raise InputError(
                f"method.positives={positives} is more than method.neighbours={neighbours}: pools are chosen from the "
                "nearest images and could never be filled. Raise neighbours (the paper's are 40) or lower positives."
            )
        if rule != "random":
            load_faiss()
        self.tower = MomentumTower(model, dim, hidden, queue_size, momentum, groups, seed)
        self.rule, self.neighbours, self.positives, self.fallback = rule, neighbours, positives, fallback
        self.clusters = max(count // 128, 1) if clusters is None else clusters
        if self.clusters > count:
            raise InputError(f"method.clusters={self.clusters}, but there are {count} training images; choose fewer.")
        self.warmup_epochs, self.refresh, self.cut, self.alpha = warmup_epochs, refresh, cut, alpha
        self.resolutions = tuple(resolutions or ())
        self.reduction, self.clean_weight = reduction, clean_weight
        self.small_views, self.small_size = small_views, small_size
        self.temperature = positive_number("temperature", temperature)
        draw_ratio(alpha, torch.Generator())
        self.register_buffer("partners", torch.full((count, positives), -1, dtype=torch.int64))
        self.generator = torch.Generator().manual_seed(seed)

    def needs(self) -> Needs:
        """Two views of each image and of its partner, at every resolution; no labels."""
        return Needs(
            views=2,
            labels=False,
            partners=True,
            resolutions=self.resolutions,
            small_views=self.small_views,
            small_size=self.small_size,
            batch_coupled=True,
        )

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch."""
        sizes = max(len(self.resolutions), 1)
        views = [pixels(view) for view in batch.views]
        queries, keys, small = views[:sizes], views[sizes : 2 * sizes], views[2 * sizes :]
        if not batch.partner_views:
            return self._plain(queries[0], keys[0], small)
        partners = [pixels(view) for view in batch.partner_views]
        return self._mixed(queries, keys, partners[:sizes], partners[sizes:], small)

    def _plain(self, query_view: Tensor, key_view: Tensor, small: list[Tensor]) -> Output:
        query = self.tower.query(query_view)
        crops = [self.tower.query(view) for view in small]
        self.tower.follow()
        (key,) = self.tower.keys([key_view], self.generator)
        negatives = self.tower.queue.negatives()
        losses = {"clean": info_nce(query, key, self.temperature, negatives)}
        total = losses["clean"] + self._small(crops, key, negatives, losses)
        self.tower.enqueue(key)
        return Output({"total": total, **losses}, lambda: contrast_accuracy(query, key, negatives))

    def _mixed(
        self,
        queries: list[Tensor],
        keys: list[Tensor],
        partner_queries: list[Tensor],
        partner_keys: list[Tensor],
        small: list[Tensor],
    ) -> Output:
        count = len(queries[0])
        # One relative box an image for all its resolutions; lambda follows the pixels of each.
        everywhere = count * world_size()
        drawn = draw_boxes(draw_ratio(self.alpha, self.generator, (everywhere,)), everywhere, self.generator)
        boxes = Boxes(own_share(drawn.side, count), own_share(drawn.centre, count))
        mixtures = []
        for view, other in zip(queries, partner_queries, strict=True):
            if self.cut:
                mixed = cutmix_boxes(view, other, boxes)
                mixtures.append((self.tower.query(mixed.images), mixed.lam))
            else:
                mixtures.append((self.tower.query(view), torch.full((count,), 0.5).to(view)))
        clean = self.tower.query(queries[0]) if self.clean_weight > 0 else None
        crops = [self.tower.query(view) for view in small]
        self.tower.follow()
        pairs = [self.tower.keys([own, other], self.generator) for own, other in zip(keys, partner_keys, strict=True)]
        negatives = self.tower.queue.negatives()
        terms = torch.stack(
            [
                clim_loss(query, own, other, negatives, share, self.temperature)
                for query, share in mixtures
                for own, other in pairs
            ]
        )
        key = pairs[0][0]
        losses = {"mixed": terms.mean() if self.reduction == "mean" else terms.sum()}
        total = losses["mixed"]
        if clean is not None:
            losses["clean"] = info_nce(clean, key, self.temperature, negatives)
            total = total + self.clean_weight * losses["clean"]
        total = total + self._small(crops, key, negatives, losses)
        self.tower.enqueue(key)
        return Output({"total": total, **losses}, lambda: {"lambda": float(mixtures[0][1].mean())})

    def _small(self, crops: list[Tensor], key: Tensor, negatives: Tensor, losses: dict[str, Tensor]) -> Tensor | float:
        """Return the mean loss of small views, noted in `losses`; 0 where there are none."""
        if not crops:
            return 0.0
        losses["small"] = torch.stack([info_nce(crop, key, self.temperature, negatives) for crop in crops]).mean()
        return losses["small"]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the query encoder, and the key tower, whose embeddings choose positives."""
        return {"image": self.tower.model, "selection": self.tower.key_tower()}

    def parameter_groups(self) -> list[Group]:
        """Return the query encoder and its projector; keys follow without a gradient."""
        return self.tower.parameter_groups()

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Choose the pools anew where it is time; `embed` answers the key tower's embeddings."""
        since = epoch - self.warmup_epochs
        if since < 0 or since % self.refresh:
            return EpochPlan()
        chosen = select_positives(
            embed(),
            k=self.neighbours,
            clusters=self.clusters,
            n_pos=self.positives,
            generator=self.generator,
            rule=self.rule,
            fallback=self.fallback,
            epoch=epoch,
        )
        self.partners.copy_(chosen.pools)
        return EpochPlan(logs=chosen.logs())

    def after_step(self, step: int) -> None:
        """The queue and the key encoder have moved in the step itself."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
