"""MoCo v2, plain or with mixed queries or mixed negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.distributed import gather, rank
from metrixkit.errors import InputError
from metrixkit.losses import mixed_info_nce
from metrixkit.losses.pairs import positive_number
from metrixkit.losses.unit import unit_rows
from metrixkit.methods.cluster_memory import ClusterMemory
from metrixkit.methods.instance_mixers import MixCo, check_host
from metrixkit.methods.instance_mixture import InstanceMixer, Mixture
from metrixkit.methods.momentum_tower import MomentumTower, pixels
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output

MIXCO_TEMPERATURE = 0.05  # the authors' default on MoCo


class MoCo(nn.Module):
    """MoCo v2 (Chen et al., 2020): contrast with a queue of past keys, with any of the instance mixers.

    A step: queries of one view; the key encoder moves towards the query encoder; keys of the other view in a shuffled
    pass; the losses, against the queue as it was; then the keys join it.

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``).
        mixer: What is mixed; see :mod:`metrixkit.methods.instance_mixers`.
        dim: Length of queries and keys.
        hidden: Width of the projector's inner layer; null takes the features' own.
        queue_size: Keys kept as negatives; at least a batch of all processes.
        momentum: Share of the key encoder that an update keeps.
        temperature: T of the contrast.
        groups: Parts of a process's batch with batch-norm statistics of their own; about 32 images each are usual.
        seed: Of lambda, partners and shuffles.
        count: Training images, for a mixer that asks for clusters of them. Given by the programme.

    Raises:
        InputError: A mixer that is not defined on MoCo, a model that projects by itself, a number out of range, too
            many clusters for the images.
    """

    def __init__(
        self,
        model: nn.Module,
        mixer: InstanceMixer | None = None,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        groups: int = 8,
        seed: int = 0,
        count: int | None = None,
    ) -> None:
        super().__init__()
        self.mixer = check_host(mixer, "moco")
        self.tower = MomentumTower(model, dim, hidden, queue_size, momentum, groups, seed)
        hardest = getattr(self.mixer, "hardest", 0)
        if hardest > queue_size:
            raise InputError(
                f"mixer.hardest={hardest} negatives of a queue of method.queue_size={queue_size}: take fewer, or a "
                "longer queue."
            )
        self.memory: ClusterMemory | None = None
        if self.mixer.clusters is not None:
            if count is None:
                raise InputError("this mixer asks for clusters of the images: say how many images there are (count).")
            clusters, least = self.mixer.clusters, self.mixer.least
            self.memory = ClusterMemory(count, clusters, dim, least=least, seed=seed, section="mixer")
        self.temperature = positive_number("temperature", temperature)
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0

    def needs(self) -> Needs:
        """Two views of each image, no labels."""
        return Needs(views=2, labels=False, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch."""
        query_view, key_view = (pixels(view) for view in batch.views)
        index, mixture = self._mixture(batch, query_view, key_view)
        query, mixed = self._queries(query_view, mixture)
        self.tower.follow()
        # The other view's keys are targets of mixtures only where a mixer says so.
        crossed = mixture is not None and "query" in (mixture.first_view, mixture.second_view)
        key, *other = self.tower.keys([key_view, query_view] if crossed else [key_view], self.generator)
        negatives = self.tower.queue.negatives()
        losses: dict[str, Tensor] = {}
        if query is not None:
            losses["clean"] = self.mixer.contrast(query, key, negatives, self.temperature, self.generator, self.epoch)
        if mixture is not None and mixed is not None:
            losses["mixed"] = self._mixed(mixed, mixture, key, other, negatives)
        weights = {"clean": self.mixer.clean_weight, "mixed": self.mixer.weight}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.tower.enqueue(key)
        if self.memory is not None and self.training:
            self.memory.update(index, key)

        def logs() -> dict[str, float]:
            told = {} if mixture is None else {"lambda": float(mixture.lam.mean())}
            return told | ({} if query is None else contrast_accuracy(query, key, negatives))

        return Output({"total": total, **losses}, logs)

    def _mixture(self, batch: Batch, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Mixture | None]:
        """Return the rows of the training split, where clusters are kept, and the mixtures."""
        if self.memory is None:
            return torch.empty(0, dtype=torch.int64), self.mixer.mix(query_view, key_view, self.generator)
        if not self.memory.started:
            raise RuntimeError("MoCo: before_epoch makes the clusters; call it before the first step.")
        assert batch.index is not None  # the loop brings it with every image
        index = batch.index.to(self.memory.labels.device)
        labels = self.memory.labels[index]
        return index, self.mixer.mix_clustered(query_view, key_view, self.generator, labels)

    def _queries(self, view: Tensor, mixture: Mixture | None) -> tuple[Tensor | None, Tensor | None]:
        wanted = self.mixer.clean_weight > 0
        if mixture is None:
            return self.tower.query(view), None
        if mixture.together and wanted:
            return self.tower.query_together(view, mixture.images)
        clean = self.tower.query(view) if wanted else None
        if mixture.stage is None:
            return clean, self.tower.query(mixture.images)
        parts = (mixture.first, mixture.second, mixture.lam, mixture.stage)
        return clean, self.tower.query_maps(mixture.images, *parts)

    def _mixed(self, mixed: Tensor, mixture: Mixture, key: Tensor, other: list[Tensor], negatives: Tensor) -> Tensor:
        targets, first, second = key, mixture.first, mixture.second
        if mixture.candidates == "joint":
            if mixture.gathered:
                targets, offset = gather(key), rank() * len(key)
                first, second = first + offset, second + offset
        elif other:
            targets = torch.cat([key, other[0]])
            first = first + len(key) * (mixture.first_view == "query")
            second = second + len(key) * (mixture.second_view == "query")
        temperature = self.mixer.temperature or (
            MIXCO_TEMPERATURE if isinstance(self.mixer, MixCo) else self.temperature
        )
        return mixed_info_nce(mixed, targets, first, second, mixture.lam, temperature, negatives, mixture.candidates)

    def encoders(self) -> dict[str, nn.Module]:
        """Return the query encoder and, where images are clustered, the key tower, whose embeddings are."""
        towers: dict[str, nn.Module] = {"image": self.tower.model}
        return towers if self.memory is None else towers | {"selection": self.tower.key_tower()}

    def parameter_groups(self) -> list[Group]:
        """Return the query encoder and its projector; keys follow without a gradient."""
        return self.tower.parameter_groups()

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Note the epoch, for mixers that wait; make the first clusters, where a mixer asks for such."""
        self.epoch = epoch
        if self.memory is None or self.memory.started:
            return EpochPlan()
        return EpochPlan(logs={"clusters/largest": self.memory.begin(embed())})

    def after_step(self, step: int) -> None:
        """The queue and the key encoder have moved in the step itself."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside tensors: the generator's state and the epoch."""
        return {"generator": self.generator.get_state(), "epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws of :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
        self.epoch = int(state["epoch"])


@torch.no_grad()
def contrast_accuracy(query: Tensor, key: Tensor, negatives: Tensor) -> dict[str, float]:
    """Return the share of queries that are nearer to their key than to every negative."""
    q, k, n = (unit_rows(rows.float()) for rows in (query, key, negatives))
    own = torch.linalg.vecdot(q, k)
    return {"contrast_accuracy": float((own > (q @ n.T).amax(1)).float().mean())}
