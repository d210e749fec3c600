"""Which images are each image's positives: CLIM's centre-wise selection and the rules it is compared with.

Source: Li et al., Center-wise Local Image Mixture For Contrastive Representation Learning, 2020, Section 3.1, Eq. 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from metrixkit.errors import InputError, did_you_mean
from metrixkit.mixing.clusters import Clusters, fit_clusters
from metrixkit.mixing.draws import draw_others
from metrixkit.mixing.features import unit_features
from metrixkit.mixing.nearest import Points
from metrixkit.mixing.neighbours import all_neighbours, cell_neighbours
from metrixkit.mixing.pools import FALLBACKS, Fallback, centre_wise, pool
from metrixkit.mixing.shares import collect, from_first, part_of

SelectionRule = Literal["centre-wise", "knn", "k-means", "random"]
SELECTION_RULES: tuple[str, ...] = get_args(SelectionRule)
EXACT_UP_TO = 50_000  # items; beyond, comparing all with all would outlast an epoch on a processor


@dataclass(frozen=True)
class Selection:
    """The positives of n items.

    Attributes:
        pools: (n, n_pos) int64 rows of the features, never the item itself; -1 at the end only where fewer than n_pos
            other items can be chosen from at all.
        fallback: (n,) bool, whether the rule alone could not draw a pool: at most n_pos local neighbours
            ("centre-wise"), fewer than n_pos others in the cluster ("k-means"); False for the other rules.
        local: (n,) int64, from how many items the rule itself chooses: centre-wise local neighbours, others of the
            cluster, or others at all.
        assignment: (n,) int64 cluster of each item, or None where the rule clusters nothing.
        clusters: Clusters with items; 0 where the rule clusters nothing.
        empty: Clusters that ended without items.
        reseeded: How often k-means refilled a cluster that had lost its items.
        exact: Whether each item was compared with all others.
    """

    pools: Tensor
    fallback: Tensor
    local: Tensor
    assignment: Tensor | None
    clusters: int
    empty: int
    reseeded: int
    exact: bool

    @property
    def fallback_share(self) -> float:
        """Share of items in [0, 1] for which the fallback chose."""
        return float(self.fallback.double().mean())

    def logs(self) -> dict[str, float]:
        """Return what a run logs when it selects anew."""
        return {
            "selection/fallback_share": self.fallback_share,
            "selection/local": float(self.local.double().mean()),
            "selection/clusters": float(self.clusters),
            "selection/reseeded": float(self.reseeded),
        }


@torch.no_grad()
def select_positives(
    features: Any,
    k: int = 40,
    clusters: int | None = None,
    n_pos: int = 10,
    generator: torch.Generator | None = None,
    *,
    rule: SelectionRule = "centre-wise",
    fallback: Fallback = "fill",
    exact: bool | Literal["auto"] = "auto",
    nprobe: int = 16,
    epoch: int = 0,
    niter: int = 25,
) -> Selection:
    """Select the positives of every item from the features of all.

    "centre-wise" takes, of an item's k nearest neighbours (Omega_2), those of its own k-means cluster (Omega_1) that
    are at least as near to the cluster's centre as the item itself (Omega_p), and draws n_pos of them. Distances are
    Euclidean, of features at length 1. Squared distances within 1e-12 are equal: neighbours then come in the order of
    rows, a cluster is the first of those equally near, and Eq. 2 keeps its ties. Where Omega_p has no more than n_pos
    items the fallback decides.

    In a process group every process gives the features of all items; they share the work and all get all of the
    result, which is that of one process. k-means is faiss's, everything behind it is exact (float64 decides).

    Args:
        features: (n, d) floating tensor or array, finite, no zero row, n >= 2; at length 1 or not.
        k: Neighbours, >= n_pos; all others where there are no more.
        clusters: m for "centre-wise" and "k-means", and for "knn" where not every pair is compared; at most n. The
            paper's is about n / 128.
        n_pos: Items of a pool, >= 1.
        generator: A CPU generator; one number is taken from it whatever the sizes are, from which k-means starts and
            (with the epoch and the item) the pools are drawn. In a process group the first process's counts.
        rule: "centre-wise", or the paper's baselines: "knn", the n_pos nearest (`k` is not used); "k-means", n_pos
            drawn from the cluster; "random", n_pos drawn from all.
        fallback: "fill" keeps Omega_p and fills it up with the nearest of Omega_2; "nearest" takes the n_pos nearest
            of Omega_2 instead.
        exact: Whether each item is compared with all others. "auto" does so up to 50,000 items; beyond, with those of
            the `nprobe` cells around its own: then Omega_1 & Omega_2 lacks nothing, but may hold items of the cluster
            that have more than k nearer items elsewhere. On a GPU exact=True is fast for some millions.
        nprobe: Cells to look into, the own one included, >= 1.
        epoch: Changes the draws.
        niter: Iterations of k-means.

    Returns:
        The selection, its tensors on the device of the features.

    Raises:
        InputError: Something is not as described, there are fewer items than clusters, or faiss is absent and needed.
    """
    _check_settings(rule, fallback, exact, k=k, n_pos=n_pos, nprobe=nprobe, niter=niter, clusters=clusters)
    if generator is None:
        raise InputError("the selection is drawn: give a torch.Generator, such as torch.Generator().manual_seed(0).")
    rows = unit_features(features)
    count = len(rows)
    seed = int(from_first(torch.randint(2**63 - 1, (), generator=generator)))
    everything = rule == "random" or (count <= EXACT_UP_TO if exact == "auto" else bool(exact))
    points = Points(rows)
    found: Clusters | None = None
    if rule in ("centre-wise", "k-means") or not everything:
        if clusters is None:
            raise InputError(
                f"clusters is missing: rule={rule!r} on {count} items needs it; the paper's is about one for 128 items "
                f"({max(1, count // 128)} here)."
            )
        found = fit_clusters(points, clusters, seed, niter)

    # Items of a cluster side by side, so that a process has few cells to read.
    order = torch.arange(count, device=rows.device) if found is None else found.assignment.argsort(stable=True)
    items = order[part_of(count)]
    if rule in ("random", "k-means"):
        groups = torch.zeros_like(order) if found is None else found.assignment
        pools = draw_others(items, groups, n_pos, seed, epoch)
        local = torch.bincount(groups)[groups[items]] - 1
        short = local < n_pos if rule == "k-means" else torch.zeros_like(local, dtype=torch.bool)
    else:
        width = min(n_pos if rule == "knn" else k, count - 1)
        if everything:
            near = all_neighbours(points, items, width)
        else:
            assert found is not None
            near = cell_neighbours(points, items, width, found, nprobe)
        if rule == "centre-wise":
            assert found is not None
            inside = centre_wise(near, items, found, points.tie)
            local = inside.sum(1)
            short = local <= n_pos
            pools = pool(near, inside, items, n_pos, seed, epoch, fallback)
        else:
            local = torch.full_like(items, count - 1)
            short = torch.zeros_like(items, dtype=torch.bool)
            pools = torch.nn.functional.pad(near, (0, n_pos - width), value=-1)
    # One message: the pool, whether it fell back, and from how many the rule chose.
    part = torch.cat([pools, short.long()[:, None], local[:, None]], dim=1)
    whole = torch.empty(count, n_pos + 2, dtype=torch.int64, device=rows.device)
    whole[order] = collect(part, count)
    used = 0 if found is None else int((found.sizes > 0).sum())
    return Selection(
        pools=whole[:, :n_pos].contiguous(),
        fallback=whole[:, n_pos].bool(),
        local=whole[:, n_pos + 1].contiguous(),
        assignment=None if found is None else found.assignment,
        clusters=used,
        empty=0 if found is None else len(found.centres) - used,
        reseeded=0 if found is None else found.reseeded,
        exact=everything,
    )


def _check_settings(rule: str, fallback: str, exact: Any, **numbers: Any) -> None:
    for name, chosen, known in (("rule", rule, SELECTION_RULES), ("fallback", fallback, FALLBACKS)):
        if chosen not in known:
            raise InputError(f"{name}={chosen!r}.{did_you_mean(str(chosen), known)} Known: {', '.join(known)}.")
    if not (exact == "auto" or isinstance(exact, bool)):
        raise InputError(f"exact={exact!r}: expected 'auto', True or False.")
    for name, number in numbers.items():
        if number is None and name == "clusters":
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name}={number!r}: expected an integer of at least 1.")
    k, n_pos = numbers["k"], numbers["n_pos"]
    if rule == "centre-wise" and n_pos > k:
        raise InputError(
            f"n_pos={n_pos} is more than k={k}: a pool is chosen from the k nearest items and could never be filled. "
            "Raise k (40 is the paper's) or lower n_pos (10)."
        )
