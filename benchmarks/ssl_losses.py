"""MixCo's and MoCHi's losses beside the ways that build a matrix of labels, or every synthetic negative.

    OMP_NUM_THREADS=1 python benchmarks/ssl_losses.py

One thread, CPU-seconds, forward and backward from raw embeddings to their gradient; the queue is of length 1, which the
other ways trust and ours does not. Times are medians of repetitions that take turns within one run; the peak of added
memory is that of a single step in a process of its own. Every value and gradient is first compared.

MixCo: N = 256 queries and 128 mixtures, K = 65,536, d = 128. The dense way holds the logits of all candidates beside
the soft labels (log-softmax, where the published code takes the logarithm of a softmax and can give NaN). MoCHi:
B = 256, K = 16,384, 1,024 hardest, 1,024 + 128 points; the other way gathers, mixes and normalises them, (B, 1,152, d).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from metrixkit.losses import HarderDraw, draw_harder, info_nce, mixco_moco_loss, mochi_loss_drawn

N, D = 256, 128
QUEUES = {"mixco": 65536, "mochi": 16384}
HARDEST, SYNTHETIC, HARDER = 1024, 1024, 128
Loss = Callable[[Tensor], Tensor]


def products_alone(what: str) -> Callable[[], Tensor]:
    """Return what no way can do without: the products of all rows with the queue, and those of the gradient."""
    rows, queue = inputs(what), torch.randn(QUEUES[what], D)

    def run() -> Tensor:
        gradient = torch.zeros_like(rows)
        for block in queue.split(2**20 // len(rows)):
            gradient.addmm_(rows @ block.T, block)
        return gradient

    return run


def cross_entropy_first(logits: Tensor) -> Tensor:
    """Return MoCo's way: the positive stands in column 0."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def mixco_losses() -> dict[str, Loss]:
    """Return ways to compute MixCo's loss of N queries followed by N / 2 mixtures."""
    g = torch.Generator().manual_seed(0)
    key, queue = (F.normalize(torch.randn(n, D, generator=g), dim=1) for n in (N, QUEUES["mixco"]))
    lam, half = torch.rand(N // 2, generator=g), N // 2

    def dense(x: Tensor) -> Tensor:
        rows = F.normalize(x, dim=1)
        q, mixed = rows[:N], rows[N:]
        clean = torch.cat([(q * key).sum(1, keepdim=True), q @ queue.T], 1) / 0.2
        logits = torch.cat([mixed @ key.T, mixed @ queue.T], 1) / 0.05
        labels = torch.zeros_like(logits)
        labels[range(half), range(half)], labels[range(half), range(half, N)] = lam, 1 - lam
        return cross_entropy_first(clean) - (labels * logits.log_softmax(1)).sum(1).mean()

    return {
        "mixco_moco_loss": lambda x: mixco_moco_loss(x[:N], x[N:], key, queue, lam),
        "dense soft labels": dense,
        "MoCo's own loss (info_nce)": lambda x: info_nce(x[:N], key, 0.2, queue),
    }


def mochi_losses() -> dict[str, Loss]:
    """Return ways to compute MoCHi's loss of N queries."""
    g = torch.Generator().manual_seed(0)
    key, queue = (F.normalize(torch.randn(n, D, generator=g), dim=1) for n in (N, QUEUES["mochi"]))
    draw: HarderDraw = draw_harder(N, HARDEST, SYNTHETIC, HARDER, g)

    def formed(x: Tensor) -> Tensor:
        q = F.normalize(x, dim=1)
        to_queue = q @ queue.T
        with torch.no_grad():
            order = to_queue.topk(HARDEST, dim=1).indices
            first, second, third = (queue[order.gather(1, i)] for i in (draw.first, draw.second, draw.third))
            a, b = draw.share[..., None], draw.query_share[..., None]
            points = torch.cat([a * first + (1 - a) * second, b * q[:, None] + (1 - b) * third], 1)
            points = F.normalize(points, dim=2)
        logits = torch.cat([(q * key).sum(1, keepdim=True), to_queue, torch.einsum("bd,bsd->bs", q, points)], 1)
        return cross_entropy_first(logits / 0.2)

    return {
        "mochi_loss": lambda x: mochi_loss_drawn(x, key, queue, HARDEST, draw),
        "all points formed": formed,
        "MoCo's own loss (info_nce)": lambda x: info_nce(x, key, 0.2, queue),
    }


WAYS = {"mixco": (mixco_losses, N + N // 2), "mochi": (mochi_losses, N)}


def inputs(what: str) -> Tensor:
    """Return raw embeddings, (rows, D)."""
    return 3 * torch.randn(WAYS[what][1], D, generator=torch.Generator().manual_seed(1))


def step(loss: Loss, rows: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that computes value and gradient anew."""

    def run() -> tuple[Tensor, Tensor]:
        x = rows.detach().requires_grad_()
        value = loss(x)
        value.backward()
        assert x.grad is not None
        return value.detach(), x.grad

    return run


def medians(functions: list[Callable[[], object]], repetitions: int) -> list[float]:
    """Return the median CPU milliseconds of each function, called in turns."""
    spent: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for f, times in zip(functions, spent, strict=True):
            start = time.process_time()
            f()
            times.append(time.process_time() - start)
    return [1e3 * statistics.median(times) for times in spent]


def peak_megabytes(what: str, name: str) -> float:
    """Return the peak of resident memory that one step adds, in MB; run in a process of its own."""
    torch.set_num_threads(1)
    loss, rows = WAYS[what][0]()[name], inputs(what)
    step(lambda x: (x @ x.T).logsumexp(1).mean(), rows)()  # what the first product of a process loads
    with open("/proc/self/clear_refs", "w") as handle:  # forget the peak that importing left
        handle.write("5")
    before = _status("VmHWM")
    step(loss, rows)()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    print(f"{'':<32}{'CPU ms':>9}{'ours takes':>12}{'peak MB':>10}{'ours takes':>12}")
    for what, (ways, _) in WAYS.items():
        steps = {name: step(loss, inputs(what)) for name, loss in ways().items()}
        (value, grad), (other, other_grad) = (run() for run in list(steps.values())[:2])
        # MoCHi's places change hands where two negatives are alike to the last digits of a float32.
        if abs(value - other) > 1e-5 * other or (grad - other_grad).norm() > 1e-3 * other_grad.norm():
            raise SystemExit(f"{what}: the two ways differ, {value} and {other}")
        *times, floor = medians([*steps.values(), products_alone(what)], repetitions)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = [pool.apply(peak_megabytes, (what, name)) for name in steps]
        for name, ms, peak in zip(steps, times, peaks, strict=True):
            shown = (
                "" if name == next(iter(steps)) else f"{times[0] / ms:>11.2f}x{peak:>10.0f}{peaks[0] / peak:>11.2f}x"
            )
            print(f"{name:<32}{ms:>9.0f}{shown or f'{peak:>22.0f}'}")
        print(f"{'the matrix products alone':<32}{floor:>9.0f}{times[0] / floor:>11.2f}x")


if __name__ == "__main__":
    main()
