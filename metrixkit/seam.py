"""The seam between the training loop, the data and a recipe: what passes, and what a recipe must answer.

The loop knows a recipe only through :class:`Method`; a recipe knows the loop not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass
class Batch:
    """What one step gets: only what :meth:`Method.needs` asked for, the rest is None or empty.

    Attributes:
        ids: B item ids, as in the manifest.
        labels: (B,) int64 class indices within the training split, or None.
        views: One (B, 3, H, W) uint8 tensor a view; where several resolutions are asked for, each view at each of them
            before the next view; the small views at the end.
        modalities: Name to (B, ...) tensor.
        partner: (B,) int64 row, in the training split, of each item's partner, or None.
        partner_views: The partners' views, as `views` without the small ones; empty without partners.
        mask: (B, number of modalities) bool, what is present, or None.
        texts: B captions as they are written, or empty.
        index: (B,) int64 row of each item in the training split, or None.
    """

    ids: list[str]
    labels: Tensor | None = None
    views: list[Tensor] = field(default_factory=list)
    modalities: dict[str, Tensor] = field(default_factory=dict)
    partner: Tensor | None = None
    partner_views: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    texts: list[str] = field(default_factory=list)
    index: Tensor | None = None

    def to(self, device: Any) -> Batch:
        """Return the batch with every tensor on `device` (asynchronous from pinned memory)."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the data loader."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        def one(t: Tensor | None) -> Tensor | None:
            return None if t is None else move(t)

        return Batch(
            ids=self.ids,
            labels=one(self.labels),
            views=[move(v) for v in self.views],
            modalities={k: move(v) for k, v in self.modalities.items()},
            partner=one(self.partner),
            partner_views=[move(v) for v in self.partner_views],
            mask=one(self.mask),
            texts=self.texts,
            index=one(self.index),
        )


@dataclass
class Output:
    """What one forward call answers.

    Attributes:
        losses: ``"total"`` is minimised, the rest is logged.
        logs: Called on the steps that are logged, after the backward pass and before the update, so that a number that
            costs something (or waits for the device) costs it there only.
    """

    losses: dict[str, Tensor]
    logs: Callable[[], dict[str, float]] = dict


@dataclass(frozen=True)
class Needs:
    """What a recipe wants of the data.

    Attributes:
        views: Augmented views of each item.
        labels: Whether class labels are needed.
        partners: Whether each row comes with a partner, drawn from the recipe's ``partners``.
        resolutions: Sides in pixels at which each view's crop is rendered; empty is the model's one size.
        small_views: Further views of a smaller part and size (multi-crop).
        small_size: Their side in pixels; None is 3 / 7 of the model's, as 96 is of 224.
        batch_coupled: Whether the loss couples the rows of a batch (contrast, pairs). Then accumulating gradients over
            small batches is another loss than one large batch, and the loop refuses it unless asked.
    """

    views: int = 1
    labels: bool = True
    partners: bool = False
    resolutions: tuple[int, ...] = ()
    small_views: int = 0
    small_size: int | None = None
    batch_coupled: bool = True


@dataclass
class Group:
    """Parameters with a rate of their own.

    Attributes:
        name: For logs ("backbone", "head", "proxies").
        params: The parameters.
        lr_scale: Factor on the base rate.
        weight_decay: None takes the optimiser's.
        schedule: Factor on the rate as a function of (fractional epoch, epochs); None takes the run's.
        warm: Whether the group trains during warm-up; the others stand still (rate zero) until it is over.
        freeze_epochs: First epochs in which the group stands still whatever else holds.
    """

    name: str
    params: list[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    schedule: Callable[[float, int], float] | None = None
    warm: bool = False
    freeze_epochs: float = 0.0


@dataclass
class EpochPlan:
    """What a recipe settles before an epoch and wants logged; what must survive a kill is in its own state."""

    logs: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """A training recipe. Implementations are ``nn.Module`` and do not inherit from one another.

    One that needs partners has a buffer ``partners``: (items, p) int64 rows of the training split, from which each
    item's partner is drawn anew whenever the item is. A row that begins with -1 has none yet: the item stands in for
    its own partner.
    """

    def needs(self) -> Needs:
        """Return what the data must bring."""
        ...

    def __call__(self, batch: Batch) -> Output:
        """Return the losses of one batch; the one call a step that is wrapped for several processes."""
        ...

    def encoders(self) -> dict[str, nn.Module]:
        """Return what evaluation, export and the index use; ``"image"`` for a single tower."""
        ...

    def parameter_groups(self) -> list[Group]:
        """Return every trainable parameter exactly once."""
        ...

    def before_epoch(self, epoch: int, embed: Callable[[], Tensor]) -> EpochPlan:
        """Settle what an epoch needs; `embed` returns the training set's embeddings, row by row of the manifest."""
        ...

    def after_step(self, step: int) -> None:
        """Update what follows the weights (moving averages, queues); runs on the unwrapped module."""
        ...
