"""How the published self-supervised mixers differ: in partner, lambda, targets, candidates and what is added.

Every image is a class of its own. A mixture of image i with image j is contrasted with a target of i by lambda and with
one of j by 1 - lambda: that is one cross-entropy with two right answers, and the rest is description. N images of this
process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrixkit.distributed import world_size
from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.losses import info_nce, mochi_loss
from metrixkit.methods.momentum_tower import own_share
from metrixkit.mixing import draw_between, draw_partners, draw_ratio
from metrixkit.mixing.images import IMAGE_MIXERS, cutmix, fine_grained_saliency, inter_intra, mixup

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
        self.temperature, self.weight = _temperature(temperature), _weight("weight", weight)

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
        self.alpha, self.cutmix_probability, self.weight = alpha, cutmix_probability, _weight("weight", weight)
        draw_ratio(alpha, torch.Generator())

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture:
        """Return N mixtures."""
        rows = torch.arange(len(query), device=query.device)
        lam, coin = float(draw_ratio(self.alpha, generator)), float(draw_between(0, 1, generator))
        partner = rows.flip(0)
        cut = coin < self.cutmix_probability
        mixed = cutmix(query, partner, lam, generator) if cut else mixup(query, partner, lam)
        return Mixture(mixed.images, rows, partner, mixed.lam, "split")


class InstanceMixup(InstanceMixer):
    """Same-view and cross-view instance mixup, as SAMix' pipeline has it (Li et al., 2021); BSIM and WBSIM too.

    Image i is mixed with that of a random permutation by one lambda ~ Beta(alpha, alpha) a batch, and contrasted with
    targets of both parents, in a softmax each. With ``view=same`` the targets are keys of the very views that were
    mixed, which degenerates; with ``cross``, the default, keys of the other views. ``clean_weight=0`` is BSIM and 1 is
    WBSIM (Chu et al., 2020) as reconstructed from its abstract: its own weights were not at hand.

    Args:
        image: How two images become one: a name of the image mixers (mixup, cutmix, fmix, resizemix, ...), or
            manifoldmix: mixup of the images or of the maps of a stage, drawn for each step. There are no labels whose
            loss could tell what is salient: puzzlemix takes the model-free saliency of saliencymix.
            (SAMix' comparison took the gradient of a cluster classifier, without code.)
        alpha: Concentration, > 0.
        view: Which views are targets.
        partner_view: Which view the partner's pixels come from. With "key" and ``cross``, the targets are the views
            that were not mixed: the key view of i, the query view of j, as in the code of SAMix.
        clean_weight: Factor on the clean loss.
        weight: Factor on the mixed loss.
        stages: Of manifoldmix, beside the images, 0 being the stem; null is 1 and 2, the first residual stages.

    Raises:
        InputError: A number out of range or an unknown image mixer; stages, or the partner's key view, that it has no
            use for.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco",)

    def __init__(
        self,
        image: str = "mixup",
        alpha: float = 1.0,
        view: Literal["cross", "same"] = "cross",
        partner_view: View = "query",
        clean_weight: float = 1.0,
        weight: float = 1.0,
        stages: list[int] | None = None,
    ) -> None:
        if image == "inter-intra":
            raise InputError("mixer.image='inter-intra' chooses by clusters of the images; set mixer=inter-intra.")
        inside = image == "manifoldmix"
        if inside and partner_view == "key":
            raise InputError("mixer.image='manifoldmix' mixes maps of one view; set mixer.partner_view=query.")
        if stages is not None and not inside:
            raise InputError(f"mixer.stages={stages} belongs to mixer.image=manifoldmix.")
        self.stages = () if not inside else (1, 2) if stages is None else tuple(stages)
        self.mixer = mixup if inside else lookup(image, IMAGE_MIXERS, "image mixer")
        self.salient = image == "puzzlemix"
        self.alpha, self.view, self.partner_view = alpha, view, partner_view
        self.clean_weight, self.weight = _weight("clean_weight", clean_weight), _weight("weight", weight)
        draw_ratio(alpha, torch.Generator())

    def mix(self, query: Tensor, key: Tensor, generator: torch.Generator) -> Mixture:
        """Return N mixtures."""
        rows = torch.arange(len(query), device=query.device)
        partner = draw_partners(len(query), "permutation", generator).to(query.device)
        other = (key if self.partner_view == "key" else query)[partner]
        options = {}
        if self.salient:
            options = {"saliency": fine_grained_saliency(query), "partner_saliency": fine_grained_saliency(other)}
        mixed = self.mixer(query, other, float(draw_ratio(self.alpha, generator)), generator, **options)
        cross = self.view == "cross"
        first: View = "key" if cross else "query"
        second: View = "key" if cross == (self.partner_view == "query") else "query"
        choices = (None, *self.stages)
        at = choices[int(torch.randint(len(choices), (), generator=generator))] if self.stages else None
        images = mixed.images if at is None else query
        return Mixture(images, rows, partner, mixed.lam, "split", first_view=first, second_view=second, stage=at)


class InterIntra(InstanceMixer):
    """Inter-Intra (Li et al., SAMix, 2021, appendix A.2.1): CutMix between clusters, MixUp within one.

    Image i is mixed with that of a random permutation and contrasted with the keys of both, in a softmax each; the host
    keeps clusters by Online Deep Clustering, as SAMix-C does. No code was released.

    Args:
        clusters: C; 200 is SAMix-C's.
        least: Images that a cluster needs to stay.
        alpha: Concentration for pairs of two clusters, > 0; the paper says 2 or more.
        intra_alpha: For pairs of one cluster, > 0.
        clean_weight: Factor on the clean loss.
        weight: Factor on the mixed loss.

    Raises:
        InputError: A number out of range.
    """

    hosts: ClassVar[tuple[str, ...]] = ("moco",)

    def __init__(
        self,
        clusters: int = 200,
        least: int = 20,
        alpha: float = 2.0,
        intra_alpha: float = 0.2,
        clean_weight: float = 1.0,
        weight: float = 1.0,
    ) -> None:
        self.clusters, self.least, self.alpha, self.intra_alpha = clusters, least, alpha, intra_alpha
        self.clean_weight, self.weight = _weight("clean_weight", clean_weight), _weight("weight", weight)
        for concentration in (alpha, intra_alpha):
            draw_ratio(concentration, torch.Generator())

    def mix_clustered(self, query: Tensor, key: Tensor, generator: torch.Generator, labels: Tensor) -> Mixture:
        """Return N mixtures."""
        rows = torch.arange(len(query), device=query.device)
        partner = draw_partners(len(query), "permutation", generator).to(query.device)
        between, within = (float(draw_ratio(alpha, generator)) for alpha in (self.alpha, self.intra_alpha))
        mixed = inter_intra(query, partner, between, generator, labels, intra_lam=within)
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


def _weight(name: str, value: float) -> float:
    if not value >= 0:
        raise InputError(f"mixer.{name}={value}: expected a factor of at least 0.")
    return float(value)


def _temperature(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise InputError(f"mixer.temperature={value}: expected a number > 0, or null.")
    return value
