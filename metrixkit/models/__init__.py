"""Encoders: what turns images into embeddings."""

from metrixkit.models.backbone_export import BackboneExport, export_backbone
from metrixkit.models.classifier import Classifier, load_classifier, save_classifier
from metrixkit.models.clip_video_text import ClipVideoText
from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.export import load_encoder, save_model
from metrixkit.models.factors import Factors
from metrixkit.models.momentum import momentum_at, momentum_copy
from metrixkit.models.multimodal import Multimodal, load_multimodal
from metrixkit.models.own_trunk import BACKBONES
from metrixkit.models.pair_export import load_pair_model, save_pair_model
from metrixkit.models.projector import Projector, Prototypes
from metrixkit.models.queue import Queue
from metrixkit.models.split_batch_norm import (
    SplitBatchNorm1d,
    SplitBatchNorm2d,
    shuffle_over_processes,
    split_batch_norms,
)
from metrixkit.models.sync_batch_norm import synchronise_batch_norms
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
    "BackboneExport",
    "Classifier",
    "ClipVideoText",
    "Factors",
    "ImageEncoder",
    "MODELS",
    "Multimodal",
    "Projector",
    "Prototypes",
    "Queue",
    "SplitBatchNorm1d",
    "SplitBatchNorm2d",
    "VideoText",
    "export_backbone",
    "load_classifier",
    "load_encoder",
    "load_multimodal",
    "load_pair_model",
    "momentum_at",
    "momentum_copy",
    "save_classifier",
    "save_model",
    "save_pair_model",
    "shuffle_over_processes",
    "split_batch_norms",
    "synchronise_batch_norms",
]
