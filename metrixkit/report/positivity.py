"""Positivity: how many mixtures a mixed loss pulls towards their anchor, against lambda.

A anchors, K candidates, L values of lambda.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.files import replacing
from metrixkit.losses import Metrix, PairLoss
from metrixkit.losses.forms import Chunk, ContrastiveForm, LogForm
from metrixkit.mixing import plan_pairs
from metrixkit.report.curves import COLOURS
from metrixkit.report.drawing import new_figure

LAMBDAS = tuple(i / 20 for i in range(21))
_KIND = "positive-negative"


@torch.no_grad()
def positivity(
    criterion: nn.Module, embeddings: Tensor, labels: Tensor, lambdas: Sequence[float] = LAMBDAS
) -> pd.DataFrame:
    """Return the share of positive-negative mixtures whose loss falls as they come nearer to their anchor.

    A mixture v of label lambda is counted if d l~(a) / d s(a, v) <= 0, over all mixtures of all anchors of the batch.

    Args:
        criterion: Metrix, whose choice of mixtures, their length and reduction hold (mixed as embeddings, whatever its
            level); or a loss in the generalised form, with all mixtures, renormalised and summed over V(a).
        embeddings: (B, d) raw embeddings of one batch; computed in float64.
        labels: (B,) integers.
        lambdas: L numbers in [0, 1].

    Returns:
        One row for each lambda: `lambda`; `mixtures`, how many there are; `positivity`, the share that is pulled, in
        [0, 1]; `theory`, the share with s(a, v) <= :func:`positivity_threshold`, NaN where there is none.

    Raises:
        InputError: A lambda out of range, a loss without such mixtures or for which they have no gradient, or a batch
            without any.

    Source: It Takes Two to Tango: Mixup for Deep Metric Learning (ICLR 2022), section 3.5.
    """
    loss = criterion.loss if isinstance(criterion, Metrix) else criterion
    if not isinstance(loss, PairLoss):
        raise InputError(f"{type(loss).__name__} is not in the generalised form; positivity needs its mixed loss.")
    reasons = loss.refused | loss.refused_with_one_ratio
    if _KIND in reasons:
        raise InputError(f"{type(loss).__name__} has no positivity: {reasons[_KIND]}.")
    if not len(lambdas) or not all(0 <= lam <= 1 for lam in lambdas):
        raise InputError(f"lambdas are {list(lambdas)}, expected at least one number, all in [0, 1].")
    mixed = criterion if isinstance(criterion, Metrix) else Metrix(loss)
    mean = loss.always_mean or mixed.reduction == "mean"
    relations = loss.relations(embeddings.detach().double(), labels)
    to_all = relations.candidate_cosines(None)
    hardest = mixed.hardest_at(mixed.levels[0])
    plan = plan_pairs(_KIND, relations.positive, relations.negative, relations.similarity, hardest, mixed.positives)
    weights = loss.batch_weights(relations, plan.counts() > 0)
    lam = torch.tensor(list(lambdas), dtype=torch.float64, device=to_all.device)
    limits = torch.as_tensor(positivity_threshold(loss, lambdas), device=to_all.device)
    pulled, below, total = torch.zeros_like(lam), torch.zeros_like(lam), 0
    for a in range(len(relations.similarity)):
        p, n = plan.first[plan.anchor == a], plan.allowed[a].nonzero().squeeze(1)
        if plan.columns is not None:
            n = plan.columns[a][plan.allowed[a, plan.columns[a]]]
        if not len(p) or not len(n):
            continue
        s = _similarities(
            relations.similarity[a, p], relations.similarity[a, n], to_all[p[:, None], n], lam, mixed.renormalize
        )
        flat = s.reshape(-1, len(n))
        share = torch.full_like(lam, 1 / (len(p) * len(n)) if mean else 1.0)
        chunk = Chunk(
            flat,
            lam.repeat_interleave(len(p))[:, None].expand_as(flat),
            torch.ones_like(flat),
            torch.arange(len(lam), device=lam.device).repeat_interleave(len(p)),
            share,
            torch.ones_like(lam) * weights[0][a],
            torch.ones_like(lam) * weights[1][a],
        )
        derivative = loss.form.summed(chunk, grad=True)[1]
        assert derivative is not None  # it was asked for
        pulled += (derivative.view_as(s) <= 0).sum((1, 2))
        below += (s <= limits[:, None, None]).sum((1, 2))
        total += len(p) * len(n)
    if not total:
        raise InputError(
            "the batch has no anchor with a positive and a negative; give several images of several classes."
        )
    theory = torch.where(limits.isnan(), torch.nan, below / total)
    return pd.DataFrame(
        {"lambda": list(lambdas), "mixtures": total, "positivity": (pulled / total).cpu(), "theory": theory.cpu()}
    )


def _similarities(to_p: Tensor, to_n: Tensor, between: Tensor, lam: Tensor, renormalize: bool) -> Tensor:
    """Return s(a, mix(p, n)) for every lambda: (L, P, N) from (P,), (N,) and the (P, N) cosines of the two."""
    w = lam[:, None, None]
    s = w * to_p[:, None] + (1 - w) * to_n
    if renormalize:
        squares = w * w + (1 - w) ** 2 + 2 * w * (1 - w) * between
        s = s * squares.clamp(min=torch.finfo(s.dtype).eps).rsqrt()
    return s


def positivity_threshold(loss: PairLoss, lambdas: Sequence[float]) -> np.ndarray:
    """Return the similarity s(a, v) up to which mixtures are pulled, for each lambda.

    Multi-similarity: m + ln(lambda / (1 - lambda)) / (beta + gamma), as if both normalisers, 1 + the sums over V(a),
    were equal; proxy anchor by the same reasoning ln(lambda / (1 - lambda)) / (2 beta). Contrastive: the margin below
    lambda = 1/2 and no limit from there on, which is exact.

    Args:
        loss: In the generalised form.
        lambdas: L numbers in [0, 1].

    Returns:
        (L,) float64; -inf where nothing is pulled, inf where everything is, NaN for losses without a formula.

    Source: It Takes Two to Tango: Mixup for Deep Metric Learning (ICLR 2022), section 3.5.
    """
    lam = np.asarray(lambdas, dtype=np.float64)
    form = loss.form
    if isinstance(form, ContrastiveForm):
        return np.where(lam < 0.5, form.margin, np.inf)
    if isinstance(form, LogForm) and form.pos.plus_one and form.neg.plus_one:
        with np.errstate(divide="ignore"):
            odds = np.log(lam) - np.log1p(-lam)
        pull, push = (abs(side.scale * side.slope) for side in (form.pos, form.neg))
        rest = np.log(pull / push) + form.pos.offset - form.neg.offset
        return np.asarray((odds + rest) / (form.neg.slope - form.pos.slope))
    return np.full(lam.shape, np.nan)


def pool_positivity(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of several batches as one, each batch counting by its mixtures; lambdas must agree."""
    if not tables:
        raise InputError("no tables to pool: positivity was measured on no batch.")
    counts = np.array([t["mixtures"].to_numpy() for t in tables], dtype=np.float64)
    pooled = {
        name: (np.array([t[name].to_numpy() for t in tables]) * counts).sum(0) / counts.sum(0)
        for name in ("positivity", "theory")
    }
    return pd.DataFrame({"lambda": tables[0]["lambda"], "mixtures": counts.sum(0).astype(int), **pooled})


