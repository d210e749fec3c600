"""Items by modality, and their embeddings under any pattern of what is observed, each computed once.

N items, M modalities, B items of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metrixkit.errors import InputError
from metrixkit.retrieval.missing.fill import Fill, fuse

Load = Callable[[Sequence[int]], Mapping[str, Tensor]]
Encode = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ModalityItems:
    """Items that have several modalities, some of them perhaps missing.

    Attributes:
        ids: N unique ids.
        targets: (N,) class labels, or numbers for regression.
        modalities: M names.
        present: (N, M) bool, what each item has by nature.
        load: Rows to their data, name to (B, ...) tensors, of at least `modalities`; ``NAME_mask`` may stand beside.
            What it gives for a missing modality is never seen by the model.

    Raises:
        InputError: Counts that do not fit, an id given twice, a modality without a name.
    """

    ids: tuple[str, ...]
    targets: NDArray
    modalities: tuple[str, ...]
    present: NDArray[np.bool_]
    load: Load

    def __post_init__(self) -> None:
        """Check the counts."""
        expected = len(self.ids), len(self.modalities)
        if not all(expected) or self.present.shape != expected or len(self.targets) != expected[0]:
            raise InputError(
                f"items: {len(self.ids)} ids, {len(self.targets)} targets, present {self.present.shape} for the "
                f"modalities {list(self.modalities)}; expected one of each for every item, and at least one modality."
            )
        if len(set(self.ids)) < len(self.ids):
            raise InputError("items: ids must be unique.")

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Any], targets: Any, ids: Sequence[Any] | None = None, present: Any = None
    ) -> ModalityItems:
        """Take data that is in memory.

        Args:
            arrays: Modality to (N, ...) tensor or array; ``NAME_mask`` beside ``NAME`` goes along with it.
            targets: (N,) labels or numbers.
            ids: (N,) unique; positions where None.
            present: (N, M) bool in the order of `arrays`; None where everything is there.

        Raises:
            InputError: Lengths that differ.
        """
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        names = tuple(name for name in tensors if not (name.endswith("_mask") and name[:-5] in tensors))
        count = len(np.asarray(targets))
        for name, tensor in tensors.items():
            if len(tensor) != count:
                raise InputError(f"modality {name!r} has {len(tensor)} rows, there are {count} targets.")
        there = np.ones((count, len(names)), dtype=bool) if present is None else np.asarray(present, dtype=bool)
        keys = tuple(str(key) for key in (range(count) if ids is None else ids))

        def load(rows: Sequence[int]) -> dict[str, Tensor]:
            index = torch.as_tensor(np.asarray(rows, dtype=np.int64))
            return {name: tensor[index] for name, tensor in tensors.items()}

        return cls(keys, np.asarray(targets), names, there, load)


class Embeddings:
    """Embeddings of items under patterns of what is observed; each pair of item and pattern is encoded once.

    Args:
        encode: ``encode(batch, present)`` takes name to (B, ...) tensors and (B, M) bool and returns (B, d) embeddings,
            or (B, M, d), one for each modality, which `fill` averages. Each row must depend on its own item only, as a
            network in evaluation mode has it. Missing modalities are zeros in `batch`, so nothing of them leaks.
        items: Whose.
        fill: See :func:`~metrixkit.retrieval.missing.fill.fuse`.
        means: For "mean_embedding".
        batch_size: Items of a call.
    """

    def __init__(
        self,
        encode: Encode,
        items: ModalityItems,
        fill: Fill = "mean",
        means: Tensor | None = None,
        batch_size: int = 256,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: expected 1 or more.")
        self.encode, self.items, self.fill, self.means, self.batch_size = encode, items, fill, means, batch_size
        self._found: dict[tuple[bool, ...], tuple[NDArray[np.bool_], Tensor]] = {}

    def under(self, present: NDArray[np.bool_]) -> Tensor:
        """Return (N, d) float32 embeddings on the CPU where each item is observed as its row of (N, M) bool says.

        Raises:
            InputError: `encode` answers another shape, or numbers that are not finite.
        """
        result: Tensor | None = None
        patterns, of_row = np.unique(present, axis=0, return_inverse=True)
        of_row = of_row.reshape(-1)
        for number, pattern in enumerate(patterns):
            rows = np.flatnonzero(of_row == number)
            found = self._rows(tuple(bool(p) for p in pattern), rows)
            if result is None:
                result = found.new_zeros((len(self.items), found.shape[1]))
            result[torch.from_numpy(rows)] = found
        assert result is not None
        return result

    @torch.no_grad()
    def _rows(self, pattern: tuple[bool, ...], rows: NDArray[np.int64]) -> Tensor:
        known, stored = self._found.get(pattern, (np.zeros(len(self.items), dtype=bool), torch.zeros(0, 0)))
        wanted = rows[~known[rows]]
        for start in range(0, len(wanted), self.batch_size):
            part = wanted[start : start + self.batch_size]
            found = self._encode(pattern, part)
            if not stored.numel():
                stored = found.new_zeros((len(self.items), found.shape[1]))
            stored[torch.from_numpy(part)] = found
        known[wanted] = True
        self._found[pattern] = (known, stored)
        return stored[torch.from_numpy(rows)]

    def _encode(self, pattern: tuple[bool, ...], rows: NDArray[np.int64]) -> Tensor:
        batch = dict(self.items.load(rows.tolist()))
        for name, there in zip(self.items.modalities, pattern, strict=True):
            if name not in batch and there:
                raise InputError(f"the data of {self.items.ids[rows[0]]!r}, ... lack the modality {name!r}.")
            for key in (name, f"{name}_mask"):
                if not there and key in batch:
                    batch[key] = torch.zeros_like(batch[key])
        present = torch.tensor(pattern).expand(len(rows), -1)
        found = self.encode(batch, present)
        if found.ndim == 3:
            found = fuse(found, present, self.fill, self.means)
        if found.ndim != 2 or len(found) != len(rows):
            raise InputError(
                f"encode answered shape {tuple(found.shape)} for {len(rows)} items; expected ({len(rows)}, d), or "
                f"({len(rows)}, {len(pattern)}, d) with an embedding for each modality."
            )
        found = found.detach().float().cpu()
        bad = torch.nonzero(~found.isfinite().all(dim=1))
        if len(bad):
            raise InputError(f"encode answered NaN or infinity for the item {self.items.ids[rows[int(bad[0, 0])]]!r}.")
        return found
