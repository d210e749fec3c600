"""Every public loss on a small batch, by name: what a test over all of them calls.

A case holds the tensors that a caller passes in, raw rows in each, and calls the loss on any tensors of these names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from pytorch_metric_learning import distances, reducers
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning import miners as pml_miners
from torch import Tensor, nn

from metrixkit import losses as mk
from metrixkit.losses import DynamicMixedMargin, Metrix, from_pml
from metrixkit.mixing import PAIR_KINDS

DIM, CLASSES = 6, 4
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3])  # the last class has a single row
PARTNER = torch.tensor([3, 2, 1, 0, 7, 4, 5, 6])


@dataclass
class Case:
    """One way of calling a loss.

    Attributes:
        name: For the test's id.
        call: Returns the loss of tensors by name.
        tensors: What it is called with.
        module: Whose parameters of the same names take the tensors' values.
    """

    name: str
    call: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    module: nn.Module | None = field(default=None, repr=False)

    def value(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss of these tensors."""
        given = dict(tensors)
        for name in dict(self.module.named_parameters()) if self.module is not None else ():
            if name in given:
                with torch.no_grad():
                    self.module.get_parameter(name).copy_(given.pop(name))
        return self.call(**given)


def rows(count: int, seed: int, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def labelled(name: str, loss: nn.Module, *parameters: str) -> Case:
    """A loss of (embeddings, labels)."""
    learned = {p: rows(len(loss.get_parameter(p)), 100, loss.get_parameter(p).shape[1]) for p in parameters}
    return Case(name, lambda x: loss(x, LABELS), {"x": rows(8, 0), **learned}, loss)


def mixed_only(name: str, host: nn.Module, kind: str, lam: float | None, **options: object) -> Case:
    """Metrix' mixed term alone."""
    criterion = Metrix(host, pairs=kind, **options)
    learned = {"loss.proxies": rows(CLASSES, 100)} if hasattr(host, "proxies") else {}
    return Case(
        name, lambda x: criterion.mixed_loss(x, LABELS, lam=lam, pairs=kind), {"x": rows(8, 0), **learned}, criterion
    )


def sides(name: str, loss: Callable[..., Tensor], **tensors: Tensor) -> Case:
    """A loss of matched rows."""
    return Case(name, loss, tensors or {"a": rows(6, 1), "b": rows(6, 2)})


def head(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


@cache
def pair_losses() -> dict[str, nn.Module]:
    """Losses in the generalised form between the rows of a batch."""
    theirs = {
        "ContrastiveLoss": pml.ContrastiveLoss(reducer=reducers.MeanReducer()),
        "MultiSimilarityLoss": pml.MultiSimilarityLoss(),
        "GeneralizedLiftedStructureLoss": pml.GeneralizedLiftedStructureLoss(),
        "NCALoss": pml.NCALoss(),
        "TripletMarginLoss": pml.TripletMarginLoss(
            distance=distances.CosineSimilarity(), reducer=reducers.MeanReducer()
        ),
    }
    return {
        "Contrastive": mk.Contrastive(),
        "MultiSimilarity": mk.MultiSimilarity(),
        "MultiSimilarity(sharp)": mk.MultiSimilarity(gamma=500.0),  # each anchor needs a shift of its own
        "BinomialDeviance": mk.BinomialDeviance(),
        "LiftedStructure": mk.LiftedStructure(),
        "NCA": mk.NCA(),
        "NCA(sharp)": mk.NCA(temperature=0.01),
        "Triplet": mk.Triplet(),
        **{f"from_pml({name})": from_pml(loss) for name, loss in theirs.items()},
    }


@cache
def proxy_losses() -> dict[str, nn.Module]:
    """Losses with proxies."""
    return {
        "ProxyAnchor": mk.ProxyAnchor(CLASSES, DIM),
        "ProxyNCA": mk.ProxyNCA(CLASSES, DIM),
        "from_pml(ProxyAnchorLoss)": from_pml(pml.ProxyAnchorLoss(CLASSES, DIM)),
        "from_pml(ProxyNCALoss)": from_pml(pml.ProxyNCALoss(CLASSES, DIM)),
    }


def on_labels() -> list[Case]:
    """Clean losses, and the rivals and dynamic margins on them."""
    cases = [labelled(name, loss) for name, loss in pair_losses().items()]
    cases += [labelled(name, loss, "proxies") for name, loss in proxy_losses().items()]
    cases += [labelled(f"Triplet({over})", mk.Triplet(over=over)) for over in ("min", "sum")]
    cases.append(labelled("OfficialContrastive", mk.OfficialContrastive()))
    cases.append(labelled("PML", mk.PML("MultiSimilarityLoss")))
    cases.append(labelled("PML(miner)", mk.PML("MultiSimilarityLoss", miner="MultiSimilarityMiner")))
    cases.append(labelled("PML(ContrastiveLoss)", mk.PML("ContrastiveLoss")))
    cases.append(labelled("PML(TripletMarginLoss)", mk.PML("TripletMarginLoss")))
    cases.append(
        labelled("PML(ProxyAnchorLoss)", mk.PML("ProxyAnchorLoss", num_classes=CLASSES, dim=DIM), "loss.proxies")
    )
    mined = from_pml(pml.MultiSimilarityLoss(), pml_miners.MultiSimilarityMiner())
    cases.append(labelled("from_pml(miner)", mined))
    for name in ("Contrastive", "LiftedStructure", "NCA"):
        cases.append(labelled(f"MoCHi({name})", mk.MoCHi(pair_losses()[name], pool=2)))
        criterion = mk.IMix(pair_losses()[name])
        call = lambda x, features, criterion=criterion: criterion(x, LABELS, features, head)
        cases.append(Case(f"IMix({name})", call, {"x": rows(8, 0), "features": maps()}))
    for name, host in {**pair_losses(), **proxy_losses(), "PML": mk.PML("ContrastiveLoss")}.items():
        if getattr(host, "slack", None) is not None and min(host.slack) < 0:
            continue
        dmm = DynamicMixedMargin(host, ramp=None)
        learned = ("loss.proxies",) if hasattr(host, "proxies") and host.proxies is not None else ()
        whole = labelled(f"DynamicMixedMargin({name})", dmm, *learned)
        # Without a margin of its own the mixed term is a triplet loss between rows, in which no proxy takes part.
        takes_part = whole.tensors if getattr(host, "slack", None) is not None else {"x": whole.tensors["x"]}
        call = lambda x, dmm=dmm: dmm.mixed_loss(x, LABELS)
        cases += [whole, Case(f"DynamicMixedMargin({name}).mixed_loss", call, takes_part, dmm)]
    return cases


def maps() -> Tensor:
    return torch.randn(8, DIM, 2, 2, generator=torch.Generator().manual_seed(5))


def allowed_kinds(host: nn.Module) -> list[str]:
    return [kind for kind in PAIR_KINDS if kind not in host.refused]


def metrix() -> list[Case]:
    """Metrix at each level and kind of pair, whole and its mixed term alone."""
    cases = []
    for name, host in {**pair_losses(), **proxy_losses()}.items():
        learned = {"loss.proxies": rows(CLASSES, 100)} if hasattr(host, "proxies") else {}
        for kind in allowed_kinds(host):
            cases.append(mixed_only(f"Metrix({name}, {kind}).mixed_loss", host, kind, None, ratio_per="pair"))
        kind = allowed_kinds(host)[0]
        per = "pair" if kind in host.refused_with_one_ratio else "step"
        options = {"pairs": kind, "ratio_per": per}
        plain = Metrix(host, **options)
        cases.append(Case(f"Metrix({name})", lambda x, c=plain: c(x, LABELS), {"x": rows(8, 0), **learned}, plain))
        raw = Metrix(host, **options, renormalize=False)
        cases.append(
            Case(
                f"Metrix({name}, raw).mixed_loss",
                lambda x, c=raw: c.mixed_loss(x, LABELS),
                {"x": rows(8, 0), **learned},
                raw,
            )
        )
        few = Metrix(host, **options, hardest=1, positives=1)
        cases.append(
            Case(
                f"Metrix({name}, hardest).mixed_loss",
                lambda x, c=few: c.mixed_loss(x, LABELS),
                {"x": rows(8, 0), **learned},
                few,
            )
        )
        for level in ("feature", "input"):
            if level in host.refused_levels:
                continue
            criterion = Metrix(host, level=level, **options)
            call = lambda x, features, c=criterion: c(x, LABELS, features=features, head=head)
            cases.append(
                Case(f"Metrix({name}, {level})", call, {"x": rows(8, 0), "features": maps(), **learned}, criterion)
            )
            call = lambda x, c=criterion: c.mixed_loss(x, LABELS, features=maps(), head=head)
            cases.append(Case(f"Metrix({name}, {level}).mixed_loss", call, {"x": rows(8, 0), **learned}, criterion))
    official = mk.OfficialContrastive()
    for kind in ("positive-negative", "anchor-negative"):
        call = lambda x, kind=kind: official.mixed_loss(x, LABELS, 0.3, kind)
        cases.append(Case(f"OfficialContrastive.mixed_loss({kind})", call, {"x": rows(8, 0)}))
    return cases
