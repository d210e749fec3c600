"""Encoders: what turns images into embeddings."""

from metrixkit.models.clip_video_text import ClipVideoText
from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.export import load_encoder, save_model
from metrixkit.models.factors import Factors
from metrixkit.models.multimodal import Multimodal, load_multimodal
from metrixkit.models.own_trunk import BACKBONES
from metrixkit.models.pair_export import load_pair_model, save_pair_model
from metrixkit.models.video_text import VideoText

MODELS: dict[str, type] = {
    "image": ImageEncoder,
    "factors": Factors,
    "video_text": VideoText,
    "clip_video_text": ClipVideoText,
    "multimodal": Multimodal,
}

__all__ = [
    "BACKBONES",
    "MODELS",
    "ClipVideoText",
    "Factors",
    "ImageEncoder",
    "Multimodal",
    "VideoText",
    "load_encoder",
    "load_multimodal",
    "load_pair_model",
    "save_model",
    "save_pair_model",
]
