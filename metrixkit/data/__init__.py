"""Readers, decoding, transforms, samplers: from files to batches."""

from metrixkit.data.cache import CachedDecode, default_short_side
from metrixkit.data.cars import Cars
from metrixkit.data.cub import CUB
from metrixkit.data.dataset import Example, ImageItems, collate
from metrixkit.data.decode import image_to_tensor
from metrixkit.data.glyphs import Glyphs
from metrixkit.data.images import Columns, Images
from metrixkit.data.inshop import InShop
from metrixkit.data.loader import default_workers, eval_loader, train_loader
from metrixkit.data.m_per_class import MPerClass
from metrixkit.data.manifest import Manifest, with_validation
from metrixkit.data.omniglot import Omniglot
from metrixkit.data.samplers import Draw, EpochSampler, Shuffle
from metrixkit.data.sop import SOP
from metrixkit.data.transforms import (
    Transform,
    eval_transform,
    eval_transform_config,
    eval_transform_from_config,
    train_transform,
)

DATASETS: dict[str, type] = {
    "cub": CUB,
    "cars": Cars,
    "sop": SOP,
    "inshop": InShop,
    "omniglot": Omniglot,
    "images": Images,
    "glyphs": Glyphs,
}

SAMPLERS: dict[str, type[EpochSampler]] = {"shuffle": Shuffle, "m-per-class": MPerClass}

__all__ = [
    "CUB",
    "CachedDecode",
    "Cars",
    "Columns",
    "DATASETS",
    "Draw",
    "EpochSampler",
    "Example",
    "Glyphs",
    "ImageItems",
    "Images",
    "InShop",
    "MPerClass",
    "Manifest",
    "Omniglot",
    "SAMPLERS",
    "SOP",
    "Shuffle",
    "Transform",
    "collate",
    "default_short_side",
    "default_workers",
    "eval_loader",
    "eval_transform",
    "eval_transform_config",
    "eval_transform_from_config",
    "image_to_tensor",
    "train_loader",
    "train_transform",
    "with_validation",
]
