"""How the published self-supervised mixers differ: in partner, lambda, targets, candidates and what is added.

Every image is a class of its own. A mixture of image i with image j is contrasted with a target of i by lambda and with
one of j by 1 - lambda: that is one cross-entropy with two right answers, and the rest is description. N images of this
process.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrixkit.distributed import world_size
from metrixkit.errors import InputError
from metrixkit.losses import info_nce, mochi_loss
from metrixkit.methods.instance_mixture import InstanceMixer, Mixture, mixer_weight
from metrixkit.methods.instance_mixup import InstanceMixup, InterIntra
from metrixkit.methods.momentum_tower import own_share
from metrixkit.mixing import draw_between, draw_partners, draw_ratio
from metrixkit.mixing.images import cutmix, mixup


class NoMixer(InstanceMixer):
    """The host without mixing."""


class MixCo(InstanceMixer):
    """MixCo (Kim et al., 2020): the two halves of a batch are mixed; the clean loss stays beside.

    N / 2 mixtures of images i and i + N / 2, lambda ~ U(0, 1) for each. On MoCo they are contrasted with all N keys of
    this process and the queue, both parents in one softmax, and pass the encoder together with the clean images; on
    SimCLR with the N embeddings of the other view, in both directions, averaged. Keys of other processes are no
    candidates, as in the authors' code: the loss then depends on the number of processes.

    Args:
        temperature: Of the mixed loss; null takes the authors' default: 0.05 on MoCo (they took 1.0 for ImageNet), the
            host's on SimCLR.
        weight: Factor on the mixed loss.

    Raises:
        InputError: A number out of range.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco", "simclr")

    def __init__(self, temperature: float | None = None, weight: float = 1.0) -> None:
        self.temperature, self.weight = _temperature(temperature), mixer_weight("weight", weight)

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture:
        """Return N / 2 mixtures.

        Raises:
            InputError: N is odd.
        """
        half, odd = divmod(len(query), 2)
        if odd:
            raise InputError(
                f"mixer mixco mixes the two halves of a batch, and {len(query)} images have none; choose an even "
                "sampler.batch_size per process, and sampler.drop_last=true."
            )
        lam = own_share(draw_between(0, 1, generator, (half * world_size(),)), half)
        rows = torch.arange(half, device=query.device)
        mixed = mixup(query[:half], query[half:], lam)
        return Mixture(mixed.images, rows, rows + half, mixed.lam, "joint", together=True)


class IMix(InstanceMixer):
    """i-Mix (Lee et al., ICLR 2021): every query image is mixed with another one's; there is no clean loss.

    Image i is mixed with that of a random permutation, lambda ~ Beta(alpha, alpha), then max(lambda, 1 - lambda), so
    that i dominates. On MoCo all keys of all processes and the queue are candidates in one softmax; on SimCLR its
    N-pair form; on BYOL the cosines with both targets.

    Args:
        alpha: Concentration, > 0.
        image: How two images become one: mixup, with a lambda each, or cutmix, with one for the batch.
        temperature: Null takes the host's.

    Raises:
        InputError: A number out of range.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco", "simclr", "byol")
    clean_weight = 0.0
    weight = 1.0

    def __init__(
        self, alpha: float = 1.0, image: Literal["mixup", "cutmix"] = "mixup", temperature: float | None = None
    ) -> None:
        self.alpha, self.image, self.temperature = alpha, image, _temperature(temperature)
        draw_ratio(alpha, torch.Generator())  # refuses what cannot be drawn from

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture:
        """Return N mixtures."""
        count = len(query)
        partner = draw_partners(count, "permutation", generator).to(query.device)
        if self.image == "cutmix":
            lam = draw_ratio(self.alpha, generator)
            mixed = cutmix(query, partner, float(torch.maximum(lam, 1 - lam)), generator)
        else:
            lam = own_share(draw_ratio(self.alpha, generator, (count * world_size(),)), count)
            mixed = mixup(query, partner, torch.maximum(lam, 1 - lam))
        rows = torch.arange(count, device=query.device)
        return Mixture(mixed.images, rows, partner, mixed.lam, "joint", gathered=True)


class UnMix(InstanceMixer):
    """Un-Mix (Shen et al., AAAI 2022): the batch is mixed with itself in reverse; the clean loss stays beside.

    One lambda ~ Beta(alpha, alpha) a batch; by MixUp, or by CutMix with a probability. Each mixture is contrasted with
    the keys of both parents, in a softmax each.

    Args:
        alpha: Concentration, > 0.
        cutmix_probability: Of CutMix instead of MixUp, in [0, 1].
        weight: Factor on the mixed loss.

    Raises:
        InputError: A number out of range.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco", "swav")

    def __init__(self, alpha: float = 1.0, cutmix_probability: float = 0.5, weight: float = 1.0) -> None:
        if not 0 <= cutmix_probability <= 1:
            raise InputError(f"mixer.cutmix_probability={cutmix_probability}: expected a probability in [0, 1].")
        self.alpha, self.cutmix_probability, self.weight = alpha, cutmix_probability, mixer_weight("weight", weight)
        draw_ratio(alpha, torch.Generator())

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture:
        """Return N mixtures."""
        rows = torch.arange(len(query), device=query.device)
        lam, coin = float(draw_ratio(self.alpha, generator)), float(draw_between(0, 1, generator))
        partner = rows.flip(0)
        cut = coin < self.cutmix_probability
        mixed = cutmix(query, partner, lam, generator) if cut else mixup(query, partner, lam)
        return Mixture(mixed.images, rows, partner, mixed.lam, "split")


