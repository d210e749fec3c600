"""What SAMix-I and SAMix-C share on MoCo v2: mixtures of both sides, their embeddings and their targets.

N images of this process, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metrixkit.losses import eta_instance_loss, info_nce
from metrixkit.losses.mask_loss import MaskLossKind
from metrixkit.losses.pairs import positive_number
from metrixkit.methods.learned_masks import LearnedMasks
from metrixkit.methods.mixer_start import first_mixer, teacher_weights
from metrixkit.methods.moco import contrast_accuracy
from metrixkit.methods.momentum_tower import MomentumTower, pixels
from metrixkit.methods.samix_presets import RatioPer, Views
from metrixkit.methods.samix_schedules import Schedule, samix_momentum
from metrixkit.mixing import adjust_mask, draw_partners
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.models.momentum import momentum_copy
from metrixkit.seam import Batch, Group


@dataclass(frozen=True)
class Sides:
    """What a step has made of two views of N images.

    Attributes:
        key: (N, d) raw keys of the key view, targets of the first images.
        other: (N, d) raw keys, the targets of the partners once these are taken from it: `key`, or with official views
            the keys of the query view.
        clean: (N, d) raw keys of the query view.
        generated: (N, d) the copy's embeddings of the Mixer's mixtures, with gradient to the Mixer alone; None where
            the Mixer is frozen.
        partner: (N,) int64 partners of these mixtures.
        lam: Share of the first in them.
        negatives: (K, d) the queue as it was.
        losses: ``clean``, ``mixed`` and, unless the Mixer is frozen, ``mask``.
        logs: What is told on logged steps.
    """

    key: Tensor
    other: Tensor
    clean: Tensor | None
    generated: Tensor | None
    partner: Tensor
    lam: float | Tensor
    negatives: Tensor
    losses: dict[str, Tensor]
    logs: Callable[[], dict[str, float]]


class MixedContrast(nn.Module):
    """A query tower, its momentum copy, and a Mixer on maps of the copy.

    Args:
        model: Encoder of images to pooled features.
        preset: Of the Mixer.
        stage: Whose maps it reads.
        mixer_options: Its choices that differ from the preset.
        mixer_from: Run whose Mixer to start with instead; its stage and choices hold.
        freeze_mixer: The parameters of that Mixer stay, and it reads the maps of the network that it was kept with.
        views: "cross": both images of a mixture are query views and both targets key views. "official": the partner
            comes from the key view, and its target is the query view.
        adjust_margin: The masks for queries are brought to the mean lambda where they miss it by more.
        temperature: T.
        momentum_end: Momentum at the end of a cosine; None keeps it constant.
        steps: Of the whole run.
        seed: Of all draws.
        tower: Options of :class:`~metrixkit.methods.momentum_tower.MomentumTower`.
        masks: Options of :class:`~metrixkit.methods.learned_masks.LearnedMasks`.
    """

    def __init__(
        self,
        model: nn.Module,
        preset: str,
        stage: int,
        mixer_options: dict[str, Any] | None,
        mixer_from: str | None,
        freeze_mixer: bool,
        views: Views,
        adjust_margin: float,
        temperature: float,
        momentum_end: float | None,
        steps: int,
        seed: int,
        tower: dict[str, Any],
        masks: dict[str, Any],
    ) -> None:
        super().__init__()
        self.tower = MomentumTower(model, seed=seed, **tower)
        mixer, at = first_mixer(model, stage, preset, mixer_options, mixer_from, freeze_mixer)
        self.learned_masks = LearnedMasks(mixer, at, steps, **masks, frozen=freeze_mixer)
        self.teacher: nn.Module | None = None
        if freeze_mixer and mixer_from is not None:
            self.teacher = momentum_copy(model)
            self.teacher.load_state_dict(teacher_weights(mixer_from, model))
        self.views, self.adjust_margin = views, adjust_margin
        adjust_mask(torch.full((1, 1, 1, 1), 0.5), 0.5, adjust_margin)  # refuses a margin out of range
        self.temperature = positive_number("temperature", temperature)
        self.base, self.momentum_end, self.steps, self.step = self.tower.momentum, momentum_end, steps, 0
        if momentum_end is not None:
            samix_momentum(0, steps, self.base, momentum_end)
        self.generator = torch.Generator().manual_seed(seed)

    def sides(self, batch: Batch, clean_keys: bool = False, same: Callable[[Tensor], Tensor] | None = None) -> Sides:
        """Return what both sides of a step need; the copy of the tower moves first, the queue not yet.

        Args:
            batch: Two views.
            clean_keys: Whether :attr:`Sides.clean` is wanted.
            same: From (N,) partners to (N, K) entries of the queue that are no negatives of a mixture; None for none.
        """
        query_view, key_view = (pixels(view) for view in batch.views)
        count, masks, device = len(query_view), self.learned_masks, query_view.device
        lam, lam_own = masks.draw(count, self.generator), masks.draw(count, self.generator)
        partner = draw_partners(count, "permutation", self.generator).to(device)
        partner_own = draw_partners(count, "permutation", self.generator).to(device)
        crossed = self.views == "official"
        other_view = key_view if crossed else query_view
        query = self.tower.query(query_view)
        self._follow()
        key, *further = self.tower.keys([key_view, query_view] if crossed else [key_view], self.generator)
        other = further[0] if crossed else key
        with torch.no_grad():
            maps = self._maps(query_view)
            other_maps = self._maps(key_view) if crossed else maps
            clean = self._clean_keys(maps, further) if clean_keys else None
            pair = masks(maps, other_maps[partner], lam, query_view)
            held = adjust_mask(pair.first, lam, self.adjust_margin, crossed)
            mixture = with_mask(query_view, other_view[partner], held)
        mixed = self.tower.query(mixture)
        # The copy's partners are those of the images and targets; the release permutes maps twice.
        learns: dict[str, Tensor] = {}
        generated = None
        if not masks.frozen:
            mask = masks(maps, other_maps[partner_own], lam_own, query_view).first
            generated = self.tower.key_tower()(with_mask(query_view, other_view[partner_own], mask))
            learns["mask"] = masks.loss(mask, lam_own)
        negatives = self.tower.queue.negatives()
        ignore = None if same is None else same(partner)
        losses = {
            "clean": info_nce(query, key, self.temperature, negatives),
            "mixed": eta_instance_loss(
                mixed, key, other[partner], negatives, lam, 1.0, self.temperature, "split", ignore=ignore
            ),
            **learns,
        }

        def logs() -> dict[str, float]:
            told = {"lambda": float(torch.as_tensor(lam).mean()), "mask_mean": float(held.mean())}
            return told | contrast_accuracy(query, key, negatives) | masks.look(maps, query_view)

        return Sides(key, other, clean, generated, partner_own, lam_own, negatives, losses, logs)

    def total(self, losses: dict[str, Tensor], clean_weight: float) -> Tensor:
        """Return the sum that is minimised."""
        weights = {"mask": self.learned_masks.weight(self.step), "clean": clean_weight}
        return torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def _follow(self) -> None:
        if self.momentum_end is not None:
            self.tower.momentum = samix_momentum(self.step, self.steps, self.base, self.momentum_end)
        self.tower.follow()

    def _maps(self, images: Tensor) -> Tensor:
        reads = self.tower.key_model if self.teacher is None else self.teacher
        return reads.features(images, self.learned_masks.stage)  # type: ignore[no-any-return, operator]

    def _clean_keys(self, maps: Tensor, further: list[Tensor]) -> Tensor:
        """Return the raw keys of the query view, from its maps unless they are at hand."""
        if further:
            return further[0]
        rest = self.tower.key_model.head_from(self.learned_masks.stage)  # type: ignore[operator]
        return self.tower.key_projector(rest(maps))  # type: ignore[no-any-return]

    def parameter_groups(self, mixer_lr: float, mixer_minimum: float | None) -> list[Group]:
        """Return the query tower's groups and the Mixer's."""
        return [*self.tower.parameter_groups(), *self.learned_masks.groups(mixer_lr, mixer_minimum)]

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs beside tensors: the generator's state and the steps done."""
        return {"generator": self.generator.get_state(), "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`get_extra_state`."""
        self.generator.set_state(state["generator"].cpu())
        self.step = int(state["step"])


def core_options(values: dict[str, Any], choices: Any) -> dict[str, Any]:
    """Return the options of :class:`MixedContrast` among a method's arguments.

    Args:
        values: The arguments by name.
        choices: The preset's, which win.
    """
    mixer = ("preset", "stage", "mixer_options", "mixer_from")
    own = (*mixer, "adjust_margin", "temperature", "momentum_end", "steps", "seed")
    tower = ("dim", "hidden", "queue_size", "momentum", "groups")
    rate: RatioPer = choices.ratio_per
    kind: MaskLossKind = choices.mask_kind
    schedule: Schedule = choices.beta_schedule
    return {
        **{name: values[name] for name in own},
        "freeze_mixer": values.get("freeze_mixer", False),
        "views": choices.views,
        "tower": {name: values[name] for name in tower},
        "masks": {
            "alpha": values["alpha"],
            "ratio_per": rate,
            "kind": kind,
            "margin": values["mask_margin"],
            "beta": values["beta"],
            "beta_schedule": schedule,
        },
    }
