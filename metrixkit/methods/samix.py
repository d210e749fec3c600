"""SAMix and AutoMix, supervised: a classifier on mixtures whose masks a Mixer learns beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses import eta_loss, mixed_cross_entropy
from metrixkit.losses.eta_class import EtaMode
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.losses.unit import no_autocast
from metrixkit.methods.classification import check_classifiable, linear_layer
from metrixkit.methods.learned_masks import LearnedMasks, check_choice, checked_factor, cosine_to
from metrixkit.methods.mixer_start import first_mixer, teacher_weights
from metrixkit.methods.momentum_tower import pixels
from metrixkit.methods.samix_presets import SUPERVISED, AdjustTo, RatioPer, chosen
from metrixkit.methods.samix_schedules import Schedule, samix_momentum
from metrixkit.mixing import adjust_mask, draw_between, draw_partners
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.mixing.mixer import lam_margin as even_at_the_ends
from metrixkit.models.classifier import Classifier
from metrixkit.models.momentum import momentum_copy, update
from metrixkit.seam import Batch, EpochPlan, Group, Needs, Output


class SAMix(nn.Module):
    """SAMix (Li et al., 2021) and AutoMix (Liu et al., ECCV 2022) for labelled images.

    Two sides share a step and no gradient. The Mixer makes masks from the maps of a momentum copy of the network, and
    learns through that copy, which is frozen, from the loss of its mixtures (generation); the network learns from
    clean images and from mixtures of other pairs with another lambda, made by the Mixer without gradient. After the
    update the copy's parameters follow the network's; its batch norms run in training mode and keep statistics of
    their own. Pairs are of a process's own rows; lambda and permutation are alike in all processes.

    ================== ============ ============ ============= ============
    preset             samix        paper        official      automix
    ================== ============ ============ ============= ============
    ratio_per          sample       batch        batch         batch
    eta, eta_mode      0.5, split   0.5, split   no effect     1 (none)
    mask_kind          l1+variance  l1+variance  l1+variance   l1
    beta_schedule      linear       linear       official      linear
    adjust_probability 1            1            0             0
    adjust_to          own          own          official      own
    lam_margin         off          off          0.08          0.08
    momentum_end       1            1            0.99999       1
    ================== ============ ============ ============= ============

    and the Mixer is the preset of the same name. With one lambda a batch the batch norm inside SAMix' Mixer hides it;
    ``samix`` therefore draws one a sample.

    Args:
        model: Encoder of images to embeddings that are not normalised (``model.normalize=false``), pooled features
            (``model.dim=null``) as a rule, with a stage that has maps.
        num_classes: C. Given by the programme.
        preset: Which of the above; what follows changes it where it is not null.
        stage: Whose maps the Mixer reads, 0 being the stem: 3 is the third residual stage of a ResNet. Maps of about
            8 x 8 to 16 x 16 are usual; stage 2 of the backbone `small` at 32 pixels.
        alpha: Lambda ~ Beta(alpha, alpha), two draws a step, > 0.
        ratio_per: One lambda a batch, or one a sample.
        eta: Weight of the global part of the generation loss; see :func:`metrixkit.losses.eta_loss`.
        eta_mode: How that loss is taken apart.
        mask_kind: See :func:`metrixkit.losses.mask_loss`.
        mask_margin: By how much the mean of masks may miss lambda.
        beta: Weight of the mask loss at the start.
        beta_schedule: How it falls.
        adjust_probability: Share of the steps in which the network's masks are brought to the mean lambda.
        adjust_to: The lambda of the masks themselves, or as released by mistake the one of the Mixer's pairs.
        lam_margin: Plain MixUp for the network where lambda or 1 - lambda is at most this; negative for never.
        switch_off: Share of the steps with generation at the start, falling to 0 by a cosine; null is all of them.
        momentum: Share of itself that the copy keeps, at the start.
        momentum_end: At the end. 1 stands still; the releases stop at 0.999999 (CIFAR, Tiny-ImageNet), 0.99999 and
            0.99996 (Aircraft).
        momentum_schedule: See :func:`~metrixkit.methods.samix_schedules.samix_momentum`.
        mixer_options: Choices of :class:`metrixkit.mixing.Mixer` that differ from its preset (``warp``, ``dropout``).
        mixer_lr: Factor on the base rate for the Mixer.
        mixer_minimum: Where the Mixer's own cosine ends, as a share of its rate; null takes the run's schedule.
        mixer_from: Run, or folder, whose Mixer to start with; its stage and choices hold.
        freeze_mixer: The parameters of that Mixer and of the network it was kept with stay: they make masks, and
            generation is left out. The run keeps no Mixer of its own. Needs ``network="online"``.
        head: Which of the two linear layers is judged, fixed in advance: the one of mixtures, or of clean images.
        network: Whether the network or its momentum copy is judged and kept.
        clean_weight: Factor on the loss of clean images; 0 leaves them and their layer out.
        classifier_lr: Factor on the base rate for the linear layers.
        steps: Of the whole run. Given by the programme.
        seed: Of lambda, partners and coins.

    Raises:
        InputError: Fewer than two classes, a model that normalises or has no such stage or no maps there, an unknown
            name, a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        preset: str = "samix",
        stage: int = 3,
        alpha: float = 2.0,
        ratio_per: RatioPer | None = None,
        eta: float | None = None,
        eta_mode: EtaMode | None = None,
        mask_kind: MaskLossKind | None = None,
        mask_margin: float = 0.1,
        beta: float = 0.1,
        beta_schedule: Schedule | None = None,
        adjust_probability: float | None = None,
        adjust_to: AdjustTo | None = None,
        lam_margin: float | None = None,
        switch_off: float | None = None,
        momentum: float = 0.999,
        momentum_end: float | None = None,
        momentum_schedule: Literal["cosine", "official"] | None = None,
        mixer_options: dict[str, Any] | None = None,
        mixer_lr: float = 1.0,
        mixer_minimum: float | None = None,
        mixer_from: str | None = None,
        freeze_mixer: bool = False,
        head: Literal["mixed", "clean"] = "mixed",
        network: Literal["online", "momentum"] = "online",
        clean_weight: float = 1.0,
        classifier_lr: float = 1.0,
        steps: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.choices = c = chosen(SUPERVISED, preset, locals())
        check_classifiable(model, num_classes)
        check_choice("head", head, ("mixed", "clean"))
        check_choice("network", network, ("online", "momentum"))
        check_choice("adjust_to", c.adjust_to, ("own", "official"))
        for name, value in (("adjust_probability", c.adjust_probability), ("switch_off", switch_off)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"method.{name}={value}: expected a share of the steps, in [0, 1].")
        for name, value in (("clean_weight", clean_weight), ("mixer_lr", mixer_lr), ("classifier_lr", classifier_lr)):
            checked_factor(name, value)
        if clean_weight == 0 and head == "clean":
            raise InputError("method.clean_weight=0 trains no layer for clean images; set method.head=mixed.")
        if c.lam_margin >= 0.5:
            raise InputError(f"method.lam_margin={c.lam_margin}: expected less than 0.5, or negative for never.")
        if freeze_mixer and network == "momentum":
            raise InputError(
                "method.network=momentum with method.freeze_mixer=true: the momentum network stays the fixed one whose "
                "maps that Mixer reads, and learns no classifier. Set method.network=online."
            )
        samix_momentum(0, steps, momentum, c.momentum_end)
        cosine_to(mixer_minimum)
        self.head, self.network, self.switch_off, self.frozen = head, network, switch_off, freeze_mixer
        self.momentum, self.clean_weight, self.classifier_lr = momentum, clean_weight, classifier_lr
        self.mixer_lr, self.mixer_minimum, self.steps, self.step = mixer_lr, mixer_minimum, steps, 0
        self.model = model
        features = int(model.embedding_dim)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict({"mixed": linear_layer(features, num_classes)})
        if clean_weight > 0:
            self.heads["clean"] = linear_layer(features, num_classes)
        mixer, at = first_mixer(model, stage, preset, mixer_options, mixer_from, freeze_mixer)
        rules = (alpha, c.ratio_per, c.mask_kind, mask_margin, beta, c.beta_schedule)
        self.learned_masks = LearnedMasks(mixer, at, steps, *rules, frozen=freeze_mixer)
        self.key_model, self.key_heads = momentum_copy(model), momentum_copy(self.heads)
        if freeze_mixer and mixer_from is not None:
            self.key_model.load_state_dict(teacher_weights(mixer_from, model))
        self._eta_refused()
        self.generator = torch.Generator().manual_seed(seed)

    def _eta_refused(self) -> None:
        """Refuse an eta or a mode that the loss does not take, now and not at the first step."""
        label = torch.zeros(1, dtype=torch.int64)
        eta_loss(torch.zeros(1, 2), label, label, 0.5, self.choices.eta, self.choices.eta_mode)

    def needs(self) -> Needs:
        """One view with labels; only batch norm couples the rows."""
        return Needs(views=1, labels=True, batch_coupled=False)

    def forward(self, batch: Batch) -> Output:
        """Return the losses of a batch: both sides in one sum."""
        images, labels = pixels(batch.views[0]), batch.labels
        assert labels is not None  # the loop brings what needs() asks for
        count, masks = len(labels), self.learned_masks
        # The same draws in the same order, whatever is done with them.
        lam_own, lam = masks.draw(count, self.generator), masks.draw(count, self.generator)
        partner_own = draw_partners(count, "permutation", self.generator).to(images.device)
        partner = draw_partners(count, "permutation", self.generator).to(images.device)
        adjusts, generates = self._coins()
        maps = self._maps(images)
        losses: dict[str, Tensor] = {}
        if not self.frozen:
            mask = masks(maps, maps[partner_own], lam_own, images).first
            losses["mask"] = masks.loss(mask, lam_own)
            if generates:
                mixed = with_mask(images, images[partner_own], mask)
                scores = self._scores(self.key_model(mixed), self.key_heads["mixed"])
                options = (self.choices.eta, self.choices.eta_mode)
                losses["generation"] = eta_loss(scores, labels, labels[partner_own], lam_own, *options)
        with torch.no_grad():
            held = masks(maps, maps[partner], lam, images).first
            if adjusts:
                own = self.choices.adjust_to == "own"
                held = adjust_mask(held, lam if own else lam_own, official=not own)
            held = even_at_the_ends(held, lam, self.choices.lam_margin)
            mixed = with_mask(images, images[partner], held)
        logits = self._scores(self.model(mixed), self.heads["mixed"])
        losses["mixed"] = mixed_cross_entropy(logits, labels, labels[partner], lam)
        if self.clean_weight > 0:
            clean = self._scores(self.model(images), self.heads["clean"])
            losses["clean"] = mixed_cross_entropy(clean, labels, labels, 1.0)
        weights = {"mask": masks.weight(self.step), "clean": self.clean_weight}
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

        def logs() -> dict[str, float]:
            share = torch.as_tensor(lam).expand(count).to(images.device)
            guess = logits.detach().argmax(1)
            right = share * (guess == labels) + (1 - share) * (guess == labels[partner])
            told = {"lambda": float(share.mean()), "mask_mean": float(held.mean()), "accuracy": float(right.mean())}
            return told | masks.look(maps, images)

        return Output({"total": total, **losses}, logs)

    def _coins(self) -> tuple[bool, bool]:
        """Return whether the network's masks are adjusted in this step, and whether the Mixer generates."""
        adjust, off = self.choices.adjust_probability, self.switch_off
        first, second = (float(draw_between(0, 1, self.generator)) for _ in range(2))
        on = 1.0 if off is None else off * (1 + math.cos(math.pi * min(self.step / self.steps, 1.0))) / 2
        return first < adjust, second < on

    @torch.no_grad()
    def _maps(self, images: Tensor) -> Tensor:
        """Return the copy's maps; the copy goes no further than to them unless its statistics will be judged."""
        maps: Tensor = self.key_model.features(images, self.learned_masks.stage)  # type: ignore[operator]
        if self.network == "momentum" and self.training:
            self.key_model.head_from(self.learned_masks.stage)(maps)  # type: ignore[operator]
        return maps

    def _scores(self, embeddings: Tensor, head: nn.Module) -> Tensor:
        with no_autocast(embeddings):
            return head(embeddings)  # type: ignore[no-any-return]

    def encoders(self) -> dict[str, nn.Module]:
        """Return the encoder and the classifier that were chosen to be judged."""
        online = self.network == "online"
        model, heads = (self.model, self.heads) if online else (self.key_model, self.key_heads)
        linear = heads[self.head]
        assert isinstance(linear, nn.Linear)
        return {"image": model, "classifier": Classifier(model, linear)}

    def parameter_groups(self) -> list[Group]:
        """Return the encoder's groups, the linear layers and the Mixer; the copy follows without a gradient."""
        groups: list[Group] = self.model.parameter_groups()  # type: ignore[operator]
        return [
            *groups,
            Group("classifier", list(self.heads.parameters()), lr_scale=self.classifier_lr, warm=True),
            *self.learned_masks.groups(self.mixer_lr, self.mixer_minimum),
        ]

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Nothing to settle."""
        return EpochPlan()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the copy towards the updated weights, parameters only, unless it is a fixed teacher."""
        if not self.frozen:
            c = self.choices
            momentum = samix_momentum(
                step, self.steps, self.momentum, c.momentum_end, c.momentum_schedule == "official"
            )
            update(self.key_model, self.model, momentum)
            update(self.key_heads, self.heads, momentum)
        self.step = step + 1

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside tensors: the generator's state and the steps done."""
        return {"generator": self.generator.get_state(), "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])
