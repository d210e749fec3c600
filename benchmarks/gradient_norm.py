"""What a step pays for the norm of its gradient, which stops a run that has diverged: measured in the loop itself.

    OMP_NUM_THREADS=1 python benchmarks/gradient_norm.py [--rounds 5]

One thread. For each recipe a step as the loop makes it (forward, backward, norm, update), CPU-seconds; the norm alone,
on the same gradients; and the floor, numbers as many as the gradients' read once, by a sum. Told is the least of the
rounds, which take turns. The norm is read together with the next step's loss, so that no wait for a device is added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from metrixkit.losses import BPR, Metrix, MultiSimilarity
from metrixkit.models import ImageEncoder
from metrixkit.training.divergence import gradient_norm


class Images(nn.Module):
    """Metrix on an image encoder."""

    def __init__(self, backbone: str, size: int, batch: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(backbone, pooling="avg", dim=128, image_size=size)
        self.criterion = Metrix(MultiSimilarity())
        self.images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        self.labels = torch.arange(batch) // 4

    def forward(self) -> Tensor:
        return self.criterion(self.encoder(self.images), self.labels)  # type: ignore[no-any-return]


class Tables(nn.Module):
    """BPR on two tables, the worst case: a step touches few rows, its gradient is as large as the tables."""

    def __init__(self, users: int, items: int, dim: int, batch: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, dim), nn.Embedding(items, dim)
        self.criterion = BPR()
        draw = torch.Generator().manual_seed(0)
        self.user = torch.randint(users, (batch,), generator=draw)
        self.positive, self.negative = (torch.randint(items, size, generator=draw) for size in ((batch,), (batch, 10)))

    def forward(self) -> Tensor:
        rows = self.users(self.user), self.items(self.positive), self.items(self.negative)
        return self.criterion(*rows)  # type: ignore[no-any-return]


CASES: dict[str, Callable[[], nn.Module]] = {
    "small, 32 px, 32 images (the default)": lambda: Images("small", 32, 32),
    "ResNet-18, 64 px, 32 images": lambda: Images("torchvision/resnet18", 64, 32),
    "ResNet-50, 224 px, 8 images": lambda: Images("torchvision/resnet50", 224, 8),
    "BPR, 20,000 x 64 and 10,000 x 64, 1024 rows": lambda: Tables(20_000, 10_000, 64, 1024),
}


def seconds(work: Callable[[], object], times: int) -> float:
    """Return CPU-seconds of one call, the mean over `times`."""
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def main() -> None:
    """Print a row a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'':46s}{'step ms':>9s}{'norm ms':>9s}{'floor ms':>10s}{'norm / step':>13s}")
    for name, make in CASES.items():
        torch.manual_seed(0)
        module = make()
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)

        def step(module: nn.Module = module, optimizer: torch.optim.Optimizer = optimizer) -> None:
            module().backward()
            gradient_norm(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        first = seconds(step, 1)
        times = max(1, min(50, int(0.5 / first)))
        flat = torch.cat([p.flatten() for p in module.parameters()]).detach()
        found = []
        for _ in range(rounds):
            whole = seconds(step, times)
            module().backward()
            norm = seconds(partial(gradient_norm, optimizer), max(5, times))
            found.append((whole, norm, seconds(flat.sum, max(5, times))))
            optimizer.zero_grad(set_to_none=True)
        whole, norm, floor = (1e3 * min(column) for column in zip(*found, strict=True))
        print(f"{name:46s}{whole:9.2f}{norm:9.3f}{floor:10.3f}{norm / whole:12.2%}")


if __name__ == "__main__":
    main()
