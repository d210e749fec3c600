"""The mixers that can be looked at, by name, each called in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.families import lookup
from metrixkit.mixing.images import IMAGE_MIXER, IMAGE_MIXERS, MixedImages
from metrixkit.mixing.images.mixed import with_mask
from metrixkit.mixing.mixer import adjust_mask
from metrixkit.sheets.models import RunModels, saliency, saliency_told
from metrixkit.sheets.pairs import Pairs

LEARNED = {
    "samix": "learned Mixer, masks as it predicts them",
    "samix-adjusted": "learned Mixer, masks scaled to the mean λ",
}
_TOGETHER = 16  # pairs that a learned Mixer is shown at once
NO_IMAGES = ("manifoldmix", "metrix")  # names that people try; they mix what cannot be shown


@dataclass(frozen=True)
class Mixers:
    """Some mixers, and what they need besides images.

    Attributes:
        names: In the order of the rows; see :func:`named`.
        models: A run's networks, for `samix` and for the saliency of `puzzlemix`.
    """

    names: tuple[str, ...]
    models: RunModels | None = None

    @classmethod
    def named(cls, text: str, models: RunModels | None = None) -> Mixers:
        """Return the mixers of a list such as ``mixup,cutmix``.

        Args:
            text: Names with commas between: those of :data:`metrixkit.mixing.IMAGE_MIXERS`, with a run that has a Mixer
                ``samix`` and ``samix-adjusted``, or ``package.module:function``. ``all`` is all of the first and, with
                such a run, ``samix``.
            models: A run's networks.

        Raises:
            InputError: An unknown name, none at all, or one that needs a run with a Mixer.
        """
        learned = models is not None and models.mixer is not None
        names: list[str] = []
        for name in (part.strip() for part in text.split(",")):
            if name == "all":
                names += [*(("samix",) if learned else ()), *IMAGE_MIXERS]
            elif name in LEARNED and not learned:
                where = f"{models.where} holds none" if models is not None else "give it with --run"
                raise InputError(f"{name} needs a run that trained a Mixer (SAMix, AutoMix); {where}.")
            elif name in NO_IMAGES:
                raise InputError(
                    f"{name} mixes what lies inside a network, not images: there is nothing to draw. Known: "
                    f"{', '.join((*IMAGE_MIXERS, *LEARNED))}."
                )
            elif name:
                if name not in LEARNED:
                    lookup(name, {**IMAGE_MIXERS, **dict.fromkeys((*LEARNED, "all"))}, IMAGE_MIXER, by_caller=True)
                names.append(name)
        if not names:
            raise InputError(f"--mixers {text!r} names no mixer; known: all, {', '.join((*IMAGE_MIXERS, *LEARNED))}.")
        return cls(tuple(dict.fromkeys(names)), models)

    def mix(self, name: str, pairs: Pairs, lam: float, seed: int) -> MixedImages:
        """Return the mixtures of `pairs`, on the CPU.

        Args:
            name: One of `names`.
            pairs: P pairs.
            lam: Share asked of the first image.
            seed: Of boxes, noise and coins: the same for another lambda, so that only lambda differs.
        """
        if name in LEARNED:
            assert self.models is not None
            # A few at a time: attention, which is not wanted here, holds the square of the places for each.
            parts = [self.models.masks(part.first, part.second, lam).first for part in pairs.parts(_TOGETHER)]
            mask = torch.cat(parts)
            mask = (mask if name == "samix" else adjust_mask(mask, lam)).cpu()
            share = torch.full((len(pairs),), lam)
            return MixedImages(with_mask(pairs.first, pairs.second, mask), share, mask)
        settings: dict[str, Any] = {}
        if name == "puzzlemix":
            settings["saliency"] = saliency(pairs.first, self.models)
            settings["partner_saliency"] = saliency(pairs.second, self.models)
        elif name == "inter-intra":
            settings["labels"], settings["partner_labels"] = _codes(pairs)
        generator = torch.Generator().manual_seed(seed)
        mixer = lookup(name, IMAGE_MIXERS, IMAGE_MIXER, by_caller=True)
        with torch.no_grad():
            return mixer(pairs.first, pairs.second, lam, generator, **settings)

    def note(self, name: str) -> str:
        """Return what must be known to read a mixer's row, "" for nothing."""
        if name == "puzzlemix":
            return saliency_told(self.models)
        if name == "inter-intra":
            return "cutmix between two labels, mixup within one; a label is the image's folder or table entry"
        if name == "cutmix-or-mixup":
            return "a coin for each batch, the same for all λ"
        return LEARNED.get(name, "")


def full_mask(mixed: MixedImages) -> Tensor:
    """Return (P, 1, H, W) masks, even ones where the mixer gives none."""
    if mixed.mask is not None:
        return mixed.mask
    even = mixed.lam.to(mixed.images.dtype)[:, None, None, None]
    return even.expand(-1, 1, *mixed.images.shape[-2:])


def check_lambdas(lambdas: Sequence[float]) -> list[float]:
    """Return lambdas as they shall be shown: each once, from the lowest.

    Raises:
        InputError: None, or one outside [0, 1].
    """
    wrong = [lam for lam in lambdas if not (math.isfinite(lam) and 0 <= lam <= 1)]
    if wrong or not lambdas:
        raise InputError(
            f"--lambdas: got {', '.join(f'{lam:g}' for lam in wrong) or 'none'}, expected shares of the first image in "
            "[0, 1], such as 0,0.25,0.5,0.75,1."
        )
    return sorted(set(lambdas))


def _codes(pairs: Pairs) -> tuple[Tensor, Tensor]:
    names = {name: code for code, name in enumerate(sorted({label for pair in pairs.labels for label in pair}))}
    first, second = ([names[pair[side]] for pair in pairs.labels] for side in (0, 1))
    return torch.tensor(first), torch.tensor(second)
