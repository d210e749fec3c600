"""Vectors of users and items, looked up by index: the whole model of a recommender."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.seam import Group


class Factors(nn.Module):
    """One free vector for each user and each item, kept in a ball.

    Args:
        users: Number of users, U.
        items: Number of items, I.
        dim: Dimensions, d.
        max_norm: Radius of the ball that every vector is pulled back into as it is looked up; null for none.
        deviation: Standard deviation of the initial coordinates; 1 is the DMM release's, so that with a ball of
            radius 1 all vectors start on its surface.

    Raises:
        InputError: A count or size below 1, or a radius or deviation that is not positive.
    """

    def __init__(
        self, users: int, items: int, dim: int = 256, max_norm: float | None = 1.0, deviation: float = 1.0
    ) -> None:
        super().__init__()
        for name, value in (("users", users), ("items", items), ("dim", dim)):
            if value < 1:
                raise InputError(f"model.{name}={value}: expected 1 or more.")
        if (max_norm is not None and max_norm <= 0) or deviation <= 0:
            raise InputError(f"model.max_norm={max_norm}, deviation={deviation}: expected positive numbers.")
        self.user = nn.Embedding(users, dim, max_norm=max_norm)
        self.item = nn.Embedding(items, dim, max_norm=max_norm)
        self.max_norm = max_norm
        self.embedding_dim = dim
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=deviation)

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return (U, d) user and (I, d) item vectors inside the ball, as a lookup of each would."""
        users, items = self.user.weight, self.item.weight
        if self.max_norm is None:
            return users.clone(), items.clone()
        return users.renorm(2, 0, self.max_norm), items.renorm(2, 0, self.max_norm)

    def parameter_groups(self) -> list[Group]:
        """Return both tables as one group."""
        return [Group("factors", [*self.user.parameters(), *self.item.parameters()], warm=True)]
