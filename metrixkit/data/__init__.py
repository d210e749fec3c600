"""Readers, decoding, transforms, samplers: from files to batches."""

from metrixkit.data.cache import CachedDecode, default_short_side
from metrixkit.data.dataset import Example, ImageItems, collate
from metrixkit.data.decode import image_to_tensor
from metrixkit.data.features import Features, pad_features, read_features
from metrixkit.data.frame_reader import FrameReader
from metrixkit.data.frame_times import sample_indices
from metrixkit.data.frames import Clip, read_frames
from metrixkit.data.held_out import UNLABELLED, with_held_out, with_validation
from metrixkit.data.loader import default_workers, eval_loader, train_loader
from metrixkit.data.m_per_class import MPerClass
from metrixkit.data.manifest import Manifest
from metrixkit.data.one_per_item import OnePerItem
from metrixkit.data.pair_manifest import PairManifest, pairs_with_validation
from metrixkit.data.pairs import Collate, PairExample, PairItems, modality_readers, pair_loader
from metrixkit.data.rating_batches import RatingBatches
from metrixkit.data.samplers import Draw, EpochSampler, Shuffle
from metrixkit.data.sets.activitynet import ActivityNet
from metrixkit.data.sets.captions import CaptionColumns, Captions
from metrixkit.data.sets.cars import Cars
from metrixkit.data.sets.cub import CUB
from metrixkit.data.sets.glyphs import Glyphs
from metrixkit.data.sets.glyphs_video_text import GlyphsVideoText
from metrixkit.data.sets.images import Columns, Images
from metrixkit.data.sets.inshop import InShop
from metrixkit.data.sets.mosei import Mosei
from metrixkit.data.sets.msrvtt import MSRVTT
from metrixkit.data.sets.msvd import MSVD
from metrixkit.data.sets.omniglot import Omniglot
from metrixkit.data.sets.omniglot_strokes import OmniglotStrokes
from metrixkit.data.sets.pickles import load_pickle
from metrixkit.data.sets.ratings import RatingTable
from metrixkit.data.sets.sop import SOP
from metrixkit.data.sets.tiny_imagenet import TinyImageNet
from metrixkit.data.sets.torchvision_sets import Torchvision
from metrixkit.data.sets.youcook2 import YouCook2
from metrixkit.data.transforms import (
    SecondView,
    Transform,
    eval_transform,
    eval_transform_config,
    eval_transform_from_config,
    train_transform,
)
from metrixkit.data.views import TrainViews

DATASETS: dict[str, type] = {
    "cub": CUB,
    "cars": Cars,
    "sop": SOP,
    "inshop": InShop,
    "omniglot": Omniglot,
    "images": Images,
    "tiny_imagenet": TinyImageNet,
    "torchvision": Torchvision,
    "glyphs": Glyphs,
    "captions": Captions,
    "msrvtt": MSRVTT,
    "msvd": MSVD,
    "activitynet": ActivityNet,
    "youcook2": YouCook2,
    "glyphs_video_text": GlyphsVideoText,
    "omniglot_strokes": OmniglotStrokes,
    "mosei": Mosei,
    "ratings": RatingTable,
}

SAMPLERS: dict[str, type] = {
    "shuffle": Shuffle,
    "m-per-class": MPerClass,
    "one-per-item": OnePerItem,
    "rated-pairs": RatingBatches,
}

__all__ = [
    "ActivityNet",
    "CUB",
    "CachedDecode",
    "CaptionColumns",
    "Captions",
    "Cars",
    "Clip",
    "Collate",
    "Columns",
    "DATASETS",
    "Draw",
    "EpochSampler",
    "Example",
    "Features",
    "FrameReader",
    "Glyphs",
    "GlyphsVideoText",
    "ImageItems",
    "Images",
    "InShop",
    "MPerClass",
    "MSRVTT",
    "MSVD",
    "Manifest",
    "Mosei",
    "Omniglot",
    "OmniglotStrokes",
    "OnePerItem",
    "PairExample",
    "PairItems",
    "PairManifest",
    "RatingBatches",
    "RatingTable",
    "SAMPLERS",
    "SOP",
    "SecondView",
    "Shuffle",
    "TinyImageNet",
    "Torchvision",
    "TrainViews",
    "Transform",
    "UNLABELLED",
    "YouCook2",
    "collate",
    "default_short_side",
    "default_workers",
    "eval_loader",
    "eval_transform",
    "eval_transform_config",
    "eval_transform_from_config",
    "image_to_tensor",
    "load_pickle",
    "pad_features",
    "pair_loader",
    "pairs_with_validation",
    "read_features",
    "read_frames",
    "modality_readers",
    "sample_indices",
    "train_loader",
    "train_transform",
    "with_held_out",
    "with_validation",
]
