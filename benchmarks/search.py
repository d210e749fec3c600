"""Nearest items, utilization and cross-modal metrics beside faiss and beside the sorting that CLIP4Clip does.

    OMP_NUM_THREADS=1 python benchmarks/search.py                        # all of it, about five minutes
    OMP_NUM_THREADS=1 python benchmarks/search.py --only utilization     # or crossmodal, neighbours, sop

One thread, CPU-seconds, medians of repetitions that take turns within one run; values are checked to be equal first.
Embeddings are seeded, class-structured, d = 512, unit rows in float32. faiss is IndexFlatIP on rows that are already
normalised, with filling the index counted. What it returns is float32; ours is exact to float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import faiss
import numpy as np
import torch
import torch.nn.functional as F

from metrixkit.retrieval import crossmodal, neighbours, utilization


def clustered(count: int, classes: int, seed: int) -> np.ndarray:
    """Return (count, 512) float32 unit rows around class centres: cosine about 0.5 within a class."""
    g = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(classes, 512, generator=g), dim=1)
    own = centres[torch.arange(count) % classes]
    return F.normalize(own + F.normalize(torch.randn(count, 512, generator=g), dim=1), dim=1).numpy()


def medians(functions: list[Callable[[], object]], repetitions: int) -> list[float]:
    """Return the median CPU-seconds of each function, called in turns."""
    spent: list[list[float]] = [[] for _ in functions]
    for _ in range(repetitions):
        for f, times in zip(functions, spent, strict=True):
            start = time.process_time()
            f()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in spent]


def show(what: str, ours: float, against: str, theirs: float, target: float | None = None) -> None:
    ratio = theirs / ours
    verdict = "" if target is None else f"  target {target:g}x {'met' if ratio >= target else 'MISSED'}"
    print(
        f"{what:<52}{1e3 * ours:>10.1f} ms  {against:<34}{1e3 * theirs:>10.1f} ms {ratio:>6.1f}x{verdict}", flush=True
    )


def require(equal: bool, what: str) -> None:
    if not equal:
        raise SystemExit(f"{what}: values differ")


def flat(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery)
    return index.search(queries, k)


# ---- cross-modal: CLIP4Clip's way, from its description


def summary(ranks: np.ndarray) -> dict[str, float]:
    """Return its metrics from zero-based ranks, as fractions."""
    found = {f"recall@{k}": float((ranks < k).mean()) for k in (1, 5, 10)}
    return found | {"median_rank": float(np.median(ranks)) + 1, "mean_rank": float(ranks.mean()) + 1}


def sorted_rows(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return zero-based ranks of the right videos from sorted rows, for any number of texts a video."""
    return np.where(np.sort(-scores, axis=1) == -scores[np.arange(len(own)), own][:, None])[1]


def by_diagonal(square: np.ndarray) -> np.ndarray:
    """Return ranks as it finds them with one text a video: each row sorted, then searched for the diagonal's score."""
    ordered = np.sort(-square, axis=1)
    wanted = np.diag(-square)[:, None]
    return np.where(ordered - wanted == 0)[1]


def one_text_each(scores: np.ndarray) -> dict[str, float]:
    directions = (("t2v", scores), ("v2t", scores.T))
    return {f"{side}/{k}": v for side, matrix in directions for k, v in summary(by_diagonal(matrix)).items()}


def several_texts_each(scores: np.ndarray, texts: int) -> dict[str, float]:
    """Return its metrics with `texts` consecutive texts a video: two sorts of all indices, and the best text."""
    videos = scores.shape[1]
    stacked = torch.from_numpy(scores).view(videos, texts, videos).permute(1, 0, 2)
    first = torch.argsort(stacked, dim=-1, descending=True)
    places = torch.diagonal(torch.argsort(first, dim=-1), dim1=1, dim2=2).flatten().numpy()
    t2v = summary(places) | {"median_rank": float(torch.from_numpy(places).median()) + 1}
    best = stacked.amax(0).T.numpy()
    v2t = summary(by_diagonal(best))
    return {f"t2v/{k}": v for k, v in t2v.items()} | {f"v2t/{k}": v for k, v in v2t.items()}


def bench_crossmodal() -> None:
    rng = np.random.default_rng(0)
    for texts, target, repetitions in ((1, 1, 15), (20, 80, 5)):
        own = np.arange(1000).repeat(texts)
        scores = rng.standard_normal((len(own), 1000), dtype=np.float32)
        scores[np.arange(len(own)), own] += 2
        ways = [
            partial(crossmodal, similarity=scores, video_of_text=own, compat="clip4clip"),
            partial(crossmodal, similarity=scores, video_of_text=own),
            partial(one_text_each, scores) if texts == 1 else partial(several_texts_each, scores, texts),
        ]
        found, _, wanted = (way() for way in ways)
        require(all(abs(found[k] - wanted[k]) < 1e-9 for k in wanted), "cross-modal")
        require(found.counts["t2v/tied"] + found.counts["v2t/tied"] == 0, "cross-modal ties")
        grouped, plain, theirs, rows = medians([*ways, partial(sorted_rows, scores, own)], repetitions)
        size = f"cross-modal, {len(own):,} x 1,000"
        show(f"{size}, compat=clip4clip", grouped, "CLIP4Clip's sorts", theirs, target)
        show(f"{size}, ranking all texts", plain, "CLIP4Clip's sorts", theirs)
        show(f"{size}, ranking all texts", plain, "np.sort of the rows, t2v alone", rows)


def bench_utilization() -> None:
    queries, training = clustered(7562, 1415, 1), clustered(59551, 11318, 0)
    ours = partial(utilization, queries, training, per_query=True)
    faiss_way = partial(flat, queries, training, 1)
    found, products = ours(), faiss_way()[0][:, 0]
    require(float(np.abs(found - ours(precision="float64")).max()) < 1e-10, "utilization against float64")
    require(float(np.abs(found - (2 - 2 * products)).max()) < 1e-5, "utilization against faiss")
    a, b = medians([ours, faiss_way], 3)
    show("utilization, 7,562 x 59,551", a, "faiss IndexFlatIP, k = 1", b, 1.8)


def bench_neighbours(count: int, classes: int, repetitions: int) -> None:
    rows = clustered(count, classes, 0)
    ways = [partial(neighbours, rows, k=10), partial(flat, rows, rows, 11)]
    found, theirs = (way()[1] for way in ways)
    some = np.arange(0, count, max(1, count // 2000))  # float64 against everything costs minutes for all of them
    in_float64 = partial(neighbours, rows[some], rows, 10, some, np.arange(count), precision="float64")
    require(np.array_equal(found[some], in_float64()[1]), "neighbours against float64")
    alike = 100 * float((theirs[:, 1:] == found).mean())
    a, b, c = medians([*ways, in_float64], repetitions)
    what = f"10 nearest among {count:,}"
    show(what, a, f"faiss IndexFlatIP, {alike:.3f} % alike", b)
    show(what, a, f"float64 (from {len(some):,} queries)", c * count / len(some))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=["crossmodal", "utilization", "neighbours", "sop"])
    only = parser.parse_args().only
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if only in (None, "crossmodal"):
        bench_crossmodal()
    if only in (None, "utilization"):
        bench_utilization()
    if only in (None, "neighbours"):
        bench_neighbours(5924, 100, 5)
    if only in (None, "sop"):
        bench_neighbours(60502, 11316, 1)


if __name__ == "__main__":
    main()
