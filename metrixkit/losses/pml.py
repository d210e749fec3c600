"""Losses and miners of pytorch-metric-learning by name, as clean baselines."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from metrixkit.errors import InputError, did_you_mean
from metrixkit.losses.unit import check_batch, full_precision, no_autocast
from metrixkit.losses.zero_or_nan import zero_or_nan


class PML(nn.Module):
    """A loss of pytorch-metric-learning, with one of its miners if wanted, computed in float32.

    That package casts its proxies to the type of the embeddings, so that one bfloat16 batch would leave them in
    bfloat16 for good; here embeddings arrive in the proxies' own type and outside autocast.

    Args:
        loss: Class in `pytorch_metric_learning.losses`, such as "ProxyAnchorLoss".
        arguments: Its keyword arguments. `num_classes` and `embedding_size` are filled in where it takes them.
        miner: Class in `pytorch_metric_learning.miners`, such as "MultiSimilarityMiner", or None.
        miner_arguments: Its keyword arguments.
        num_classes: Training classes; given by the programme.
        dim: Dimensions of the embeddings; given by the programme.

    Raises:
        InputError: No such class (near names are said), or an argument that it does not take.

    Example:
        >>> loss = PML("ProxyAnchorLoss", {"margin": 0.1}, num_classes=10, dim=8)
        >>> loss.proxies.shape
        torch.Size([10, 8])
    """

    def __init__(
        self,
        loss: str = "ContrastiveLoss",
        arguments: dict[str, Any] | None = None,
        miner: str | None = None,
        miner_arguments: dict[str, Any] | None = None,
        num_classes: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        from pytorch_metric_learning import losses, miners

        given = {
            name: value for name, value in (("num_classes", num_classes), ("embedding_size", dim)) if value is not None
        }
        self.loss = build_pml(losses, loss, arguments or {}, given, "loss")
        if miner is None and miner_arguments:
            raise InputError(f"miner_arguments={miner_arguments} are given without a miner; name one in miner.")
        self.miner = None if miner is None else build_pml(miners, miner, miner_arguments or {}, {}, "miner")

    @property
    def proxies(self) -> nn.Parameter | None:
        """The wrapped loss's learned weights (proxies, class weights) that want a rate of their own, or None."""
        parameters = dict(self.loss.named_parameters())
        for name in ("proxies", "W", "fc", "centroids"):
            if name in parameters:
                return parameters[name]
        return None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the wrapped loss of (B, d) raw embeddings with (B,) integer labels, a scalar.

        The wrapped loss's own distance decides whether and how rows are normalised.
        """
        check_batch(embeddings, labels)
        weight = next(self.loss.parameters(), None)
        with no_autocast(embeddings):
            rows = full_precision(embeddings) if weight is None else embeddings.to(weight.dtype)
            mined = None if self.miner is None else self.miner(rows, labels)
            value: Tensor = self.loss(rows, labels, mined)
            # That package leaves terms out by comparisons, which NaN never passes.
            return value + zero_or_nan(rows, *self.loss.parameters())


def build_pml(module: Any, name: str, arguments: dict[str, Any], given: dict[str, int], kind: str) -> nn.Module:
    """Construct class `name` of `module`; what it names of `given` and `arguments` leaves open is added."""
    known = [n for n, member in vars(module).items() if inspect.isclass(member) and issubclass(member, nn.Module)]
    if name not in known:
        raise InputError(f"pytorch-metric-learning has no {kind} called {name!r}.{did_you_mean(name, known)}")
    cls = getattr(module, name)
    takes, required = _parameters(cls)
    unknown = [key for key in arguments if key not in takes]
    if unknown:
        raise InputError(
            f"{kind} {name} takes no {unknown[0]!r}.{did_you_mean(unknown[0], takes)} "
            f"It takes: {', '.join(sorted(takes))}."
        )
    filled = {key: value for key, value in given.items() if key in takes} | arguments
    missing = required - set(filled)
    if missing:
        raise InputError(f"{kind} {name} also needs {', '.join(sorted(missing))}; add to its arguments.")
    try:
        built: nn.Module = cls(**filled)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{kind} {name} refuses its arguments {filled}: {error}") from error
    return built


def _parameters(cls: type) -> tuple[set[str], set[str]]:
    """Return the names that a constructor takes, also through ``**kwargs`` of its bases, and those without default."""
    takes: set[str] = set()
    required: set[str] = set()
    for base in cls.__mro__:
        if base is nn.Module or "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                takes.add(p.name)
                # What a subclass passes up itself is not the user's to give.
                if p.default is p.empty and base is cls:
                    required.add(p.name)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return takes, required