def positivity_plot(path: str | os.PathLike[str], tables: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Path:
    """Draw positivity against lambda, the theoretical curve dashed.

    Args:
        path: The picture (PNG); its folder is made.
        tables: As :func:`positivity` returns them, or several by name, each in a colour of its own.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    named = {"": tables} if isinstance(tables, pd.DataFrame) else dict(tables)
    # The curves may go anywhere and names may be long, so the legend stands below, a line a table.
    lines = len(named) if len(named) > 1 or "" not in named else 0
    figure = new_figure(figsize=(5.4, 3.6 + 0.2 * lines), dpi=120, facecolor="white")
    axes = figure.add_subplot()
    handles = []
    for i, (name, table) in enumerate(named.items()):
        colour, share = COLOURS[i % len(COLOURS)], table["lambda"]
        handles += axes.plot(share, 100 * table["positivity"], color=colour, marker="o", markersize=3, label=name)
        if table["theory"].notna().any():
            axes.plot(share, 100 * table["theory"], color=colour, linestyle="--", linewidth=1.2)
    axes.set_title("dots: measured    dashed: theory", fontsize=8, loc="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("lambda, the share of the positive", fontsize=9)
    axes.set_ylabel("mixtures that are pulled, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        figure.legend(handles=handles, loc="lower left", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, (0.1 * bool(lines) + 0.2 * lines) / figure.get_figheight(), 1, 1))
    out = Path(path)
    with replacing(out) as file:
        FigureCanvasAgg(figure).print_png(file)
    return out
