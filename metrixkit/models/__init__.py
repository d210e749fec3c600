"""Encoders: what turns images into embeddings."""

from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.export import load_encoder, save_model
from metrixkit.models.own_trunk import BACKBONES

MODELS: dict[str, type] = {"image": ImageEncoder}

__all__ = ["BACKBONES", "MODELS", "ImageEncoder", "load_encoder", "save_model"]
