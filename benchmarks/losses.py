"""Metrix's mixed losses beside the clean losses of pytorch-metric-learning and beside the released quadratic algorithm.

    OMP_NUM_THREADS=1 python benchmarks/losses.py

One thread, CPU-seconds, forward and backward from raw embeddings to their gradient, mixtures re-normalised, all
(anchor, positive, negative) triples, rows near their class centres. Every value and gradient is first checked against
a dense float64 computation. Times are medians of repetitions that take turns within one run; ratios are of these
medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as pml
from torch import Tensor

from metrixkit.losses import Contrastive, Metrix, MultiSimilarity, OfficialContrastive

BETA, GAMMA, MARGIN, THRESHOLD = 17.97, 75.66, 0.77, 0.5
SIZES = {100: [5] * 20, 1024: [4] * 256}
UNEQUAL = {100: [3, 4, 5, 6, 7] * 4, 1024: [2, 3, 4, 5, 6] * 51 + [4]}
DIMENSIONS = {100: 512, 1024: 128}


@dataclass
class Row:
    """One line of the table: what took `ms`, against what, and the ratio that was promised."""

    what: str
    ms: float
    against: str
    reference_ms: float
    target: str
    met: bool

    def text(self) -> str:
        ratio = self.ms / self.reference_ms
        shown = f"{ratio:.2f}x" if ratio >= 0.1 else f"1/{1 / ratio:.0f}"
        mark = "" if not self.target else "met" if self.met else "MISSED"
        sides = f"{self.what:<48}{self.ms:>8.2f}  {self.against:<30}{self.reference_ms:>8.2f}"
        return f"{sides}{shown:>8}  {self.target:<9}{mark}"


def clustered(sizes: list[int], dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return shuffled raw rows near the centre of their class (cosine about 0.8 within one), and labels."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centres = F.normalize(torch.randn(len(sizes), dim, generator=g), dim=1)
    rows = centres[labels] + 0.5 * F.normalize(torch.randn(len(labels), dim, generator=g), dim=1)
    order = torch.randperm(len(labels), generator=g)
    return rows[order] * 3, labels[order]


def dense_reference(name: str, rows: Tensor, labels: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Return value and gradient in float64, with every (a, p, n) held at once and autograd behind it."""
    x = rows.double().requires_grad_()
    z = F.normalize(x, dim=1)
    g = z @ z.T
    same = labels[:, None] == labels
    a, p = (same & ~torch.eye(len(labels), dtype=torch.bool)).nonzero(as_tuple=True)
    length = (lam**2 + (1 - lam) ** 2 + 2 * lam * (1 - lam) * g[p]).sqrt()
    s = (lam * g[a, p][:, None] + (1 - lam) * g[a]) / length
    negative = (~same[a]).double()
    if name == "contrastive":
        each = (-lam * s + (1 - lam) * (s - THRESHOLD).clamp(min=0)) * negative
        per_anchor = torch.zeros(len(x), dtype=x.dtype).index_add(0, a, each.sum(1))
    else:
        pos = (lam * torch.exp(-BETA * (s - MARGIN)) * negative).sum(1)
        neg = ((1 - lam) * torch.exp(GAMMA * (s - MARGIN)) * negative).sum(1)
        zero = torch.zeros(len(x), dtype=x.dtype)
        per_anchor = torch.log1p(zero.index_add(0, a, pos)) / BETA + torch.log1p(zero.index_add(0, a, neg)) / GAMMA
    value = per_anchor.sum() / len(a.unique())
    value.backward()
    return value.detach(), x.grad


