"""An encoder with a linear layer over classes, and that layer as a file beside the saved encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.files import write_bytes
from metrixkit.models.export import read_config

CLASSIFIER = "classifier.safetensors"


class Classifier(nn.Module):
    """Images to scores of classes: a linear layer on what an encoder answers.

    A view of the two, which a recipe holds as parts of its own; it adds no parameter.

    Args:
        encoder: (B, 3, H, W) images to (B, d) embeddings.
        linear: d inputs, C outputs.
        classes: C names in the order of the outputs; empty where nobody has named them.

    Raises:
        InputError: As many names as there are outputs were expected.
    """

    def __init__(self, encoder: nn.Module, linear: nn.Linear, classes: Sequence[str] = ()) -> None:
        super().__init__()
        if classes and len(classes) != linear.out_features:
            raise InputError(f"{len(classes)} names for a classifier of {linear.out_features} classes; give one each.")
        self.encoder, self.linear, self.classes = encoder, linear, tuple(classes)
        # Not train(): the parts stay in the mode that they are in.
        self.training = encoder.training

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C) logits of (B, 3, H, W) images; float32 also under autocast."""
        embeddings = self.encoder(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.linear(embeddings)  # type: ignore[no-any-return]

    @torch.no_grad()
    def scores(self, embeddings: Tensor) -> Tensor:
        """Return (N, C) float64 logits, on the processor, of (N, d) embeddings that are at hand."""
        rows = torch.as_tensor(embeddings).to("cpu", torch.float64)
        return F.linear(rows, self.linear.weight.cpu().double(), self.linear.bias.cpu().double())


def save_classifier(classifier: Classifier, classes: Sequence[str], folder: str | Path) -> None:
    """Write the linear layer with the names of its classes as ``classifier.safetensors``, beside the saved encoder.

    Args:
        classifier: Its encoder has been saved to `folder` before.
        classes: C names in the order of the outputs.
        folder: Where :func:`~metrixkit.models.save_model` wrote the encoder; its hash is kept, so that a layer is never
            taken for that of another encoder.

    Raises:
        InputError: Another number of names, or no encoder there.
    """
    checked = Classifier(classifier.encoder, classifier.linear, classes)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checked.linear.state_dict().items()}
    told = {
        "format": "pt",
        "classes": json.dumps(list(classes)),
        "encoder_sha256": read_config(Path(folder))["weights_sha256"],
    }
    write_bytes(Path(folder) / CLASSIFIER, save(tensors, metadata=told))


def load_classifier(folder: str | Path, encoder: nn.Module) -> Classifier:
    """Return the encoder with the linear layer that was saved beside it, on the encoder's device, in evaluation mode.

    Args:
        folder: A saved model's folder (``RUN/model``).
        encoder: What :func:`~metrixkit.models.load_encoder` returned for it.

    Raises:
        InputError: There is no such file, it cannot be read, or it belongs to another encoder.
    """
    path = Path(folder) / CLASSIFIER
    if not path.is_file():
        raise InputError(
            f"{folder} has no {CLASSIFIER}: the run that saved this model trained no classifier (method=classification "
            "and method=samix do)."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            told = file.metadata() or {}
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        classes = json.loads(told["classes"])
    except (SafetensorError, KeyError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as a classifier ({error}).") from error
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not named or weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.is_floating_point():
        raise InputError(
            f"{path} cannot be read as a classifier: weight {tuple(weight.shape)}, bias {tuple(bias.shape)} and "
            "the list of names of its classes do not go together."
        )
    if told.get("encoder_sha256") != read_config(Path(folder))["weights_sha256"]:
        raise InputError(f"{path} was saved for another encoder than the one beside it; copy both from one run.")
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return Classifier(encoder, linear.to(next(encoder.parameters()).device), classes).eval()
