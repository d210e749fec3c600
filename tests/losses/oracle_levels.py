"""A second implementation of mixing features and inputs: float64 loops over one mixture at a time."""

import torch
from oracle_losses import mixtures


def forms(name):
    """rho+, rho-, sigma+, sigma-, tau in torch, at the settings of the paper."""
    same = lambda x: x
    if name == "contrastive":
        return lambda s: -s, lambda s: (s - 0.5).clamp(min=0), same, same, same
    if name == "binomial_deviance":
        one = lambda x: torch.log1p(torch.exp(x))
        return lambda s: one(-2 * (s - 0.5)), lambda s: one(40 * (s - 0.5)), same, same, same
    if name == "lifted_structure":
        return lambda s: torch.exp(-s), lambda s: torch.exp(s - 0.5), torch.log, torch.log, lambda x: x.clamp(min=0)
    if name == "proxy_anchor":
        return lambda s: torch.exp(-32 * (s - 0.1)), lambda s: torch.exp(32 * (s + 0.1)), torch.log1p, torch.log1p, same
    assert name == "multi_similarity"
    return (
        lambda s: torch.exp(-17.97 * (s - 0.77)),
        lambda s: torch.exp(75.66 * (s - 0.77)),
        lambda x: torch.log1p(x) / 17.97,
        lambda x: torch.log1p(x) / 75.66,
        same,
    )


def unit(row):
    return row / row.norm()


def terms(name, anchors, own, features, labels, of_anchor, head, kind, lam, hardest=None, positives=None, mean=False):
    """Return a list over anchors of (sigma+, sigma-) or None without mixtures.

    `anchors` are unit rows with labels `of_anchor`; `own[a]` is the row of the batch that anchor a is, or None.
    """
    rho_p, rho_n, sigma_p, sigma_n, _ = forms(name)
    clean = torch.stack([unit(head(f[None])[0]) for f in features])
    each = []
    for a, anchor in enumerate(anchors):
        positive = [j for j in range(len(labels)) if labels[j] == of_anchor[a] and j != own[a]]
        negative = [j for j in range(len(labels)) if labels[j] != of_anchor[a]]
        every = list(positive)
        if positives is not None:
            positive = sorted(positive, key=lambda j: (j - a - 1) % len(labels))[:positives]
        if hardest is not None:
            negative = sorted(negative, key=lambda j: -(anchor @ clean[j]).item())[:hardest]
        pairs = mixtures(kind, a, positive, negative)
        if kind == "positive-positive" and positives is not None:
            pairs = [(p, q, 1.0) for p in positive for q in every if p != q]
        if not pairs:
            each.append(None)
            continue
        sums = [torch.zeros((), dtype=torch.float64)] * 2
        for i, j, y in pairs:
            i, j = (own[a] if k == "a" else k for k in (i, j))
            ratio = lam if isinstance(lam, float) else lam[i, j]
            s = anchor @ unit(head((ratio * features[i] + (1 - ratio) * features[j])[None])[0])
            y = ratio if y is None else y
            share = 1 / len(pairs) if mean else 1.0
            sums[0] = sums[0] + share * y * rho_p(s)
            sums[1] = sums[1] + share * (1 - y) * rho_n(s)
        each.append((sigma_p(sums[0]), sigma_n(sums[1])))
    return each


def mixed_loss(name, embeddings, features, labels, head, kind, lam, **options):
    """Mean over anchors with mixtures of the mixed loss of a batch."""
    anchors = torch.stack([unit(row) for row in embeddings])
    own = list(range(len(anchors)))
    each = terms(name, anchors, own, features, labels, labels, head, kind, lam, **options)
    tau = forms(name)[4]
    kept = [tau(p + n) for p, n in (e for e in each if e is not None)]
    return float(sum(kept).detach()) / len(kept) if kept else 0.0


def proxy_mixed_loss(name, proxies, features, labels, head, kind, lam, **options):
    """Proxy anchor: positive parts over proxies with mixtures, negative parts over all proxies."""
    anchors = torch.stack([unit(row) for row in proxies])
    classes = list(range(len(proxies)))
    each = terms(name, anchors, [None] * len(proxies), features, labels, classes, head, kind, lam, **options)
    present = [c for c in classes if c in labels.tolist()]
    pos = sum(each[c][0] for c in classes if each[c] is not None) / max(1, len(present))
    neg = sum(each[c][1] for c in classes if each[c] is not None) / len(classes)
    return float((pos + neg).detach())
