"""What the training loop is made of, the same for every kind of run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from metrixkit import config as configs
from metrixkit.errors import InputError
from metrixkit.models import synchronise_batch_norms
from metrixkit.seam import Batch
from metrixkit.training.loop import Sampler
from metrixkit.training.optim import Rates, parameter_dicts
from metrixkit.training.run import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def loop_parts(
    config: Mapping[str, Any],
    fabric: Fabric,
    folder: RunFolder,
    method: nn.Module,
    loader: Iterable[Batch],
    sampler: Sampler,
    watch: Callable[[int], dict[str, float]],
    selects: str | None,
    embed: Callable[[], Tensor] | None = None,
) -> dict[str, Any]:
    """Set up optimiser and rates of a recipe and return what ``Trainer`` takes, less fabric and log.

    Args:
        config: The resolved config; its optimizer, schedule, training and evaluation.every are used.
        fabric: Wraps the recipe and its optimiser.
        folder: Holds the checkpoints.
        method: The recipe.
        loader: Batches in the sampler's order.
        sampler: Says how many there are, and goes on where a run was stopped.
        watch: The watched metrics after some epochs.
        selects: The one that selects; None keeps the last epoch.
        embed: Training embeddings, for recipes that settle an epoch by them.

    Raises:
        InputError: ``training.sync_batch_norm`` with batch norms that cannot be synchronised, a number that the
            optimiser refuses, or no number of epochs between evaluations.
    """
    settings, every = configs.settings(config, "training"), configs.settings(config, "evaluation").every
    if every < 1:
        raise InputError(f"evaluation.every={every}: expected a number of epochs, at least 1.")
    if settings.sync_batch_norm and fabric.world_size > 1:
        synchronise_batch_norms(method)
    groups = method.parameter_groups()  # type: ignore[operator]
    params = parameter_dicts(groups, [p for p in method.parameters() if p.requires_grad])
    try:
        optimizer = configs.build(config, "optimizer", params=params)
    except ValueError as error:  # torch's own words on a number out of range
        raise InputError(f"optimizer: {error}.") from error
    rates = Rates(optimizer, groups, configs.build(config, "schedule"), settings.epochs, settings.warmup_epochs)
    wrapped, optimizer = fabric.setup(method, optimizer)
    return {
        "method": method,
        "wrapped": wrapped,
        "optimizer": optimizer,
        "rates": rates,
        "loader": loader,
        "sampler": sampler,
        "settings": settings,
        "checkpoints": folder.checkpoints,
        "evaluate": watch,
        "select_by": selects,
        "evaluate_every": every,
        "embed": embed or _no_embeddings,
    }


def _no_embeddings() -> Tensor:
    raise InputError("this method asks for embeddings of the training set before an epoch; its task has none to give.")