class MoCHi(InstanceMixer):
    """MoCHi (Kalantidis et al., NeurIPS 2020): the hardest negatives of the queue are mixed into harder ones.

    Images are not mixed: the synthetic negatives join the queue in the clean loss.

    Args:
        hardest: Negatives nearest to a query among which pairs are drawn.
        synthetic: Mixtures of two of them a query.
        harder: Mixtures of one of them with the query itself.
        warmup_epochs: First epochs without, counted from the start.

    Raises:
        InputError: A number out of range.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco",)

    def __init__(self, hardest: int = 1024, synthetic: int = 1024, harder: int = 128, warmup_epochs: int = 10) -> None:
        for name, value, least in (("hardest", hardest, 2), ("synthetic", synthetic, 0), ("harder", harder, 0)):
            if value < least:
                raise InputError(f"mixer.{name}={value}: expected {least} or more.")
        self.hardest, self.synthetic, self.harder, self.warmup_epochs = hardest, synthetic, harder, warmup_epochs

    def contrast(
        self, query: Tensor, key: Tensor, negatives: Tensor, temperature: float, generator: torch.Generator, epoch: int
    ) -> Tensor:
        """Return the loss with synthetic negatives, once the warm-up is over."""
        if epoch < self.warmup_epochs:
            return info_nce(query, key, temperature, negatives)
        return mochi_loss(
            query,
            key,
            negatives,
            hardest=self.hardest,
            synthetic=self.synthetic,
            harder=self.harder,
            temperature=temperature,
            generator=generator,
        )


MIXERS: dict[str, type[InstanceMixer]] = {
    "none": NoMixer,
    "mixco": MixCo,
    "imix": IMix,
    "unmix": UnMix,
    "mochi": MoCHi,
    "instance-mixup": InstanceMixup,
    "inter-intra": InterIntra,
}


def check_host(mixer: InstanceMixer | None, host: str) -> InstanceMixer:
    """Return the mixer of a host, none by default; raise InputError where it is not defined on that host."""
    mixer = NoMixer() if mixer is None else mixer
    if host not in mixer.hosts:
        fits = [name for name, cls in MIXERS.items() if host in cls.hosts]
        raise InputError(
            f"mixer {type(mixer).__name__} is defined on {', '.join(mixer.hosts)}, not on {host}; there: "
            f"{', '.join(fits)}."
        )
    return mixer


def _temperature(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise InputError(f"mixer.temperature={value}: expected a number > 0, or null.")
    return value
