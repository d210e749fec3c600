"""An encoder of items with several modalities: one branch for all of them together, one for each by itself.

B items, M modalities, w the width of branches, d dimensions of embeddings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.files import write_bytes, write_text
from metrixkit.foreign import read_json
from metrixkit.models.modality_trunks import BYTES, ModalityInput, Sequences, trunk_of
from metrixkit.rebuilding import rebuilding
from metrixkit.seam import Group

WEIGHTS, SETTINGS = "model.safetensors", "modalities.json"
_TEXT_WIDTH = 16


@dataclass(frozen=True)
class MultimodalInputs:
    """What the data, not the user, says about the model.

    Attributes:
        forms: Modality to what it looks like, in order.
        outputs: Numbers that are predicted for an item; 0 where it is trained for labels.
    """

    forms: Mapping[str, ModalityInput]
    outputs: int = 0


class Multimodal(nn.Module):
    """The network of Geometric Multimodal Contrastive learning, with small encoders in place of its own.

    The joint branch encodes each modality, joins what it finds and maps it to width w; the branches of single
    modalities do so one by one; one linear map, shared by all, and a normalisation end each of them.

    Args:
        inputs: Given by the programme.
        dim: d.
        width: w.
        sequence: How sequences are encoded.
        branches: Whether there are branches of single modalities; plain fusion needs none.

    Raises:
        InputError: No modality, or sizes below 1.

    Source: Poklukar et al., ICML 2022, section 4; the predictor is that of its released code.
    """

    def __init__(
        self,
        inputs: MultimodalInputs,
        dim: int = 64,
        width: int = 64,
        sequence: Sequences = "conv",
        branches: bool = True,
    ) -> None:
        super().__init__()
        forms, outputs = dict(inputs.forms), inputs.outputs
        if not forms or min(dim, width) < 1:
            raise InputError(f"model: modalities {list(forms)}, dim={dim}, width={width}; expected one or more each.")
        self.inputs, self.names = forms, tuple(forms)
        self.embedding_dim, self.width, self.sequence, self.branches = dim, width, sequence, branches
        self.outputs = outputs
        self.bytes = nn.Embedding(BYTES, _TEXT_WIDTH, padding_idx=0) if self._has_text else None
        self.inside = nn.ModuleDict({n: trunk_of(form, width, sequence, _TEXT_WIDTH) for n, form in forms.items()})
        self.join = nn.Sequential(nn.ReLU(), nn.Linear(len(forms) * width, width))
        self.alone = nn.ModuleDict(
            {n: trunk_of(form, width, sequence, _TEXT_WIDTH) for n, form in forms.items()} if branches else {}
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(width, dim))
        self.refine = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) if outputs else None
        self.answer = nn.Linear(dim, outputs) if outputs else None

    @property
    def _has_text(self) -> bool:
        return any(form.kind == "text" for form in self.inputs.values())

    def prepare(self, modalities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what can be mixed of each modality that is there: pictures in [0, 1], vectors, vectors of bytes."""
        found = {}
        for name in self.names:
            if name not in modalities:
                continue
            x, form = modalities[name], self.inputs[name]
            if form.kind == "features" and x.shape[-1] != form.channels:
                raise InputError(
                    f"modality {name!r}: features of {x.shape[-1]} numbers, the model was built for {form.channels}."
                )
            if form.kind == "text":
                assert self.bytes is not None
                x = self.bytes(x)
            found[name] = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return found

    def part(self, name: str, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, d) unit embeddings of one modality alone.

        Args:
            name: The modality.
            x: (B, ...) from :meth:`prepare`.
            mask: (B, T) bool of a sequence's steps.

        Raises:
            InputError: The model has no such branch.
        """
        if name not in self.alone:
            why = "was built with branches=false" if not self.branches else f"has {', '.join(self.names)}"
            raise InputError(f"no branch encodes the modality {name!r} alone; this model {why}.")
        return F.normalize(self.head(self.alone[name](x, mask)), dim=1)

    def features(self, x: Mapping[str, Tensor], masks: Mapping[str, Tensor], count: int) -> Tensor:
        """Return (B, M, w), what the joint branch finds in each modality; zeros for one that `x` lacks."""
        some = next(self.parameters())
        found = [
            self.inside[name](x[name], masks.get(f"{name}_mask")) if name in x else some.new_zeros(count, self.width)
            for name in self.names
        ]
        return torch.stack(found, dim=1)

    def joint(
        self, x: Mapping[str, Tensor], masks: Mapping[str, Tensor], present: Tensor, means: Tensor | None = None
    ) -> Tensor:
        """Return (B, d) unit embeddings of the modalities together.

        Args:
            x: From :meth:`prepare`.
            masks: ``NAME_mask`` to (B, T) bool; other entries are not looked at.
            present: (B, M) bool; what is missing counts as zeros, or as `means`.
            means: (M, w) mean :meth:`features` of training items.
        """
        found = self.features(x, masks, len(present))
        instead = torch.zeros_like(found[:1]) if means is None else means.to(found)[None]
        filled = torch.where(present.to(found.device)[:, :, None], found, instead)
        return F.normalize(self.head(self.join(filled.flatten(1))), dim=1)

    def predict(self, embeddings: Tensor) -> Tensor:
        """Return (B,) numbers, or (B, outputs) where there are several, for (B, d) embeddings.

        Raises:
            InputError: The model was built without.
        """
        if self.refine is None or self.answer is None:
            raise InputError("this model predicts no numbers; it was trained for labels.")
        found: Tensor = self.answer(embeddings + self.refine(embeddings))
        return found[:, 0] if self.outputs == 1 else found

    def parameter_groups(self) -> list[Group]:
        """Return all parameters as one group."""
        return [Group("network", [p for p in self.parameters() if p.requires_grad], warm=True)]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write weights and settings."""
        from safetensors.torch import save

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        settings = {
            "inputs": {name: asdict(form) for name, form in self.inputs.items()},
            "outputs": self.outputs,
            "dim": self.embedding_dim,
            "width": self.width,
            "sequence": self.sequence,
            "branches": self.branches,
        }
        write_bytes(out / WEIGHTS, save({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}))
        write_text(out / SETTINGS, json.dumps(settings, indent=1) + "\n")


def load_multimodal(folder: str | os.PathLike[str]) -> Multimodal:
    """Return the model that :meth:`Multimodal.save` wrote, in evaluation mode.

    Args:
        folder: A run folder (its ``model/`` is taken) or that folder itself.

    Raises:
        InputError: There is none, or it is broken.
    """
    from safetensors.torch import load_file

    given = Path(folder)
    place = given / "model" if (given / "model").is_dir() else given
    if not (place / SETTINGS).is_file() or not (place / WEIGHTS).is_file():
        raise InputError(
            f"no model of several modalities at {given}: {place / SETTINGS} or {WEIGHTS} is missing. Expected a "
            "finished run of task=missing-modality."
        )
    settings = read_json(place / SETTINGS)
    with rebuilding(place, (place / WEIGHTS).stat().st_size):
        forms = {name: ModalityInput(**form) for name, form in settings.pop("inputs").items()}
        model = Multimodal(MultimodalInputs(forms, settings.pop("outputs")), **settings)
        model.load_state_dict(load_file(place / WEIGHTS))
    return model.eval()
