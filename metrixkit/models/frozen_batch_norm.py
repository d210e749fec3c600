"""Batch norms that stand still, in training: folded into the convolution before them, or with a cheap backward pass.

A frozen batch norm is an affine map of each channel. Run by itself it reads and writes maps that are as large as the
convolution's, forward and backward; multiplied into the convolution's weights it costs nothing of the kind. Weights,
names and state dicts stay those of the model: what is folded is worked out anew in each forward pass.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that is frozen; plain again in training mode, or while its scale and shift train.

    torch's backward pass of batch norm in evaluation mode keeps the input and computes gradients of scale and shift as
    well. The gradient by the input alone is ``gradient * weight / sqrt(variance + eps)``, for which no map is kept.

    Attributes:
        folded: The convolution before it does its work.
    """

    folded: bool = False

    @property
    def still(self) -> bool:
        """Whether it is an affine map that does not learn."""
        learns = self.weight is not None and (self.weight.requires_grad or self.bias.requires_grad)
        return not (self.training or learns)

    def factor(self) -> Tensor:
        """Return (C,), what each channel is multiplied by."""
        assert self.running_var is not None  # only such norms become one
        factor = (self.running_var + self.eps).rsqrt()
        return factor if self.weight is None else factor * self.weight

    def shift(self, factor: Tensor) -> Tensor:
        """Return (C,), what is added to each channel."""
        assert self.running_mean is not None
        shift = -self.running_mean * factor
        return shift if self.bias is None else shift + self.bias

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W) normalised by the running statistics."""
        if self.folded and self.still:
            return input
        if not self.still or not input.requires_grad:
            return super().forward(input)
        settings = self.running_mean, self.running_var, self.weight, self.bias, self.eps
        return _Affine.apply(input, self.factor(), *settings)  # type: ignore[no-any-return, no-untyped-call]


class FoldedConv2d(nn.Conv2d):
    """Convolution that does the work of the frozen batch norm after it, as long as that stands still."""

    _norm: tuple[FrozenBatchNorm2d]  # in a tuple, so that it does not become a submodule

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, H, W), normalised."""
        (norm,) = self._norm
        if not norm.still:
            return super().forward(input)
        factor = norm.factor()
        shift = norm.shift(factor)
        bias = shift if self.bias is None else shift + self.bias * factor
        return self._conv_forward(input, self.weight * factor.view(-1, 1, 1, 1), bias)


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, factor: Tensor, *settings: Any) -> Tensor:  # type: ignore[override]
        mean, variance, weight, bias, eps = settings
        return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (factor,) = ctx.saved_tensors
        # Under autocast gradients have less precision than the factor, which must not lose any.
        return (gradient * factor.view(1, -1, 1, 1)).to(gradient.dtype), *([None] * 6)


def freeze_batch_norm(norm: nn.Module) -> None:
    """Stop the gradient of a batch norm's scale and shift; a plain 2D one gets the cheap backward pass, too.

    Args:
        norm: Changed in place; the same object with the same names, whoever holds it. It is the caller who keeps it in
            evaluation mode.
    """
    for parameter in norm.parameters(recurse=False):
        parameter.requires_grad_(False)
    if type(norm) is nn.BatchNorm2d and norm.running_var is not None:
        norm.__class__ = FrozenBatchNorm2d


def fold_frozen(network: nn.Module, image_size: int) -> int:
    """Fold the frozen batch norms of a network into the convolutions whose maps they alone are given.

    Args:
        network: From (B, 3, H, W) to a tensor; changed in place.
        image_size: Side of its images, pixels.

    Returns:
        How many were folded. A network whose answer to noise would change by more than rounding is left as it was.
    """
    like = next(network.parameters())
    noise = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(like)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.enable_grad():
            pairs, before = _pairs(network, noise.requires_grad_())
        for conv, norm in pairs:
            conv.__class__, norm.folded = FoldedConv2d, True
            conv._norm = (norm,)  # type: ignore[assignment]
        with torch.no_grad():
            same = torch.allclose(network(noise), before, rtol=1e-3, atol=1e-4 * float(before.abs().amax()))
        if same:
            return len(pairs)
        for conv, norm in pairs:
            conv.__class__, norm.folded = nn.Conv2d, False
            del conv._norm
        return 0
    finally:
        for module, mode in modes.items():
            module.training = mode


def _pairs(network: nn.Module, images: Tensor) -> tuple[list[tuple[nn.Conv2d, FrozenBatchNorm2d]], Tensor]:
    """Return which convolution's answer goes to which frozen norm and nowhere else, and the network's answer."""
    made: dict[Any, nn.Conv2d] = {}  # by the node that made it
    taken: dict[Any, FrozenBatchNorm2d] = {}
    runs: Counter[nn.Module] = Counter()

    def makes(module: nn.Conv2d, _: Any, answer: Tensor) -> None:
        runs[module] += 1
        made[answer.grad_fn] = module

    def takes(module: FrozenBatchNorm2d, given: tuple[Tensor, ...]) -> None:
        runs[module] += 1
        taken[given[0].grad_fn] = module

    handles: list[Any] = []
    for module in network.modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(makes))
        elif isinstance(module, FrozenBatchNorm2d):
            handles.append(module.register_forward_pre_hook(takes))
    try:
        answer = network(images)
    finally:
        for handle in handles:
            handle.remove()
    uses: Counter[Any] = Counter()
    seen: set[Any] = set()
    todo = [] if answer.grad_fn is None else [answer.grad_fn]  # a backbone that runs without gradient has no pairs
    while todo:
        node = todo.pop()
        for parent, _ in node.next_functions:
            if parent is not None:
                uses[parent] += 1
                if parent not in seen:
                    seen.add(parent)
                    todo.append(parent)
    pairs = [
        (conv, taken[node])
        for node, conv in made.items()
        if node in taken and uses[node] == 1 and runs[conv] == runs[taken[node]] == 1
    ]
    return pairs, answer.detach()
