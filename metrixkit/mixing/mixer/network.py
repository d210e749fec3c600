"""The Mixer: a small network that looks at two feature maps and says which pixels of which image a mixture keeps.

B pairs, C channels, h x w places of the feature maps, H x W pixels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.mixing.mixer.attention import check_size, mixing_attention
from metrixkit.mixing.mixer.presets import mixer_settings
from metrixkit.mixing.mixer.warp import held_in_unit, shares, warp_lambda

# As released: so small that the first masks are 1/2 everywhere and only the losses make them follow lambda.
_INITIAL_DEVIATION = 0.01


class MaskPair(NamedTuple):
    """Which share of each image every pixel of the mixture holds.

    Attributes:
        first: (B, 1, H, W) in [0, 1], share of the first image.
        second: (B, 1, H, W), share of its partner; both sum to exactly 1.
        content: (B, 1, h, w), the content that attention spread, detached: to look at.
        attention: (B, hw, hw), its weights, rows summing to 1, detached.
    """

    first: Tensor
    second: Tensor
    content: Tensor
    attention: Tensor


class Mixer(nn.Module):
    """Learnable mask generator of SAMix (Li et al., 2021) and AutoMix (Liu et al., ECCV 2022).

    Features of both images are told lambda, attention between their places spreads the content of one of them, and the
    result, upsampled and squashed, is the mask of that image. The other mask is the rest.

    ========== ============ ========= ======= =========== ============================ ====================
    preset     lambda       gamma     content projection  content layers               then
    ========== ============ ========= ======= =========== ============================ ====================
    samix      factor       learned   partner two         BN, ReLU, dropout 0.1        bilinear, sigmoid
    paper      factor       learned   first   shared      BN, ReLU, dropout 0.1        sigmoid, bilinear
    official   factor, k=1  1         partner two         BN, ELU, dropout 0.1         bilinear, sigmoid
    automix    none         -         partner sides       one linear layer             nearest, sigmoid
    ========== ============ ========= ======= =========== ============================ ====================

    ``samix``, the default, is the paper's network in what is printed clearly and the released one elsewhere. The
    releases warp lambda with k = 1 on CUB and Aircraft, 0.25 on CIFAR-100 (and drop nothing there), and not at all on
    ImageNet (``warp=-1``); AutoMix gives lambda as a channel outside CIFAR and Tiny-ImageNet (``encoding="channel"``).

    Everything is computed in float32 at least, whatever autocast says. Attention holds ``4 B (h w)^2`` bytes a copy in
    float32, three copies in training: 9 MiB for 64 pairs of 14 x 14, 625 MiB at 40 x 40. One lambda for a whole batch
    is cancelled in the non-linear content by batch norm in training mode (it scales all of it alike) and then acts
    through attention alone, from which masks learn to follow it slowly if at all; a lambda for each pair acts through
    both. In evaluation mode both do.

    As a factor lambda needs maps of one sign, as the residual stages of a ResNet end with: there it moves the mean of
    the content. Of maps about zero it changes the contrast alone, and the mean of the masks follows it badly;
    ``rectify=True`` is for those.

    Weights are drawn from torch's global generator: convolutions from Normal(0, 0.01), biases 0. So is dropout.

    Args:
        channels: C, of the stage whose maps it is given.
        preset: Which of the above.
        projection: This and what follows changes the preset where it is not None; see
            :class:`~metrixkit.mixing.mixer.MixerSettings`.
        encoding: How lambda enters.
        gamma: "learned", or a constant in [0, 1].
        warp: k of the warp of lambda; negative for none.
        content: Whose content is spread, and so whose mask is predicted.
        content_layers: "nonlinear" or "linear".
        activation: "relu" or "elu".
        dropout: Share of the content's elements, in [0, 1).
        order: What comes first, upsampling or sigmoid.
        upsampling: "bilinear" or "nearest".
        att_norm: Batch norm after the projections; where maps are large it keeps attention from settling on one place.
        rectify: ReLU on the maps before lambda enters, for stages that end without one (MobileNetV2's bottlenecks).
        reduction: What C is divided by inside.
        attention_limit: Most attention weights B (h w)^2 in a call; the default is 1 GiB a copy in float32.

    Attributes:
        settings: All choices as they hold.

    Raises:
        InputError: An unknown name, or a number out of range.
    """

    def __init__(
        self,
        channels: int,
        preset: str = "samix",
        *,
        projection: Literal["two", "shared", "sides"] | None = None,
        encoding: Literal["factor", "channel", "none"] | None = None,
        gamma: float | Literal["learned"] | None = None,
        warp: float | None = None,
        content: Literal["partner", "first"] | None = None,
        content_layers: Literal["nonlinear", "linear"] | None = None,
        activation: Literal["relu", "elu"] | None = None,
        dropout: float | None = None,
        order: Literal["upsample-sigmoid", "sigmoid-upsample"] | None = None,
        upsampling: Literal["bilinear", "nearest"] | None = None,
        att_norm: bool | None = None,
        rectify: bool | None = None,
        reduction: int | None = None,
        attention_limit: int = 2**28,
    ) -> None:
        super().__init__()
        given = {
            "projection": projection,
            "encoding": encoding,
            "gamma": gamma,
            "warp": warp,
            "content": content,
            "content_layers": content_layers,
            "activation": activation,
            "dropout": dropout,
            "order": order,
            "upsampling": upsampling,
            "att_norm": att_norm,
            "rectify": rectify,
            "reduction": reduction,
        }
        self.settings = s = mixer_settings(preset, given)
        if channels < 1 or channels % s.reduction:
            raise InputError(f"Mixer: channels={channels}, expected a multiple of reduction={s.reduction}.")
        if not isinstance(attention_limit, int) or attention_limit < 1:
            raise InputError(f"Mixer: attention_limit={attention_limit!r}, expected a whole number, 1 or more.")
        self.channels, self.attention_limit = channels, attention_limit
        inner, given_channels = channels // s.reduction, channels + (s.encoding == "channel")
        sees = given_channels if s.projection == "sides" else 2 * given_channels
        self.query = _projection(sees, inner, s.att_norm)
        self.key = _projection(sees, inner, s.att_norm) if s.projection == "two" else None
        self.content = nn.Sequential()
        if s.content_layers == "linear":
            self.content.append(nn.Conv2d(given_channels, 1, 1))
        else:
            self.content.append(nn.Conv2d(given_channels, inner, 1, bias=False))
            self.content.append(nn.BatchNorm2d(inner))
            self.content.append(nn.ReLU() if s.activation == "relu" else nn.ELU())
            self.content.append(nn.Conv2d(inner, 1, 1, bias=False))
        self.content.append(nn.Dropout(s.dropout))
        learned = s.encoding == "factor" and s.gamma == "learned"
        self.raw_gamma = nn.Parameter(torch.zeros(())) if learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights again, as released: convolutions from Normal(0, 0.01); gamma, if learned, starts at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_INITIAL_DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        if self.raw_gamma is not None:
            nn.init.zeros_(self.raw_gamma)

    @property
    def gamma(self) -> Tensor | float:
        """How much lambda weighs: learned and held in [0, 1], or constant; 0 where it enters otherwise."""
        if self.raw_gamma is not None:
            return held_in_unit(self.raw_gamma)
        return float(self.settings.gamma) if self.settings.encoding == "factor" else 0.0

    def forward(self, z_i: Tensor, z_j: Tensor, lam: float | Tensor, scale: int | tuple[int, int]) -> MaskPair:
        """Return the masks of B pairs.

        Args:
            z_i: (B, C, h, w) floating, features of the first images.
            z_j: (B, C, h, w), of their partners, row by row: ``z[perm]``, or another view's.
            lam: Share of the first image: a number in [0, 1], or (B,) of such.
            scale: Pixels a place, where images are a whole multiple of the maps; else the images' (H, W), to which
                masks are interpolated whatever the ratio.

        Returns:
            Masks (B, 1, H, W) in float32 or, if weights are, float64.

        Raises:
            InputError: Types, shapes, lambda or sizes do not fit, or attention would pass `attention_limit`.
        """
        count, height, width = self._check(z_i, z_j)
        size = _output_size(scale, height, width)
        with torch.autocast(z_i.device.type, enabled=False):
            wide = next(self.query.parameters()).dtype
            first, partner = self._told(z_i.to(wide), z_j.to(wide), lam)
            spread_of = partner if self.settings.content == "partner" else first
            content = self.content(spread_of).to(torch.promote_types(wide, torch.float32))
            attention = mixing_attention(*(side.to(content.dtype) for side in self._projected(first, partner)))
            logits = torch.bmm(attention, content.flatten(2).transpose(1, 2)).view(count, 1, height, width)
            predicted = self._mask(logits, size)
            rest = 1 - predicted
            masks = (rest, predicted) if self.settings.content == "partner" else (predicted, rest)
            return MaskPair(*masks, content.detach(), attention.detach())

    def extra_repr(self) -> str:
        """What an instance prints of itself."""
        return f"channels={self.channels}, {self.settings}"

    def _told(self, z_i: Tensor, z_j: Tensor, lam: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps with lambda in them."""
        share = shares(lam, z_i)
        if self.settings.rectify:
            z_i, z_j = z_i.relu(), z_j.relu()
        if self.settings.encoding == "none":
            return z_i, z_j
        if self.settings.warp >= 0:
            share = warp_lambda(share, self.settings.warp)
        if self.settings.encoding == "channel":
            like = (len(z_i), 1, *z_i.shape[2:])
            return torch.cat([z_i, share.expand(like)], 1), torch.cat([z_j, (1 - share).expand(like)], 1)
        return z_i * (1 + self.gamma * share), z_j * (1 + self.gamma * (1 - share))

    def _projected(self, first: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
        if self.settings.projection == "sides":
            return self.query(first), self.query(partner)
        both = torch.cat([first, partner], 1)
        query = self.query(both)
        return query, query if self.key is None else self.key(both)

    def _mask(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        mode = self.settings.upsampling
        aligned = False if mode == "bilinear" else None
        if self.settings.order == "sigmoid-upsample":
            # Weights of an interpolation may sum to a rounding more than 1.
            return F.interpolate(logits.sigmoid(), size, mode=mode, align_corners=aligned).clamp(0, 1)
        return F.interpolate(logits, size, mode=mode, align_corners=aligned).sigmoid()

    def _check(self, z_i: Tensor, z_j: Tensor) -> tuple[int, int, int]:
        for name, z in (("z_i", z_i), ("z_j", z_j)):
            if not isinstance(z, Tensor) or z.ndim != 4 or not z.is_floating_point() or not z.numel():
                got = f"{z.dtype} {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
                raise InputError(f"Mixer: {name} is {got}, expected floating (B, {self.channels}, h, w), not empty.")
        if z_i.shape != z_j.shape or z_i.device != z_j.device:
            raise InputError(
                f"Mixer: z_i is {tuple(z_i.shape)} on {z_i.device} and z_j {tuple(z_j.shape)} on {z_j.device}; "
                "expected the same, row i of one paired with row i of the other."
            )
        count, channels, height, width = z_i.shape
        if channels != self.channels:
            raise InputError(
                f"Mixer: maps have {channels} channels, it was built for {self.channels}; give it the stage it was "
                f"made for, or build Mixer({channels})."
            )
        normed = self.settings.content_layers == "nonlinear" or self.settings.att_norm
        if self.training and normed and count * height * width == 1:
            raise InputError(
                "Mixer: one pair of 1 x 1 maps leaves its batch norm a single value to normalise in training mode; "
                "give it more pairs, or an earlier stage of the backbone."
            )
        check_size(count, height, width, self.attention_limit)
        return count, height, width


def channels_first(maps: Tensor, channels: int) -> Tensor:
    """Return (B, C, h, w) of maps in either order; some backbones (Swin) answer (B, h, w, C) before their last stage.

    Args:
        maps: (B, C, h, w) or (B, h, w, C).
        channels: C.
    """
    last = maps.ndim == 4 and maps.shape[1] != channels == maps.shape[3]
    return maps.permute(0, 3, 1, 2) if last else maps


def _projection(sees: int, inner: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(sees, inner, 1)]
    return nn.Sequential(*layers, nn.BatchNorm2d(inner)) if norm else nn.Sequential(*layers)


def _output_size(scale: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    if isinstance(scale, int) and not isinstance(scale, bool) and scale >= 1:
        return height * scale, width * scale
    if isinstance(scale, (tuple, list)) and len(scale) == 2 and all(isinstance(n, int) and n >= 1 for n in scale):
        return int(scale[0]), int(scale[1])
    raise InputError(
        f"Mixer: scale={scale!r}, expected whole pixels a place (16 for the third stage of a ResNet), or the images' "
        "(height, width)."
    )
