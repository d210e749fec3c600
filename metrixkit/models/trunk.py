"""What every backbone looks like from outside, whichever library it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Card:
    """What a backbone's weights were trained on.

    Attributes:
        image_size: Side of the square input in pixels.
        mean: Mean of red, green, blue that is subtracted, of values in [0, 1].
        std: Standard deviation of each that is divided by.
    """

    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


class Trunk(Protocol):
    """A backbone behind one surface. Implementations are ``nn.Module`` and do not inherit from one another.

    Attributes:
        model: The library's module; its state dict is the layout that files of weights are in.
        card: Input size, mean and standard deviation its weights expect.
        prefix_tokens: Leading tokens that are no patch (class, distillation, registers); 0 for maps and vectors.
        head_names: Prefixes of `model`'s keys that belong to what follows the features (classifier, own pooling). A
            file may hold more or fewer of these than the model; everything else must match.
    """

    model: nn.Module
    card: Card
    prefix_tokens: int
    head_names: tuple[str, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the last features of (B, 3, H, W) normalised images: (B, C, H, W), (B, N, C) or (B, C)."""
        ...

    def own_pool(self, features: Tensor) -> Tensor:
        """Return (B, C) by the model's own pooling, without its classifier."""
        ...

    def stages(self) -> list[list[str]]:
        """Return the parameter names of `model` from input to output; the first stage is the stem."""
        ...

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return `state` in `model`'s layout, with position embeddings resampled to its image size."""
        ...


def stages_by_prefix(names: Iterable[str], prefixes: Sequence[str]) -> list[list[str]]:
    """Divide parameter names into a stem and one stage for each prefix.

    Args:
        names: Parameter names in the order of registration.
        prefixes: Module paths from input to output, each opening a stage.

    Returns:
        Stem first (left out when empty), then a list for each prefix (left out when empty). A name under no prefix
        belongs to the stem while no prefix has been met, else to the stage met last, as final norms do.
    """
    stem: list[str] = []
    stages: list[list[str]] = [[] for _ in prefixes]
    last: int | None = None
    for name in names:
        found = next((i for i, prefix in enumerate(prefixes) if name.startswith(prefix + ".")), None)
        last = found if found is not None else last
        (stem if last is None else stages[last]).append(name)
    return [stage for stage in [stem, *stages] if stage]


def layer_prefixes(model: nn.Module, pattern: str = r"(?:^|\.)(?:layers?|blocks)\.\d+$") -> list[str]:
    """Return the paths of a transformer's layers in order: ``encoder.layers.0``, ``encoder.layers.1``, …"""
    found = re.compile(pattern)
    return [name for name, _ in model.named_modules() if found.search(name)]


class _PooledByItself(nn.Module):
    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk.own_pool(self.trunk(images))  # type: ignore[no-any-return, operator]


def feature_shape(trunk: nn.Module, image_size: int) -> tuple[int, ...]:
    """Return the shape of `trunk`'s features for one image: (1, C, H, W), (1, N, C) or (1, C)."""
    return tuple(_dry_run(trunk, image_size)[0].shape)


def own_pool_channels(trunk: nn.Module, image_size: int) -> int:
    """Return C of the model's own pooling.

    Raises:
        InputError: The model has none.
    """
    try:
        pooled, _ = _dry_run(_PooledByItself(trunk), image_size)
    except (TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"pooling='model': this backbone offers none ({error}); use 'avg' or 'avg+max'.") from error
    if pooled.ndim != 2:
        raise InputError(
            f"pooling='model' gives {tuple(pooled.shape[1:])} an image, not a vector; use 'avg' or 'token'."
        )
    return int(pooled.shape[1])


def reached_parameters(module: nn.Module, image_size: int) -> set[str]:
    """Return the names of the trainable parameters that `module`'s answer to an image depends on.

    A backbone may hold parameters that a given pooling leaves out (an attention pool, a hidden layer before the
    classifier). They never get a gradient, and several processes would wait for one.
    """
    output, used = _dry_run(module, image_size)
    leaves = _leaves(output)
    return {name for name, parameter in used.items() if id(parameter) in leaves}


def _dry_run(module: nn.Module, image_size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `module` answers to one image in evaluation mode, and the parameters it was run with, by name.

    Only shapes and the graph are wanted, so stand-ins on the meta device take the place of the weights: a large ViT
    takes milliseconds. A module that insists on real tensors gets one black image.
    """
    modes = {child: child.training for child in module.modules()}
    own: dict[str, Tensor] = dict(module.named_parameters())
    module.eval()
    try:
        with torch.enable_grad():
            try:
                used = {n: torch.empty_like(p, device="meta").requires_grad_(p.requires_grad) for n, p in own.items()}
                buffers = {n: torch.empty_like(b, device="meta") for n, b in module.named_buffers()}
                image = torch.empty(1, 3, image_size, image_size, device="meta")
                return torch.func.functional_call(module, {**used, **buffers}, (image,)), used
            except (RuntimeError, NotImplementedError):
                like = next(iter(own.values()), torch.empty(0))
                return module(torch.zeros(1, 3, image_size, image_size, device=like.device, dtype=like.dtype)), own
    finally:
        for child, mode in modes.items():
            child.training = mode


def _leaves(output: Tensor) -> set[int]:
    """Return the ids of the leaf tensors in the graph of `output`."""
    leaves, seen, todo = set(), set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        todo.extend(parent for parent, _ in node.next_functions)
    return leaves
