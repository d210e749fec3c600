"""A trained backbone for other people's programmes: in torchvision's or timm's own layout, and checked there."""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.files import write_bytes
from metrixkit.models.encoder import ImageEncoder
from metrixkit.models.stem import small_stem

# Largest difference between features, relative to the largest feature, in float64.
TOLERANCE = 1e-6
_LIBRARIES = ("torchvision", "timm")
_SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class BackboneExport:
    """What was written.

    Attributes:
        weights: The file of tensors.
        description: The JSON beside it.
        keys: How many tensors.
        max_difference: Largest difference between the pooled features of the encoder and of the library's own model
            with the file's weights, relative to the largest feature; measured in float64.
    """

    weights: Path
    description: Path
    keys: int
    max_difference: float


def export_backbone(model: ImageEncoder, path: str | Path) -> BackboneExport:
    """Write the backbone of an encoder as its library names its tensors, without classifier or projection.

    Before anything is written, the content of the file is loaded into a fresh model of the library, where everything
    but the classifier must match, and that model must give the same pooled features for a batch of images. Split batch
    norms are plain ones there. A stem for small images is the library's model with :func:`~.stem.small_stem`, which the
    description says.

    Args:
        model: An encoder with a backbone of torchvision or timm, on any device; it stays as it is.
        path: Ends in ``.safetensors`` or ``.pth`` (a state dict for ``torch.load``); its folder is made if needed. The
            description has the same name with ``.json``: backbone, stem, image size, mean, standard deviation.

    Returns:
        Where, how many tensors, and how far the features were apart.

    Raises:
        InputError: Another backbone or suffix, or a backbone that is no longer the library's: a layer was replaced or
            the features differ by more than 1e-6.
    """
    path = Path(path)
    settings = model.settings()
    library, _, name = str(settings["backbone"]).partition("/")
    if library not in _LIBRARIES:
        raise InputError(
            f"backbone {settings['backbone']!r} has no layout of torchvision or timm to be exported in; save_model "
            "writes any encoder, for load_model."
        )
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path}: expected a file name that ends in {' or '.join(_SUFFIXES)}.")
    trunk_model: nn.Module = model.trunk.model  # type: ignore[assignment]
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in trunk_model.state_dict().items()}
    content = _packed(tensors, path.suffix)
    description: dict[str, Any] = {
        "library": library,
        "name": name if library == "timm" else name.partition(".")[0],
        "version": _version(library),
        "stem": settings["stem"],
        "image_size": settings["image_size"],
        "mean": settings["mean"],
        "std": settings["std"],
        "keys": len(tensors),
        "weights": path.name,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    fresh = _fresh(description)
    _load_strictly(fresh, _unpacked(content, path.suffix), model.trunk.head_names, str(settings["backbone"]))  # type: ignore[arg-type]
    difference = _difference(model, fresh, description)
    if not difference <= TOLERANCE:
        raise InputError(
            f"backbone {settings['backbone']!r} is not exported: {library}'s own model gives other features with its "
            f"weights (apart by {difference:.1e} of the largest, {TOLERANCE:.0e} allowed). A layer computes something "
            "else than the library's; save_model writes any encoder, for load_model."
        )
    description["max_difference"] = difference
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json")
    write_bytes(path, content)
    write_bytes(beside, (json.dumps(description, indent=2) + "\n").encode())
    return BackboneExport(path, beside, len(tensors), difference)


def _packed(tensors: dict[str, Tensor], suffix: str) -> bytes:
    if suffix == ".safetensors":
        # Two names of one tensor are written twice: the format knows no sharing.
        return safetensors.torch.save({key: tensor.clone() for key, tensor in tensors.items()}, {"format": "pt"})
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _unpacked(content: bytes, suffix: str) -> dict[str, Tensor]:
    if suffix == ".safetensors":
        return dict(safetensors.torch.load(content))
    return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def _version(library: str) -> str:
    import timm
    import torchvision

    return str({"timm": timm, "torchvision": torchvision}[library].__version__)


def _fresh(description: dict[str, Any]) -> nn.Module:
    """Return the library's own model, as its users make it."""
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are overwritten
        if description["library"] == "timm":
            from metrixkit.models.timm_trunk import create as create_timm

            fresh = create_timm(description["name"], description["image_size"], pretrained=False)
        else:
            from metrixkit.models.torchvision_trunk import create as create_torchvision

            fresh = create_torchvision(description["name"], description["image_size"])
        if description["stem"] == "small":
            small_stem(fresh, f"{description['library']}/{description['name']}")
    return fresh


def _load_strictly(fresh: nn.Module, state: dict[str, Tensor], head_names: tuple[str, ...], backbone: str) -> None:
    try:
        found = fresh.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f"backbone {backbone!r} no longer fits its library's own model: {error}") from error
    heads = tuple(name + "." for name in head_names)
    missing = [key for key in found.missing_keys if not key.startswith(heads)]
    if missing or found.unexpected_keys:
        names = ", ".join([*missing, *found.unexpected_keys][:3])
        raise InputError(
            f"backbone {backbone!r} no longer fits its library's own model: {len(missing)} tensors are missing, "
            f"{len(found.unexpected_keys)} are unknown there ({names}). A layer was replaced; save_model writes any "
            "encoder, for load_model."
        )


@torch.no_grad()
def _difference(model: ImageEncoder, fresh: nn.Module, description: dict[str, Any]) -> float:
    """Return how far apart the pooled features of encoder and library are, relative to the largest."""
    size = description["image_size"]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Copies, so that neither mode, precision nor device of the encoder changes.
    ours = copy.deepcopy(model).cpu().double().eval()
    pool: Callable[[Tensor], Tensor] = ours.trunk.own_pool  # type: ignore[assignment]
    expected = pool(ours.features(images))
    mean, std = (torch.tensor(description[key]).double().view(1, 3, 1, 1) for key in ("mean", "std"))
    found = _pooled(fresh.double().eval(), (images - mean) / std, description["library"])
    return float((found - expected).abs().amax() / expected.abs().amax().clamp(min=1e-12))


def _pooled(fresh: nn.Module, pixels: Tensor, library: str) -> Tensor:
    """Return (B, C) what the library's model gives its classifier."""
    if library == "timm":
        return fresh(pixels)  # type: ignore[no-any-return]  # made without one
    given: list[Tensor] = []
    classifier = [m for m in fresh.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    handle = classifier.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    try:
        fresh(pixels)
    finally:
        handle.remove()
    pooled = given[-1]
    return pooled.mean((2, 3)) if pooled.ndim == 4 else pooled  # SqueezeNet classifies every position