def released(rows: Tensor, labels: Tensor, lam: float) -> Tensor:
    """Return the mixed contrastive loss as the release: loops for index lists, T x T distances, their diagonal."""
    z = F.normalize(rows, dim=1)
    chosen = []
    for i in range(len(labels)):
        positives = torch.where((labels == labels[i]) & (torch.arange(len(labels)) != i))[0]
        for _ in positives:
            negatives = torch.where(labels != labels[i])[0]
            first = positives[0].expand_as(negatives)
            chosen.append(torch.stack([torch.full_like(negatives, i), first, negatives]))
    anchors, firsts, seconds = torch.cat(chosen, dim=1)
    mixtures = F.normalize(lam * z[firsts] + (1 - lam) * z[seconds], dim=1)
    distance = torch.cdist(z[anchors], mixtures).diagonal()
    gap = (0.5 - distance).clamp(min=0)
    near = distance.sum() / (distance > 0).sum().clamp(min=1)
    return lam * near + (1 - lam) * gap.sum() / (gap > 0).sum().clamp(min=1)


def step(loss: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes value and gradient anew and returns the gradient."""

    def run() -> Tensor:
        x = rows.detach().requires_grad_()
        loss(x).backward()
        return x.grad

    return run


def medians(functions: list[Callable[[], object]], repetitions: int) -> list[float]:
    """Return the median CPU milliseconds of each function, called in turns after one warm-up call."""
    for f in functions:
        f()
    spent: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for f, times in zip(functions, spent, strict=True):
            start = time.process_time()
            f()
            times.append(time.process_time() - start)
    return [1e3 * statistics.median(times) for times in spent]


def check(name: str, criterion: Metrix, rows: Tensor, labels: Tensor, lam: float) -> None:
    """Stop unless value and gradient in float32 are those of the dense float64 computation to 1e-5."""
    x = rows.detach().requires_grad_()
    value = criterion.mixed_loss(x, labels, lam=lam)
    value.backward()
    expected, gradient = dense_reference(name, rows, labels, lam)
    off = abs(value.item() - expected.item()) / max(1.0, abs(expected.item()))
    off_gradient = float((x.grad - gradient).norm() / gradient.norm().clamp(min=1e-12))
    if off > 1e-5 or off_gradient > 1e-4:
        raise SystemExit(f"{name}, B={len(rows)}, lambda={lam}: value off by {off:.1e}, gradient by {off_gradient:.1e}")


def peak_megabytes(name: str, lam: float) -> float:
    """Return the peak of resident memory that one step at B = 1,024 adds, in MB; run in a process of its own."""
    torch.set_num_threads(1)
    criterion = CRITERIA[name]()
    small, few = clustered([4] * 8, 128)
    step(lambda x: criterion.mixed_loss(x, few, lam=lam), small)()
    rows, labels = clustered(SIZES[1024], 128)
    with open("/proc/self/clear_refs", "w") as handle:  # forget the peak that importing left
        handle.write("5")
    before = _status("VmHWM")
    step(lambda x: criterion.mixed_loss(x, labels, lam=lam), rows)()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as handle:
        return next(int(line.split()[1]) for line in handle if line.startswith(field))


CRITERIA = {
    "multi-similarity": lambda: Metrix(MultiSimilarity()),
    "contrastive": lambda: Metrix(Contrastive(THRESHOLD)),
}
PEERS = {
    "multi-similarity": ("PML clean MultiSimilarityLoss", lambda: pml.MultiSimilarityLoss(BETA, GAMMA, MARGIN)),
    "contrastive": ("PML clean ContrastiveLoss", lambda: pml.ContrastiveLoss()),
}
TARGETS = {("multi-similarity", 100): 0.8, ("contrastive", 100): 0.8}
TARGETS |= {("multi-similarity", 1024): 0.8, ("contrastive", 1024): 1.5}


def compare_with_pml(batch: int, lam: float, repetitions: int) -> list[Row]:
    """Measure mixed losses beside clean ones, and unequal classes beside equal ones."""
    rows, labels = clustered(SIZES[batch], DIMENSIONS[batch])
    uneven, uneven_labels = clustered(UNEQUAL[batch], DIMENSIONS[batch], seed=1)
    table = []
    for name, make in CRITERIA.items():
        criterion, (peer_name, make_peer) = make(), PEERS[name]
        check(name, criterion, rows, labels, lam)
        check(name, criterion, uneven, uneven_labels, lam)
        peer = make_peer()
        mixed, clean, unequal = medians(
            [
                step(lambda x, c=criterion: c.mixed_loss(x, labels, lam=lam), rows),
                step(lambda x, p=peer: p(x, labels), rows),
                step(lambda x, c=criterion: c.mixed_loss(x, uneven_labels, lam=lam), uneven),
            ],
            repetitions,
        )
        target = TARGETS[name, batch]
        what = f"mixed {name}, B={batch}, lambda={lam}"
        table.append(Row(what, mixed, peer_name, clean, f"<= {target}x", mixed <= target * clean))
        table.append(
            Row(
                f"  unequal, shuffled classes ({batch})",
                unequal,
                "equal classes",
                mixed,
                "<= 1.5x",
                unequal <= 1.5 * mixed,
            )
        )
    return table


def compare_clean(batch: int, repetitions: int) -> list[Row]:
    """Measure the clean losses, and clean + mixed in one call, beside PML's clean ones."""
    rows, labels = clustered(SIZES[batch], DIMENSIONS[batch])
    loss, criterion, peer = (
        MultiSimilarity(BETA, GAMMA, MARGIN),
        Metrix(MultiSimilarity(BETA, GAMMA, MARGIN)),
        PEERS["multi-similarity"][1](),
    )
    if abs(loss(rows, labels).item() - peer(rows, labels).item()) > 1e-5:
        raise SystemExit("clean multi-similarity differs from pytorch-metric-learning's")
    ours, both, theirs = medians(
        [
            step(lambda x: loss(x, labels), rows),
            step(lambda x: criterion(x, labels), rows),
            step(lambda x: peer(x, labels), rows),
        ],
        repetitions,
    )
    name = PEERS["multi-similarity"][0]
    return [
        Row(f"clean multi-similarity, B={batch}", ours, name, theirs, "", True),
        Row(f"clean + mixed multi-similarity, B={batch}", both, name, theirs, "", True),
    ]


def compare_with_release(classes: int, target: int, repetitions: int) -> Row:
    """Measure the mixed contrastive loss beside the released quadratic algorithm, 5 rows a class, d = 512.

    Costs are compared, not values: the release takes distances and one positive of each anchor, ours all of them. That
    its algorithm is written down rightly is checked against `OfficialContrastive`.
    """
    rows, labels = clustered([5] * classes, 512)
    if abs(released(rows, labels, 0.3).item() - OfficialContrastive(0.5).mixed_loss(rows, labels, 0.3).item()) > 1e-4:
        raise SystemExit("the released algorithm is not reproduced")
    criterion = CRITERIA["contrastive"]()
    ours = medians([step(lambda x: criterion.mixed_loss(x, labels, lam=0.3), rows)], 50 * repetitions)[0]
    theirs = medians([step(lambda x: released(x, labels, 0.3), rows)], repetitions)[0]
    batch = 5 * classes
    return Row(
        f"mixed contrastive, B={batch}",
        ours,
        "released quadratic algorithm",
        theirs,
        f"<= 1/{target}",
        ours * target <= theirs,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repetitions", type=int, default=15, help="at B=1024; ten times as many at B=100 (default 15)"
    )
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    table = []
    for lam in (0.3, 0.7):
        table += compare_with_pml(100, lam, 10 * repetitions) + compare_with_pml(1024, lam, repetitions)
    table += compare_clean(100, 10 * repetitions) + compare_clean(1024, repetitions)
    table += [compare_with_release(4, 30, 5), compare_with_release(8, 400, 3)]
    print(f"{'':<48}{'CPU ms':>8}  {'against':<30}{'CPU ms':>8}{'ratio':>8}  target")
    for row in table:
        print(row.text())
    for name in CRITERIA:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            added = pool.apply(peak_megabytes, (name, 0.3))
        verdict = "met" if added <= 64 else "MISSED"
        print(f"peak memory added by mixed {name}, B=1024: {added:.0f} MB (target <= 64: {verdict})")


if __name__ == "__main__":
    main()
