"""Which parameters of an encoder train, and at which rate."""

from __future__ import annotations

from torch import nn

from metrixkit.errors import InputError
from metrixkit.models.frozen_batch_norm import freeze_batch_norm
from metrixkit.seam import Group


def trainable_stages(train: str, count: int) -> int:
    """Return how many of a backbone's stages train, counted from the output.

    Args:
        train: ``head``, ``last:N`` or ``all``.
        count: Stages of the backbone, the stem among them.

    Raises:
        InputError: Another word, or N outside 1..count.
    """
    if train == "all":
        return count
    if train == "head":
        return 0
    word, _, number = train.partition(":")
    if word != "last" or not number.isdecimal():
        raise InputError(f"train {train!r}: expected 'head', 'last:N' (say last:2) or 'all'.")
    if not 1 <= int(number) <= count:
        raise InputError(f"train {train!r}: the backbone has {count} stages (the stem among them); N is 1..{count}.")
    return int(number)


def freeze(trunk_model: nn.Module, stages: list[list[str]], trainable: int, batch_norm: bool) -> list[str]:
    """Stop the gradient of all but the last `trainable` stages, and of batch norms if asked.

    Args:
        trunk_model: The module whose parameter names `stages` holds; changed in place.
        stages: Parameter names from input to output.
        trainable: How many of the last stages train.
        batch_norm: Freeze scale and shift of every batch norm too.

    Returns:
        Paths of the modules that must stay in evaluation mode: batch norms that are frozen (their running statistics
        would drift) and everything in frozen stages (a dropout there would only add noise).
    """
    parameters = dict(trunk_model.named_parameters())
    for stage in stages[: len(stages) - trainable]:
        for name in stage:
            parameters[name].requires_grad_(False)
    frozen = []
    for name, module in trunk_model.named_modules():
        if batch_norm and is_batch_norm(module):
            freeze_batch_norm(module)
            frozen.append(name)
    if trainable == 0:
        return [""]
    for name, module in trunk_model.named_modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            frozen.append(name)
    return sorted(set(frozen))


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether `module` normalises by batch statistics (timm's and synchronised variants included)."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def groups(
    trunk_model: nn.Module,
    stages: list[list[str]],
    head: list[nn.Parameter],
    layer_decay: float,
    head_lr: float,
) -> list[Group]:
    """Return every trainable parameter exactly once, in groups with their rate.

    Args:
        trunk_model: The module whose parameter names `stages` holds.
        stages: Parameter names from input to output.
        head: Parameters after the backbone (projection, learnable pooling).
        layer_decay: The k-th stage from the output has rate ``layer_decay ** k``, k = 1 for the last (Clark et al.,
            ELECTRA, 2020; Bao et al., BEiT, 2021); 1 gives the whole backbone one group.
        head_lr: Factor on the head's rate.

    Returns:
        ``backbone`` (or ``backbone.0`` for the stem, ``backbone.1``, … with `layer_decay`), then ``head``, the one that
        trains during warm-up. Empty groups are left out. All have the optimiser's one weight decay, as in the paper.
    """
    parameters = dict(trunk_model.named_parameters())
    trainable = [[parameters[name] for name in stage if parameters[name].requires_grad] for stage in stages]
    if layer_decay == 1.0:
        result = [Group("backbone", [p for stage in trainable for p in stage])]
    else:
        result = [
            Group(f"backbone.{i}", stage, lr_scale=layer_decay ** (len(stages) - i))
            for i, stage in enumerate(trainable)
        ]
    result.append(Group("head", [p for p in head if p.requires_grad], lr_scale=head_lr, warm=True))
    return [group for group in result if group.params]
