"""Deep metric learning with mixup, exact retrieval evaluation and indexing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metrixkit import _interrupts

if TYPE_CHECKING:
    from metrixkit.embedding.images import load_model

__all__ = ["load_model"]

if _interrupts.is_door():
    _interrupts.leave_at_interrupts()


def __getattr__(name: str) -> Any:
    # Looked up when asked for: `import metrixkit` and `metrixkit --help` must not wait for torch.
    if name == "load_model":
        from metrixkit.embedding.images import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
