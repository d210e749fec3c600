"""What a self-supervised mixer is: mixtures of a batch, and what they are contrasted with. N images of this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.losses import info_nce

View = Literal["query", "key"]


@dataclass(frozen=True)
class Mixture:
    """M mixed images and what they are contrasted with.

    Attributes:
        images: (M, 3, H, W) in [0, 1].
        first: (M,) int64, which image of the batch a mixture holds lambda of.
        second: (M,) int64, which it holds the rest of.
        lam: (M,) share of the first.
        candidates: "joint": one softmax over all targets of the batch and the queue, in which both parents compete.
            "split": two, each with one parent and the queue.
        first_view: Which view of the first image is its target.
        second_view: Which of the second.
        together: Whether mixtures pass the encoder in one batch with the clean images.
        gathered: Whether the targets of a joint softmax are those of all processes.
        stage: Stage of the backbone at whose maps images are mixed by `lam`; `images` are then the whole ones, first
            and partner by the rows above. None where they are mixtures already.
    """

    images: Tensor
    first: Tensor
    second: Tensor
    lam: Tensor
    candidates: Literal["joint", "split"]
    first_view: View = "key"
    second_view: View = "key"
    together: bool = False
    gathered: bool = False
    stage: int | None = None


class InstanceMixer:
    """No mixing: the host's own loss.

    Attributes:
        clean_weight: Factor on the host's own loss.
        weight: Factor on the mixed loss.
        temperature: Of the mixed loss; None is the host's.
        hosts: Methods that it is defined on.
        clusters: In how many clusters the host shall keep the images, whose numbers it then gives as pseudo labels;
            None where none are asked for.
        least: Images that such a cluster needs to stay.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco", "simclr", "byol", "swav")
    clean_weight: float = 1.0
    weight: float = 0.0
    temperature: float | None = None
    clusters: int | None = None
    least: int = 20

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture | None:
        """Return mixtures of a batch, or None.

        Args:
            query: (N, 3, H, W) in [0, 1], the view that queries are made of.
            key: The other view.
            generator: A CPU generator, equal in every process.
        """
        return None

    def mix_clustered(self, query: Tensor, key: Tensor, generator: torch.Generator, labels: Tensor) -> Mixture | None:
        """Return mixtures of a batch; hosts call this in place of :meth:`mix` where :attr:`clusters` is set.

        Args:
            query: As for :meth:`mix`, like what follows but
            key: the other view.
            generator: A CPU generator.
            labels: (N,) int64 clusters of the images.
        """
        return self.mix(query, key, generator)

    def contrast(
        self, query: Tensor, key: Tensor, negatives: Tensor, temperature: float, generator: torch.Generator, epoch: int
    ) -> Tensor:
        """Return the clean loss of (N, d) queries with their keys and (K, d) negatives: a scalar."""
        return info_nce(query, key, temperature, negatives)


def mixer_weight(name: str, value: float) -> float:
    """Return a factor on a loss; InputError unless it is at least 0."""
    if not value >= 0:
        raise InputError(f"mixer.{name}={value}: expected a factor of at least 0.")
    return float(value)
