"""A second implementation of losses and mixtures: float64 numbers and loops, nothing shared with the package."""

import math

import numpy as np

KINDS = ("positive-negative", "anchor-negative", "positive-anchor", "positive-positive", "negative-negative")


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _log(x):
    return math.log(x) if x > 0 else 0.0


# name -> (settings, rho+, rho-, sigma+, sigma-, tau)
def forms(
    beta=17.97, gamma=75.66, m=0.77, bd=(2.0, 40.0, 0.5), threshold=0.5, lifted=0.5, temperature=1.0, pa=(32.0, 0.1)
):
    same = lambda x: x
    b, g, bm = bd
    pb, delta = pa
    return {
        "contrastive": (lambda s: -s, lambda s: max(0.0, s - threshold), same, same, same),
        "multi_similarity": (
            lambda s: math.exp(-beta * (s - m)),
            lambda s: math.exp(gamma * (s - m)),
            lambda x: math.log1p(x) / beta,
            lambda x: math.log1p(x) / gamma,
            same,
        ),
        "binomial_deviance": (
            lambda s: math.log1p(math.exp(-b * (s - bm))),
            lambda s: math.log1p(math.exp(g * (s - bm))),
            same,
            same,
            same,
        ),
        "lifted_structure": (lambda s: math.exp(-s), lambda s: math.exp(s - lifted), _log, _log, lambda x: max(0.0, x)),
        "nca": (
            lambda s: math.exp(s / temperature),
            lambda s: math.exp(s / temperature),
            lambda x: -_log(x),
            _log,
            same,
        ),
        "proxy_anchor": (
            lambda s: math.exp(-pb * (s - delta)),
            lambda s: math.exp(pb * (s + delta)),
            math.log1p,
            math.log1p,
            same,
        ),
    }


def mixtures(kind, a, positives, negatives):
    """Pairs (first, second, label) with label None for lambda; 'a' stands for the anchor itself."""
    if kind == "positive-negative":
        return [(p, n, None) for p in positives for n in negatives]
    if kind == "positive-negative-first":
        return [(p, n, None) for p in positives[:1] for n in negatives]
    if kind == "anchor-negative":
        return [("a", n, None) for n in negatives]
    if kind == "anchor-negative-official":
        return [] if positives else [("a", n, None) for n in negatives]
    if kind == "positive-anchor":
        return [(p, "a", 1.0) for p in positives]
    if kind == "positive-positive":
        return [(p, q, 1.0) for p in positives for q in positives if p != q]
    return [(n, o, 0.0) for n in negatives for o in negatives if n != o]


def mixed_terms(
    name, anchors, candidates, positive, negative, kind, lam, renormalize=True, mean=False, hardest=None, **settings
):
    """Return a list over anchors of (sigma+, sigma-, number of mixtures); rows are unit, lam a number or lam[first][second]."""
    rho_p, rho_n, sigma_p, sigma_n, _ = forms(**settings)[name]
    out = []
    for a, row in enumerate(anchors):
        positives = [j for j in range(len(candidates)) if positive[a][j]]
        negatives = [j for j in range(len(candidates)) if negative[a][j]]
        if hardest is not None:
            negatives = sorted(sorted(negatives, key=lambda j: -float(row @ candidates[j]))[:hardest])
        pairs = mixtures(kind, a, positives, negatives)
        sum_p = sum_n = 0.0
        for i, j, y in pairs:
            ratio = lam if isinstance(lam, float) else float(lam[a if i == "a" else i][a if j == "a" else j])
            v = ratio * (row if i == "a" else candidates[i]) + (1 - ratio) * (row if j == "a" else candidates[j])
            s = float(row @ v) / (float(np.linalg.norm(v)) if renormalize else 1.0)
            y = ratio if y is None else y
            share = 1 / len(pairs) if mean else 1.0
            sum_p += share * y * rho_p(s) if y else 0.0
            sum_n += share * (1 - y) * rho_n(s) if y != 1 else 0.0
        out.append((sigma_p(sum_p), sigma_n(sum_n), len(pairs)))
    return out


def mixed_loss(name, rows, labels, kind, lam, **options):
    """Mean over anchors with mixtures of the mixed loss of raw rows against themselves."""
    z = unit(rows)
    labels = list(labels)
    size = len(labels)
    positive = [[labels[i] == labels[j] and i != j for j in range(size)] for i in range(size)]
    negative = [[labels[i] != labels[j] for j in range(size)] for i in range(size)]
    tau = forms()[name][4]
    each = [tau(p + n) for p, n, count in mixed_terms(name, z, z, positive, negative, kind, lam, **options) if count]
    return sum(each) / len(each) if each else 0.0


def clean_loss(name, rows, labels, **settings):
    """Mean over anchors of the clean loss; with plain logarithms over anchors with both sides only."""
    rho_p, rho_n, sigma_p, sigma_n, tau = forms(**settings)[name]
    z = unit(rows)
    each = []
    for a, row in enumerate(z):
        pos = [rho_p(float(row @ z[j])) for j in range(len(z)) if labels[j] == labels[a] and j != a]
        neg = [rho_n(float(row @ z[j])) for j in range(len(z)) if labels[j] != labels[a]]
        if name in ("lifted_structure", "nca") and not (pos and neg):
            continue
        each.append(tau(sigma_p(sum(pos)) + sigma_n(sum(neg))))
    return sum(each) / len(each) if each else 0.0
