"""The generalised form of losses of pytorch-metric-learning, so that they can be mixed; checked as it is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from metrixkit.errors import InputError
from metrixkit.losses.forms import Form, LogForm, LogSide
from metrixkit.losses.pairs import PairLoss
from metrixkit.losses.pml import build_pml
from metrixkit.losses.pml_check import compare
from metrixkit.losses.pml_forms import DistanceForm, HingeForm, SoftplusForm
from metrixkit.losses.pml_pairs import (
    Averaging,
    MeanPairsFromPML,
    NCAFromPML,
    PairsFromPML,
    ProxyAnchorFromPML,
    ProxyNCAFromPML,
    TripletFromPML,
)

_NO_FORM = {
    "NTXentLoss": "each positive stands in a logarithm of its own; NCALoss(softmax_scale=1/temperature) sums the "
    "positives inside one, and is the same where an anchor has one positive",
    "SupConLoss": "its logarithm holds positives and negatives together while the positives are averaged outside; "
    "NCALoss(softmax_scale=1/temperature, distance=CosineSimilarity()) is the nearest that has one",
    "LiftedStructureLoss": "each positive pair joins the negatives of both its ends; "
    "take GeneralizedLiftedStructureLoss",
}


@dataclass(frozen=True)
class _Closeness:
    """How a distance object's numbers read off t, a similarity in [-1, 1]: closeness = scale * t + shift.

    Attributes:
        scale: See above.
        shift: See above.
        sign: 1 where the numbers are similarities, -1 for distances, whose negative is the closeness.
        power: Of the distance that t is made of; 2 where t is the cosine.
    """

    scale: float
    shift: float
    sign: int
    power: float

    def at(self, margin: float) -> float:
        """Return the t at which the object's own number is `margin`."""
        return (self.sign * margin - self.shift) / self.scale

    def slack(self, margin: float) -> tuple[float, float]:
        """Return how far t of negatives may rise until `margin`, a bound on their own numbers, demands nothing."""
        return 0.0, (1.0 if self.sign > 0 else 0.0) - self.sign * margin / self.scale

    def form(self, inner: Form) -> Form:
        """Return a form of t as a form of cosines."""
        return inner if self.power == 2 else DistanceForm(inner, self.power)


def from_pml(loss: nn.Module, miner: nn.Module | None = None) -> PairLoss:
    """Return the generalised form of a loss of pytorch-metric-learning, for use alone or in Metrix.

    Known: ContrastiveLoss, MultiSimilarityLoss, GeneralizedLiftedStructureLoss, NCALoss, TripletMarginLoss (cosines),
    ProxyAnchorLoss and ProxyNCALoss, on CosineSimilarity or on LpDistance of unit rows with p=2, reduced by
    MeanReducer, SumReducer, PerAnchorReducer or the DivisorReducer of ProxyAnchorLoss. Reducers that count non-zero
    terms (AvgNonZeroReducer, the default of ContrastiveLoss and TripletMarginLoss) have no such form.

    Value and gradient on random batches are compared with the given loss before anything is returned. Where a reducer
    averages pairs, mixtures are averaged within their anchor and then over anchors.

    Args:
        loss: The object. Its proxies are shared, not copied; it is left as it is.
        miner: One that returns each pair once (MultiSimilarityMiner, PairMarginMiner, HDCMiner), for losses between
            rows that are no triplet loss or NCA; P(a) and N(a) are what it returns, for mixtures too. On a batch of
            which it leaves a single pair pytorch-metric-learning answers 0, this the pair's loss.

    Returns:
        A loss whose clean value equals the given one to 1e-6 (float64; float32 distances of near rows to about 1e-3).

    Raises:
        InputError: The loss, its distance, reducer, regulariser or miner has no generalised form, or the comparison
            fails; the message names which and says what has one.

    Example:
        >>> from pytorch_metric_learning.distances import CosineSimilarity
        >>> from pytorch_metric_learning.losses import ContrastiveLoss
        >>> from pytorch_metric_learning.reducers import MeanReducer
        >>> from metrixkit.losses import Metrix, from_pml
        >>> theirs = ContrastiveLoss(1, 0.5, distance=CosineSimilarity(), reducer=MeanReducer())
        >>> criterion = Metrix(from_pml(theirs))
    """
    name = _name(loss, "losses")
    if name in _NO_FORM:
        raise InputError(f"loss {name} has no generalised form: {_NO_FORM[name]}.")
    if name not in _READERS:
        raise InputError(
            f"loss {name} has no generalised form known here; those that have: {', '.join(sorted(_READERS))}."
        )
    for which in ("embedding_regularizer", "weight_regularizer"):
        if getattr(loss, which, None) is not None:
            raise InputError(f"loss {name}: its {which} is no sum over pairs and has no generalised form; remove it.")
    if miner is not None and name not in _MINED:
        raise InputError(
            f"miner {type(miner).__name__} with {name} has no generalised form: there it weighs rows or picks "
            f"triplets; miners of pairs go with {', '.join(sorted(_MINED))}."
        )
    ours = _READERS[name](loss, miner) if name in _MINED else _READERS[name](loss)
    compare(ours, loss, miner)
    return ours


