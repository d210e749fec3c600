"""Encoders: what turns images into embeddings."""

from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.own_trunk import BACKBONES

__all__ = ["BACKBONES", "ImageEncoder"]
