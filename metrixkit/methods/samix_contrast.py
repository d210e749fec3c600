"""SAMix-I: a Mixer learned beside MoCo v2 from instances; no labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from metrixkit.losses import eta_instance_loss
from metrixkit.losses.eta_class import check_eta
from metrixkit.losses.eta_instance import InstanceMode
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.methods.learned_masks import LearnedMasks, checked_factor, cosine_to
from metrixkit.methods.samix_core import MixedContrast, core_options
from metrixkit.methods.samix_presets import CONTRAST, RatioPer, Views, chosen
from metrixkit.methods.samix_schedules import Schedule, decayed_weight
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class SAMixI(nn.Module):
    """SAMix-I (Li et al., 2021): MoCo v2 with mixtures whose masks are learned from instances.

    The query tower learns from clean queries, as MoCo, and from mixtures, contrasted with the keys of both images by
    lambda; the Mixer learns from the eta-balanced contrast of its own mixtures, through the frozen momentum tower, and
    from the mask loss. Partners are drawn among a process's own rows; every row has its whole gradient whatever the
    number of processes (the release loses all but one process's share).

    ============== ======= ======= ========================= =======
    preset         samix   paper   official                  automix
    ============== ======= ======= ========================= =======
    ratio_per      sample  batch   batch                     batch
    views          cross   cross   official                  cross
    eta, eta_mode  0.5,    0.5,    0, InfoNCE (and eta local) 1,
                   joint   joint                             InfoNCE
    mask_kind      l1+variance, all three                    l1
    beta_schedule  linear  linear  official                  linear
    ============== ======= ======= ========================= =======

    Args:
        model: Encoder of images to pooled features (``model.dim=null``, ``model.normalize=false``), with a stage that
            has maps.
        preset: Which of the above, and the Mixer of that name; what follows changes it where it is not null.
        stage: Whose maps the Mixer reads, 0 being the stem: 3 is the third residual stage of a ResNet, 2 is right for
            the backbone `small` at 32 pixels.
        alpha: Lambda ~ Beta(alpha, alpha), two draws a step, > 0.
        ratio_per: One lambda a batch, or one a sample.
        views: cross: both images of a mixture are query views, both targets keys of the other views. official: the
            partner is a key view and its target the query view.
        eta: Weight of the second term of the Mixer's loss; see :func:`metrixkit.losses.eta_instance_loss`.
        eta_mode: How that loss is taken apart.
        eta_schedule: How eta falls; the release's auxiliary weight does.
        mask_kind: See :func:`metrixkit.losses.mask_loss`.
        mask_margin: By how much the mean of masks may miss lambda.
        beta: Weight of the mask loss at the start.
        beta_schedule: How it falls.
        adjust_margin: The masks of the query tower's mixtures are brought to the mean lambda where they miss it by
            more.
        mixer_options: Choices of :class:`metrixkit.mixing.Mixer` that differ from its preset.
        mixer_lr: Factor on the base rate for the Mixer.
        mixer_minimum: Where the Mixer's own cosine ends, as a share of its rate; null takes the run's schedule.
        mixer_from: Run, or folder, whose Mixer to start with; its stage and choices hold.
        freeze_mixer: The parameters of that Mixer stay, and it reads maps of the network that it was kept with, which
            stays, too; generation is left out, and the run keeps no Mixer of its own.
        clean_weight: Factor on MoCo's own loss.
        dim: Length of queries and keys.
        hidden: Width of the projector's inner layer; null takes the features' own.
        queue_size: Keys kept as negatives.
        momentum: Share of the key tower that an update keeps.
        momentum_end: Where a cosine takes it at the end; null keeps it constant, as MoCo and the release.
        temperature: T of all contrasts.
        groups: Parts of a process's batch with batch-norm statistics of their own.
        steps: Of the whole run. Given by the programme.
        seed: Of all draws.

    Raises:
        InputError: A model that projects by itself or has no such stage or no maps there, an unknown name, a number
            out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        preset: str = "samix",
        stage: int = 3,
        alpha: float = 2.0,
        ratio_per: RatioPer | None = None,
        views: Views | None = None,
        eta: float | None = None,
        eta_mode: InstanceMode | None = None,
        eta_schedule: Schedule = "constant",
        mask_kind: MaskLossKind | None = None,
        mask_margin: float = 0.1,
        beta: float = 0.1,
        beta_schedule: Schedule | None = None,
        adjust_margin: float = 0.1,
        mixer_options: dict[str, Any] | None = None,
        mixer_lr: float = 1.0,
        mixer_minimum: float | None = None,
        mixer_from: str | None = None,
        freeze_mixer: bool = False,
        clean_weight: float = 1.0,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        momentum_end: float | None = None,
        temperature: float = 0.2,
        groups: int = 8,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.choices = chosen(CONTRAST, preset, locals())
        self.core = MixedContrast(model, **core_options(locals(), self.choices))
        decayed_weight(0, steps, check_eta(self.choices.eta), eta_schedule)
        self.eta_schedule, self.steps = eta_schedule, steps
        self.clean_weight = checked_factor("clean_weight", clean_weight)
        self.mixer_lr, self.mixer_minimum = checked_factor("mixer_lr", mixer_lr), mixer_minimum
        cosine_to(mixer_minimum)

    @property
    def learned_masks(self) -> LearnedMasks:
        """The Mixer with its stage."""
        return self.core.learned_masks

    def needs(self) -> Needs:
        """Two views of each image, no labels."""
        return Needs(views=2, labels=False, batch_coupled=True)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch."""
        core, choices = self.core, self.choices
        sides = core.sides(batch)
        eta = decayed_weight(core.step, self.steps, choices.eta, self.eta_schedule)
        losses = dict(sides.losses)
        if sides.generated is not None:
            options = (sides.negatives, sides.lam, eta, core.temperature, choices.eta_mode)
            others = sides.other[sides.partner]
            losses["generation"] = eta_instance_loss(sides.generated, sides.key, others, *options)
        core.tower.enqueue(sides.key)
        return Output({"total": core.total(losses, self.clean_weight), **losses}, sides.logs)

    def encoders(self) -> dict[str, nn.Module]:
        """Return the query encoder."""
        return {"image": self.core.tower.model}

    def parameter_groups(self) -> list[Group]:
        """Return the query tower's groups and the Mixer's."""
        return self.core.parameter_groups(self.mixer_lr, self.mixer_minimum)

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Nothing to settle."""
        return EpochPlan()

    def after_step(self, step: int) -> None:
        """Count the step; queue and key tower have moved in it."""
        self.core.step = step + 1