def from_pml_by_name(
    loss: str = "MultiSimilarityLoss",
    arguments: dict[str, Any] | None = None,
    distance: str | None = None,
    distance_arguments: dict[str, Any] | None = None,
    reducer: str | None = None,
    reducer_arguments: dict[str, Any] | None = None,
    miner: str | None = None,
    miner_arguments: dict[str, Any] | None = None,
    num_classes: int | None = None,
    dim: int | None = None,
) -> PairLoss:
    """Return :func:`from_pml` of objects given by the names of their classes; what configs call ``from_pml``.

    Args:
        loss: Class in `pytorch_metric_learning.losses`.
        arguments: Its keyword arguments. `num_classes` and `embedding_size` are filled in where it takes them.
        distance: Class in `pytorch_metric_learning.distances`; None takes the loss's own.
        distance_arguments: Its keyword arguments.
        reducer: Class in `pytorch_metric_learning.reducers`; None takes the loss's own.
        reducer_arguments: Its keyword arguments.
        miner: Class in `pytorch_metric_learning.miners`, or None.
        miner_arguments: Its keyword arguments.
        num_classes: Training classes; given by the programme.
        dim: Dimensions of the embeddings; given by the programme.

    Raises:
        InputError: No such class, an argument it does not take, or no generalised form.
    """
    from pytorch_metric_learning import distances, losses, miners, reducers

    parts: dict[str, nn.Module] = {}
    for kind, module, name, values in (
        ("distance", distances, distance, distance_arguments),
        ("reducer", reducers, reducer, reducer_arguments),
        ("miner", miners, miner, miner_arguments),
    ):
        if name is not None:
            parts[kind] = build_pml(module, name, values or {}, {}, kind)
        elif values:
            raise InputError(f"{kind}_arguments={values} are given without a {kind}; name one in {kind}.")
    mining = parts.pop("miner", None)
    given = {key: value for key, value in (("num_classes", num_classes), ("embedding_size", dim)) if value is not None}
    return from_pml(build_pml(losses, loss, {**(arguments or {}), **parts}, given, "loss"), mining)


def _name(part: Any, kind: str) -> str:
    """Return the name of a class of pytorch-metric-learning itself; a subclass may compute anything."""
    cls = type(part)
    if not cls.__module__.startswith(f"pytorch_metric_learning.{kind}"):
        raise InputError(
            f"{cls.__module__}.{cls.__qualname__} has no generalised form known here: expected a class of "
            f"pytorch_metric_learning.{kind} itself, not one derived from it; a loss of "
            "your own is a PairLoss with a form."
        )
    return cls.__name__


def _closeness(loss: Any) -> _Closeness:
    distance = loss.distance
    name = _name(distance, "distances")
    if name not in ("CosineSimilarity", "DotProductSimilarity", "LpDistance"):
        raise InputError(
            f"distance {name} has no generalised form: it is no function of the cosine; take CosineSimilarity or "
            "LpDistance."
        )
    if not distance.normalize_embeddings or distance.p != 2:
        raise InputError(
            f"distance {name}(normalize_embeddings={distance.normalize_embeddings}, p={distance.p}) has no generalised "
            "form: only on rows of Euclidean length 1 is it a function of the cosine; take normalize_embeddings=True "
            "and p=2."
        )
    if not distance.is_inverted:
        if not distance.power > 0:
            raise InputError(f"distance {name}(power={distance.power}): expected a power > 0.")
        scale = 2.0 ** (distance.power - 1)
        return _Closeness(scale, -scale, -1, float(distance.power))
    if distance.power != 1:
        raise InputError(f"distance {name}(power={distance.power}) has no generalised form here; take power=1.")
    return _Closeness(1.0, 0.0, 1, 2.0)


def _averaging(reducer: Any, what: str, own: bool = False) -> Averaging:
    """Return how a reducer averages "anchors" or "pairs"."""
    name = _name(reducer, "reducers")
    if name == "MultipleReducers":
        parts = {_averaging(part, what, own) for part in reducer.reducers.values()} or {
            _averaging(reducer.default_reducer, what, own)
        }
        if len(parts) == 1:
            return parts.pop()
        raise InputError("reducer MultipleReducers with unlike parts has no generalised form here; take one for both.")
    if name == "MeanReducer":
        return "pairs" if what == "pairs" else "anchors"
    if name == "SumReducer":
        return "sum"
    if name == "DivisorReducer" and own:
        return "own"
    if name == "PerAnchorReducer" and reducer.aggregation_func.__module__.startswith("pytorch_metric_learning."):
        inner = _averaging(reducer.reducer, "anchors")
        if what == "anchors":
            return inner
        if inner == "anchors":
            return "pairs of each anchor"
    reason = "it weighs terms in a way that no sum over an anchor's pairs can"
    if name in ("AvgNonZeroReducer", "ThresholdReducer"):
        reason = (
            "it divides by the number of terms beyond a threshold, which depends on the values of all pairs together"
        )
    raise InputError(
        f"reducer {name} has no generalised form: {reason}. Give the loss reducer=MeanReducer() (configs: reducer: "
        "MeanReducer), or SumReducer, or PerAnchorReducer."
    )


