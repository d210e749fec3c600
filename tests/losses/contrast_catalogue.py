"""The second half of the catalogue: losses of matched rows, of mixtures and queues, of recommenders, of masks."""

from __future__ import annotations

import torch
from loss_catalogue import DIM, Case, rows, sides
from torch import Tensor, nn

from metrixkit import losses as mk
from metrixkit.losses import DynamicMixedMargin


def contrasts() -> list[Case]:
    """Losses of matched sides, of mixtures and queues, of recommenders and of masks."""
    n, draw = 6, torch.Generator
    own, partner = torch.arange(n), torch.tensor([3, 2, 5, 0, 1, 4])
    views = {"query": rows(n, 1), "key": rows(n, 2), "queue": rows(9, 3)}
    mixes = {"mixed": rows(n, 4), "key": rows(n, 2), "queue": rows(9, 3)}
    triple = {"user": rows(n, 1), "positive": rows(n, 2), "negatives": torch.stack([rows(3, 10 + i) for i in range(n)])}
    cases = [
        sides("info_nce", mk.info_nce, query=rows(n, 1), key=rows(n, 2)),
        sides("info_nce(queue)", lambda query, key, queue: mk.info_nce(query, key, 0.2, queue), **views),
        sides("InfoNCE", mk.InfoNCE()),
        sides("nt_xent", mk.nt_xent),
        sides("NTXent", mk.NTXent()),
        sides("symmetric_cross_entropy", lambda a, b: mk.symmetric_cross_entropy(a, b, 10.0)),
        sides("SymmetricCrossEntropy", mk.SymmetricCrossEntropy()),
        sides("max_margin", mk.max_margin),
        sides("MaxMargin", mk.MaxMargin()),
        sides(
            "byol_loss",
            lambda p1, z2, p2, z1: mk.byol_loss(p1, z2, p2, z1),
            p1=rows(n, 1),
            z2=rows(n, 2),
            p2=rows(n, 3),
            z1=rows(n, 4),
        ),
        sides("M2Mix", mk.M2Mix(m2=0.1, uni=0.1, both=0.1)),
        *[sides(f.__name__, lambda a, b, f=f: f(a, b, 0.3)) for f in (mk.m2_mix, mk.v_mix, mk.l_mix, mk.vl_mix)],
        sides(
            "mixco_moco_loss",
            lambda query, mixed, key, queue: mk.mixco_moco_loss(query, mixed, key, queue, 0.3),
            mixed=rows(n // 2, 4),
            **views,
        ),
        sides(
            "mixco_simclr_loss",
            lambda i, j, mi, mj: mk.mixco_simclr_loss(i, j, mi, mj, 0.3, 0.6),
            i=rows(n, 1),
            j=rows(n, 2),
            mi=rows(n // 2, 3),
            mj=rows(n // 2, 4),
        ),
        sides(
            "imix_npair_loss",
            lambda mixed, key: mk.imix_npair_loss(mixed, key, partner, 0.7),
            mixed=rows(n, 4),
            key=rows(n, 2),
        ),
        sides("imix_moco_loss", lambda mixed, key, queue: mk.imix_moco_loss(mixed, key, queue, partner, 0.7), **mixes),
        sides("imix_byol_loss", lambda p, z: mk.imix_byol_loss(p, z, partner, 0.7), p=rows(n, 1), z=rows(n, 2)),
        sides(
            "unmix_loss",
            lambda query, mixed, key, queue: mk.unmix_loss(query, mixed, key, queue, 0.3),
            mixed=rows(n, 4),
            **views,
        ),
        sides(
            "unmix_symmetric_loss",
            lambda q1, q2, mixed, k1, k2, queue: mk.unmix_symmetric_loss((q1, q2), mixed, (k1, k2), queue, 0.3),
            q1=rows(n, 1),
            q2=rows(n, 2),
            mixed=rows(n, 4),
            k1=rows(n, 6),
            k2=rows(n, 7),
            queue=rows(9, 3),
        ),
        sides(
            "clim_loss",
            lambda mixed, key, other, queue: mk.clim_loss(mixed, key, other, queue, 0.3),
            other=rows(n, 6),
            **mixes,
        ),
        sides(
            "instance_mixup_loss",
            lambda mixed, first, second, queue: mk.instance_mixup_loss(mixed, first, second, partner, queue, 0.3),
            mixed=rows(n, 4),
            first=rows(n, 2),
            second=rows(n, 6),
            queue=rows(9, 3),
        ),
        sides(
            "mochi_loss",
            lambda query, key, queue: mk.mochi_loss(query, key, queue, 4, 5, 3, generator=draw().manual_seed(0)),
            **views,
        ),
        *[
            sides(
                f"mixed_info_nce({how}, {'queue' if with_queue else 'keys'})",
                lambda mixed, key, queue=None, how=how: mk.mixed_info_nce(
                    mixed, key, own, partner, 0.3, 0.2, queue, how
                ),
                **{k: v for k, v in mixes.items() if with_queue or k != "queue"},
            )
            for how in ("joint", "split")
            for with_queue in (True, False)
        ],
        *[
            sides(
                f"eta_instance_loss({mode})",
                lambda mixed, a, b, queue, mode=mode: mk.eta_instance_loss(mixed, a, b, queue, 0.3, mode=mode),
                mixed=rows(n, 4),
                a=rows(n, 2),
                b=rows(n, 6),
                queue=rows(9, 3),
            )
            for mode in ("joint", "split", "official", "official_local")
        ],
        *[
            sides(
                f"eta_instance_loss({mode}, extended)",
                lambda mixed, a, b, queue, u, v, mode=mode: mk.eta_instance_loss(
                    mixed, a, b, queue, 0.3, mode=mode, extended=(u, v)
                ),
                mixed=rows(n, 4),
                a=rows(n, 2),
                b=rows(n, 6),
                queue=rows(9, 3),
                u=rows(n, 7),
                v=rows(n, 8),
            )
            for mode in ("official", "official_local")
        ],
        *[
            sides(
                f"eta_loss({mode}, lambda={lam})",
                lambda logits, mode=mode, lam=lam: mk.eta_loss(
                    logits, torch.arange(6) % 4, torch.arange(6).flip(0) % 4, lam, mode=mode
                ),
                logits=rows(n, 1, 4),
            )
            for mode in ("softmax_split", "sigmoid_neg", "official", "decoupled")
            for lam in (0.3, 0.0, 1.0)
        ],
        *[
            sides(
                f"mixed_cross_entropy({smoothing}, lambda={lam})",
                lambda logits, s=smoothing, lam=lam: mk.mixed_cross_entropy(
                    logits, torch.arange(6) % 4, torch.arange(6).flip(0) % 4, lam, s
                ),
                logits=rows(n, 1, 4),
            )
            for smoothing in (0.0, 0.1)
            for lam in (0.3, 1.0)
        ],
        sides(
            "two_hot_cross_entropy",
            lambda logits: mk.two_hot_cross_entropy(logits, own % 4, partner % 4, 0.3).mean(),
            logits=rows(n, 1, 4),
        ),
        *[
            sides(
                f"mask_loss({kind}, {per})",
                lambda mask, kind=kind, per=per: mk.mask_loss(mask, 0.3, kind, per=per),
                mask=torch.rand(4, 1, 3, 3, generator=draw().manual_seed(0)),
            )
            for kind in ("l1+variance", "l1", "l2+variance", "sparsity")
            for per in ("batch", "sample")
        ],
        sides("swav_loss", mk.swav_loss, z1=rows(n, 1), z2=rows(n, 2), prototypes=rows(5, 3)),
        sides(
            "swav_loss(small, queues)",
            lambda z1, z2, prototypes, small, p1, p2: mk.swav_loss(z1, z2, prototypes, small=[small], queues=(p1, p2)),
            z1=rows(n, 1),
            z2=rows(n, 2),
            prototypes=rows(5, 3),
            small=rows(n, 6),
            p1=rows(4, 7),
            p2=rows(4, 8),
        ),
        *[sides(f.__name__, f, **triple) for f in (mk.cml_min_triplet, mk.cml_sum_triplet, mk.bpr)],
        sides(
            "cml_min_triplet(official)",
            lambda user, positive, negatives: mk.cml_min_triplet(user, positive, negatives, official=True),
            **triple,
        ),
        sides(
            "AbsoluteError",
            lambda predicted, values: mk.AbsoluteError()(predicted, values),
            predicted=rows(n, 1)[:, 0],
            values=rows(n, 2)[:, 0],
        ),
    ]
    for name, host, given in (
        ("MaxMargin", mk.MaxMargin(), {"a": rows(n, 1), "b": rows(n, 2)}),
        ("InfoNCE", mk.InfoNCE(), {"a": rows(n, 1), "b": rows(n, 2)}),
        ("SymmetricCrossEntropy", mk.SymmetricCrossEntropy(), {"a": rows(n, 1), "b": rows(n, 2)}),
        ("CMLMinTriplet", mk.CMLMinTriplet(), triple),
        ("CMLSumTriplet", mk.CMLSumTriplet(), triple),
        ("BPR", mk.BPR(), triple),
    ):
        triples = given is triple
        options = [("side a", {"side": "a"}), ("both sides", {"side": "both"})]
        if name.startswith("CML"):
            options.append(("official", {"official": True}))
        for how, settings in options:
            dmm = DynamicMixedMargin(host, ramp=None, **settings)
            names = ("a", "b", "negatives") if triples else ("a", "b")
            renamed = dict(zip(names, given.values(), strict=True))
            cases.append(Case(f"DynamicMixedMargin({name}, {how})", lambda dmm=dmm, **t: dmm(**t), renamed))
    fixed = rows(n, 2)
    for part, given in (("head", {"mixed": rows(n, 1), "clean": fixed}), ("mixer", {"mixed": rows(n, 1)})):
        layer = nn.Linear(DIM, 3, bias=False)

        def call(mixed: Tensor, clean: Tensor = fixed, part: str = part, layer: nn.Module = layer) -> Tensor:
            return getattr(mk.cluster_losses(mixed, clean, layer, own % 3, partner % 3, own % 3, 0.3), part)

        cases.append(Case(f"cluster_losses.{part}", call, {**given, "weight": rows(3, 9)}, layer))
    return cases
