"""Optimisers by name, and the rates of their groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer

from metrixkit.errors import InputError
from metrixkit.seam import Group


def adam(
    params: list[dict], lr: float = 1e-4, weight_decay: float = 1e-4, beta1: float = 0.9, beta2: float = 0.999
) -> Optimizer:
    """Adam with coupled (L2) weight decay, the optimiser of the Metrix recipe."""
    return torch.optim.Adam(params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def adamw(
    params: list[dict], lr: float = 1e-4, weight_decay: float = 1e-2, beta1: float = 0.9, beta2: float = 0.999
) -> Optimizer:
    """AdamW: Adam with decoupled weight decay."""
    return torch.optim.AdamW(params, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def sgd(
    params: list[dict], lr: float = 0.03, weight_decay: float = 1e-4, momentum: float = 0.9, nesterov: bool = False
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}


def parameter_dicts(groups: Sequence[Group], trainable: Sequence[torch.nn.Parameter]) -> list[dict]:
    """Return the groups as an optimiser takes them, each with its name.

    Args:
        groups: What the method names.
        trainable: All parameters of the method that require a gradient.

    Raises:
        InputError: A parameter stands in no group or in two, or nothing is left to train.
    """
    seen = [id(p) for g in groups for p in g.params]
    if len(seen) != len(set(seen)) or set(seen) != {id(p) for p in trainable}:
        raise InputError(
            f"the method's parameter_groups() name {len(seen)} parameters ({len(set(seen))} distinct), but "
            f"{len(trainable)} are trainable: each must stand in exactly one group."
        )
    if not seen:
        raise InputError(
            "nothing is trainable: model.train=head with model.dim=null and a loss without proxies leaves no parameter."
        )
    dicts = []
    for group in groups:
        if group.params:
            entry: dict = {"params": group.params}
            if group.weight_decay is not None:
                entry["weight_decay"] = group.weight_decay
            dicts.append(entry)
    return dicts


class Rates:
    """Sets every group's rate from the progress: base rate x the group's scale x its schedule, zero while it waits.

    Args:
        optimizer: Built from :func:`parameter_dicts`; its base rate is read once.
        groups: In the optimiser's order.
        schedule: Factor as a function of (fractional epoch, epochs).
        epochs: Epochs of the run.
        warmup_epochs: First epochs in which only groups with ``warm`` move. Waiting groups get rate zero; toggling
            ``requires_grad`` would break data-parallel reducers.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        groups: Sequence[Group],
        schedule: Callable[[float, int], float],
        epochs: int,
        warmup_epochs: int = 0,
    ) -> None:
        self.optimizer, self.groups, self.schedule = optimizer, [g for g in groups if g.params], schedule
        self.epochs, self.warmup_epochs = epochs, warmup_epochs
        self.base = float(optimizer.defaults["lr"])
        if warmup_epochs and not any(g.warm for g in self.groups):
            raise InputError(
                f"training.warmup_epochs={warmup_epochs} trains only the head and proxies at first, but this model "
                "has neither (model.dim=null?): set it to 0."
            )

    def set(self, epoch: float) -> dict[str, float]:
        """Set the rates at a fractional `epoch`; return them by group name."""
        rates = {}
        for entry, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            factor = (group.schedule or self.schedule)(epoch, self.epochs)
            waits = epoch < group.freeze_epochs or (epoch < self.warmup_epochs and not group.warm)
            entry["lr"] = 0.0 if waits else self.base * group.lr_scale * factor
            rates[group.name] = entry["lr"]
        return rates
