"""The mixers of SAMix' comparison (Li et al., 2021): instance mixup by any image mixer, and Inter-Intra by clusters."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.methods.instance_mixture import InstanceMixer, Mixture, View, mixer_weight
from metrixkit.mixing import draw_partners, draw_ratio
from metrixkit.mixing.images import IMAGE_MIXER, IMAGE_MIXERS, fine_grained_saliency, inter_intra, mixup


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
        self.mixer = mixup if inside else lookup(image, IMAGE_MIXERS, IMAGE_MIXER, by_caller=True)
        self.salient = image == "puzzlemix"
        self.alpha, self.view, self.partner_view = alpha, view, partner_view
        self.clean_weight, self.weight = mixer_weight("clean_weight", clean_weight), mixer_weight("weight", weight)
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
        self.clean_weight, self.weight = mixer_weight("clean_weight", clean_weight), mixer_weight("weight", weight)
        for concentration in (alpha, intra_alpha):
            draw_ratio(concentration, torch.Generator())

    def mix_clustered(self, query: Tensor, key: Tensor, generator: torch.Generator, labels: Tensor) -> Mixture:
        """Return N mixtures."""
        rows = torch.arange(len(query), device=query.device)
        partner = draw_partners(len(query), "permutation", generator).to(query.device)
        between, within = (float(draw_ratio(alpha, generator)) for alpha in (self.alpha, self.intra_alpha))
        mixed = inter_intra(query, partner, between, generator, labels, intra_lam=within)
        return Mixture(mixed.images, rows, partner, mixed.lam, "split")
