"""What a class of one's own must be to stand in a family of a config; asked before it is called.

Those of data stand in :mod:`metrixkit.data.kinds`.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.optim import Optimizer

from metrixkit.families import Kind, class_of, class_with, maker_of
from metrixkit.methods.image_mixers import ImageMixer
from metrixkit.methods.instance_mixture import InstanceMixer


def _schedules(found: Any) -> bool:
    """Whether it is a class of Python whose instances are functions of (fractional epoch, epochs)."""
    call = getattr(found, "__call__", None)  # noqa: B004 - of a class, and it is inspected, not called
    return inspect.isclass(found) and inspect.isfunction(call) and len(inspect.signature(call).parameters) == 3


MODEL = Kind("model", "nn.Module class", class_of(nn.Module))
LOSS = Kind("loss", "nn.Module class, nor a function annotated to return one", maker_of(nn.Module))
MIXER = Kind("mixer", "subclass of metrixkit.methods.instance_mixture.InstanceMixer", class_of(InstanceMixer))
LABEL_MIXER = Kind("image mixer", "subclass of metrixkit.methods.image_mixers.ImageMixer", class_of(ImageMixer))
METHOD = Kind("method", "nn.Module class", class_of(nn.Module))
OPTIMIZER = Kind("optimiser", "Optimizer class, nor a function annotated to return one", maker_of(Optimizer))
SCHEDULE = Kind("schedule", "class with __call__(self, epoch, epochs)", _schedules)
TASK = Kind("task", "class with evaluate, watch and describe", class_with("evaluate", "watch", "describe"))
