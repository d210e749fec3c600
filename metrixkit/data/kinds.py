"""What a data set or a sampler of one's own must be; asked before it is called."""

from __future__ import annotations

import inspect
from typing import Any

from metrixkit.data.manifest import Manifest
from metrixkit.data.pair_manifest import PairManifest
from metrixkit.data.samplers import EpochSampler
from metrixkit.data.sets.ratings import RatingSplit
from metrixkit.families import Kind, class_of, class_with, returned_by

_MANIFESTS = class_of(Manifest, PairManifest, RatingSplit)


def _reads(found: Any) -> bool:
    """Whether it is a class of Python with ``read(self)``, which answers a manifest where it says what it answers."""
    if not inspect.isclass(found):
        return class_with("read")(returned_by(found))
    read = getattr(found, "read", None)
    if not inspect.isfunction(read) or list(inspect.signature(read).parameters) != ["self"]:
        return False
    told = inspect.signature(read).return_annotation
    return told is inspect.Signature.empty or isinstance(told, str) or _MANIFESTS(told)


DATA_SET = Kind("data set", "class with a method read(self) that answers a Manifest", _reads)
SAMPLER = Kind("sampler", "subclass of metrixkit.data.EpochSampler", class_of(EpochSampler))
