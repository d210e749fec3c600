"""A small encoder and batches for the tests of self-supervised methods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metrixkit.seam import Batch, Group


class Toy(nn.Module):
    """Pooled features of (N, 3, 8, 8) images; with batch norm or without."""

    embedding_dim = 6

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 6)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.layer(images.flatten(1).to(self.layer.weight.dtype))))

    def parameter_groups(self) -> list[Group]:
        return [Group("backbone", list(self.parameters()))]


def toy(norm: bool = False, seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy(norm)


def views(count: int, number: int = 2, seed: int = 0, side: int = 8) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw) for _ in range(number)]


def batch(count: int = 8, seed: int = 0, number: int = 2, partners: bool = False) -> Batch:
    return Batch(
        ids=[str(i) for i in range(count)],
        index=torch.arange(count),
        views=views(count, number, seed),
        partner_views=views(count, 2, seed + 100) if partners else [],
    )
