"""What mixing looks like: sheets of mixtures and masks; mask mean, accuracy and mutual information over lambda.

Logic of ``python -m metrixkit.mix``; the pictures are drawn by :mod:`metrixkit.report`.
"""

from metrixkit.sheets.accuracy import mixed_accuracy
from metrixkit.sheets.information import donsker_varadhan, mutual_information
from metrixkit.sheets.masks import mask_statistics, slopes
from metrixkit.sheets.mixers import Mixers, check_lambdas
from metrixkit.sheets.models import RunModels, load_run
from metrixkit.sheets.pairs import Pairs, choose_pairs, read_images, read_pairs, ring_pairs
from metrixkit.sheets.sheet import blocks

__all__ = [
    "Mixers",
    "Pairs",
    "RunModels",
    "blocks",
    "check_lambdas",
    "choose_pairs",
    "donsker_varadhan",
    "load_run",
    "mask_statistics",
    "mixed_accuracy",
    "mutual_information",
    "read_images",
    "read_pairs",
    "ring_pairs",
    "slopes",
]