def _contrastive(loss: Any, miner: nn.Module | None) -> PairLoss:
    near, averaging = _closeness(loss), _averaging(loss.reducer, "pairs")
    form = near.form(HingeForm(near.at(loss.pos_margin), near.at(loss.neg_margin), near.scale))
    cls = PairsFromPML if averaging == "sum" else MeanPairsFromPML
    return cls(form, averaging, miner, near.slack(loss.neg_margin))


def _multi_similarity(loss: Any, miner: nn.Module | None) -> PairLoss:
    near = _closeness(loss)
    form = _sides(near, loss.alpha, loss.beta, loss.base, loss.base, 1 / loss.alpha, 1 / loss.beta, plus_one=True)
    return PairsFromPML(near.form(form), _averaging(loss.reducer, "anchors"), miner, near.slack(loss.base))


def _lifted(loss: Any, miner: nn.Module | None) -> PairLoss:
    near = _closeness(loss)
    form = _sides(near, 1.0, 1.0, loss.pos_margin, loss.neg_margin, 1.0, 1.0, plus_one=False, clamp=True)
    return PairsFromPML(near.form(form), _averaging(loss.reducer, "anchors"), miner, near.slack(loss.neg_margin))


def _nca(loss: Any) -> PairLoss:
    near = _closeness(loss)
    return NCAFromPML(near.form(SoftplusForm(loss.softmax_scale * near.scale)), _averaging(loss.reducer, "anchors"))


def _triplet(loss: Any) -> PairLoss:
    if _closeness(loss).sign < 0:
        raise InputError(
            "distance LpDistance with TripletMarginLoss has no generalised form here: mixtures of triplets are defined "
            "on cosines; give it distance=CosineSimilarity()."
        )
    if loss.swap or loss.smooth_loss or loss.triplets_per_anchor != "all":
        raise InputError(
            "loss TripletMarginLoss has a generalised form only with swap=False, smooth_loss=False and "
            "triplets_per_anchor='all'."
        )
    if _averaging(loss.reducer, "anchors") != "anchors" or _name(loss.reducer, "reducers") != "MeanReducer":
        raise InputError(
            f"reducer {type(loss.reducer).__name__} with TripletMarginLoss has no generalised form here: its mixtures "
            "are averaged; give it reducer=MeanReducer()."
        )
    return TripletFromPML(loss.margin)


def _proxy_anchor(loss: Any) -> PairLoss:
    near = _closeness(loss)
    form = _sides(near, loss.alpha, loss.alpha, loss.margin, -loss.margin, 1.0, 1.0, plus_one=True)
    averaging = _averaging(loss.reducer, "anchors", own=True)
    gap = near.sign * float(loss.margin)
    return ProxyAnchorFromPML(near.form(form), loss.proxies, averaging, (gap, gap))


def _proxy_nca(loss: Any) -> PairLoss:
    near = _closeness(loss)
    form = near.form(SoftplusForm(loss.softmax_scale * near.scale))
    return ProxyNCAFromPML(form, loss.proxies, _averaging(loss.reducer, "anchors"))


def _sides(
    near: _Closeness, beta: float, gamma: float, pos: float, neg: float, up: float, down: float, *, plus_one: bool,
    clamp: bool = False,
) -> LogForm:  # fmt: skip
    """Return up log([1 +] SUM e^{beta (pos - x)}) + down log([1 +] SUM e^{gamma (x - neg)}), x the closeness, in t."""
    beta, gamma = beta * near.scale, gamma * near.scale
    side = LogSide(-beta, beta * near.at(pos), up, plus_one)
    return LogForm(side, LogSide(gamma, -gamma * near.at(neg), down, plus_one), clamp)


_MINED = frozenset({"ContrastiveLoss", "MultiSimilarityLoss", "GeneralizedLiftedStructureLoss"})
_READERS: dict[str, Callable[..., PairLoss]] = {
    "ContrastiveLoss": _contrastive,
    "MultiSimilarityLoss": _multi_similarity,
    "GeneralizedLiftedStructureLoss": _lifted,
    "NCALoss": _nca,
    "TripletMarginLoss": _triplet,
    "ProxyAnchorLoss": _proxy_anchor,
    "ProxyNCALoss": _proxy_nca,
}
