"""The learnable mixer of SAMix and AutoMix: masks from feature maps."""

from metrixkit.mixing.mixer.attention import mixing_attention
from metrixkit.mixing.mixer.export import SavedMixer, has_mixer, load_mixer, save_mixer
from metrixkit.mixing.mixer.masks import adjust_mask, auto_label, lam_margin, mask_from_pair
from metrixkit.mixing.mixer.network import MaskPair, Mixer, channels_first
from metrixkit.mixing.mixer.presets import MIXER_PRESETS, MixerSettings
from metrixkit.mixing.mixer.warp import warp_lambda

__all__ = [
    "MIXER_PRESETS",
    "MaskPair",
    "Mixer",
    "MixerSettings",
    "SavedMixer",
    "adjust_mask",
    "auto_label",
    "channels_first",
    "has_mixer",
    "lam_margin",
    "load_mixer",
    "mask_from_pair",
    "mixing_attention",
    "save_mixer",
    "warp_lambda",
]
