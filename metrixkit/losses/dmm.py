"""Dynamic Mixed Margin: a loss on clean rows plus the same loss on mixed ones, of which less margin is demanded.

N rows or pairs, d dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.losses.checks import check_known
from metrixkit.losses.dmm_hosts import Share, host_of
from metrixkit.losses.dmm_step import Schedule, Step, demanded_share, encoded_mixtures
from metrixkit.losses.matched import check_sides, margin_of
from metrixkit.losses.official_dmm import OfficialCML
from metrixkit.losses.ramp import Ramp
from metrixkit.losses.unit import check_batch, full_precision, no_autocast, unit_rows
from metrixkit.mixing import PARTNERS, Partner, check_share, draw_between, draw_partners, mix_inputs

Side = Literal["a", "b", "both"]
Level = Literal["embed", "feature", "input"]


class DynamicMixedMargin(nn.Module):
    """L(clean) + w(epoch) L(mixed), the margin of the second being m(lambda) times the loss's own (IEEE Access 2023).

    Row i of one side is mixed with its partner, ``lambda a_i + (1 - lambda) a_partner(i)``, lambda ~ U(low, high), and
    keeps its own match b_i in full: labels are not mixed. The partner's match, whose item makes up 1 - lambda of the
    mixture, is among its negatives. As such a point cannot stand as far from it as a clean one, only a part of the
    margin is demanded. The loss's own margin is never changed: the same lambda always gives the same margin.

    What "the margin" is, by loss; the demanded gap falls with lambda in each:

    - max-margin, triplet, CML, proxy anchor, ArcFace and CosFace demand a gap m: it becomes m(lambda) m.
    - Contrastive, multi-similarity, binomial deviance and lifted structure bound the cosines of negatives by m: the
      bound becomes 1 - m(lambda) (1 - m), which for m(lambda) = 0 demands nothing. Positives are asked as before.
    - Without a margin (InfoNCE, NT-Xent, cross-entropy, BPR): the mixed term is the hinge of
      :func:`~metrixkit.losses.max_margin` on cosines with margin m(lambda) alpha. For losses on labels without one
      (NCA, ProxyNCA, SupCon) it is the triplet loss with that margin.

    Call it as the loss inside is called: ``(a, b)``, ``(user, positive, negatives)`` or ``(embeddings, labels)``. Then
    embeddings are mixed, of losses on cosines those of length 1. The paper mixes inputs, which the caller encodes::

        lam, partner = dmm.draw(len(x))
        loss = dmm(f(x), g(y), mixed_a=f(mix_inputs(x, lam, partner)), lam=lam)

    With labels, `level` "feature" or "input" does it given ``features=`` and ``head=``, as the method "metric" does; in
    several processes each then mixes its own rows and the mean over processes is minimised.

    Args:
        loss: The host: a loss of this package on labels, pairs or triples, or one like it. Its parameters stay its own.
        schedule: m(lambda): "lambda" is the published one; "2lambda-1" is the gap that a mixture of ideal embeddings
            has, 0 at 1/2; "constant" keeps the margin.
        low: Least lambda, in [0, 1]; at least 1/2 with "2lambda-1".
        high: Greatest lambda.
        ratio_per: One lambda a "step", or one for each "row".
        partner: "flip": row N-1-i (the middle one of an odd number is its own, at the smaller margin nonetheless); or a
            random "permutation".
        side: Which side is mixed: "a", "b", or "both" in turn, averaged; always against the clean other side.
        level: What is mixed where the loss takes labels.
        weight: Greatest weight of the mixed loss, >= 0.
        ramp: How the weight grows, by :meth:`set_epoch`; None has it whole from the start. By default the first epoch
            has none, as in the release.
        alpha: Margin of the added hinge, in [0, 2], where the loss has none.
        official: As the release computes it for recommenders; see
            :class:`~metrixkit.losses.official_dmm.OfficialCML`. lambda is then drawn by its law.
        seed: Of the generator, whose state is in `state_dict`, as the epoch is. Equal seeds draw alike everywhere.

    Raises:
        InputError: A setting is out of range, or the loss's margin cannot be made smaller (the reason is said).

    Example:
        >>> import torch
        >>> from metrixkit.losses import DynamicMixedMargin, MaxMargin
        >>> dmm = DynamicMixedMargin(MaxMargin(0.2), ramp=None)
        >>> a, b = torch.eye(4), torch.eye(4)
        >>> round(dmm(a, b, lam=0.5).item(), 4)  # half of each pair's margin is missing towards its partner
        0.05
    """

    def __init__(
        self,
        loss: nn.Module,
        schedule: Schedule = "lambda",
        low: float = 0.5,
        high: float = 1.0,
        ratio_per: Literal["step", "row"] = "step",
        partner: Partner = "flip",
        side: Side = "a",
        level: Level = "embed",
        weight: float = 1.0,
        ramp: Ramp | None = Ramp(),  # noqa: B008 - immutable
        alpha: float = 0.2,
        official: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, options in (
            ("schedule", schedule, get_args(Schedule)),
            ("ratio_per", ratio_per, ("step", "row")),
            ("partner", partner, PARTNERS),
            ("side", side, get_args(Side)),
            ("level", level, get_args(Level)),
        ):
            check_known(name, value, options)
        if not weight >= 0:
            raise InputError(f"weight is {weight}, expected a number >= 0.")
        draw_between(low, high, torch.Generator())  # refuses bounds out of range
        self.loss, self.schedule, self.low, self.high = loss, schedule, float(low), float(high)
        self.ratio_per, self.partner, self.side, self.level = ratio_per, partner, side, level
        self.weight, self.ramp, self.alpha = float(weight), ramp, margin_of("alpha", alpha, 2)
        self.share(self.low)
        self.host = host_of(loss, self.alpha)
        self.official = OfficialCML(loss) if official else None
        self._check_together()
        self.epoch = 0
        self.generator = torch.Generator().manual_seed(seed)
        self.last: Step | None = None

    def _check_together(self) -> None:
        if self.host.takes == "labels" and self.side != "a":
            raise InputError(f"side={self.side!r}: a batch with labels has one side only; leave it at 'a'.")
        if self.host.takes != "labels" and self.level != "embed":
            raise InputError(
                f"level={self.level!r}: only the caller knows the inputs of a side. Leave level at 'embed', mix them "
                "with mix_inputs and pass their embeddings as mixed_a=..., mixed_b=..."
            )
        if self.official is None:
            return
        given = (self.schedule, self.low, self.high, self.ratio_per, self.partner, self.side)
        if given != ("lambda", 0.5, 1.0, "step", "flip", "a"):
            raise InputError(
                "official=True takes what the release does; leave schedule, low, high, ratio_per, partner and side out."
            )

    def set_epoch(self, epoch: int) -> None:
        """Settle the mixed loss's weight for `epoch`, counted from 0."""
        self.epoch = int(epoch)

    @property
    def current_weight(self) -> float:
        """Weight of the mixed loss in this epoch; where it is 0 nothing needs to be mixed or encoded."""
        return self.weight * (1.0 if self.ramp is None else self.ramp(self.epoch))

    def share(self, lam: float | Tensor) -> Share:
        """Return m(lambda), the part of the margin that is demanded of a mixture: in [0, 1], shaped as `lam`.

        Raises:
            InputError: With "2lambda-1" lambda is below 1/2.
        """
        return demanded_share(lam, self.schedule)

    def draw(self, count: int) -> tuple[float | Tensor, Tensor]:
        """Draw what a step mixes with: lambda, a number or (count,), and the (count,) indices of partners (CPU)."""
        shape = (count,) if self.ratio_per == "row" else ()
        low, high = (self.low, self.high) if self.official is None else (0.0, self.official.high)
        lam = draw_between(low, high, self.generator, shape)
        return lam if shape else float(lam), draw_partners(count, self.partner, self.generator)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        negatives: Tensor | None = None,
        *,
        lam: float | Tensor | None = None,
        partner: Tensor | None = None,
        mixed_a: Tensor | None = None,
        mixed_b: Tensor | None = None,
        features: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return clean + current_weight * mixed, a scalar.

        Args:
            a: (N, d) raw embeddings of one side; of users; or of the batch.
            b: (N, d) of the other side, or of liked items; or (N,) integer labels.
            negatives: (N, K, d) other items, where the loss takes triples.
            lam: lambda in [0, 1], one or (N,); None draws.
            partner: (N,) indices; None takes the setting's.
            mixed_a: (N, d) embeddings of what was mixed before encoding, at `lam`; None mixes embeddings.
            mixed_b: The same of the other side.
            features: (N, ...) what is mixed at level "feature" or "input".
            head: Encodes it.

        Raises:
            InputError: Shapes or types do not fit, or mixed rows come without their lambda.
        """
        parts = self._parts(a, b, negatives)
        clean = self.host.clean(*parts) if self.official is None else self.official.clean(*parts)
        weight = self.current_weight
        if weight == 0:
            if self.official is not None:  # it mixes all the same, and its margin decays
                self.official.margin *= float(self.draw(len(a))[0])
            self.last = Step(clean.detach(), None, float("nan"), 0.0)
            return clean
        lam, partner = self._drawn(len(a if features is None else features), lam, partner, mixed_a, mixed_b)
        mixed = self._mixed(parts, lam, partner, mixed_a, mixed_b, features, head)
        ratio = lam if isinstance(lam, float) else float(lam.mean())
        self.last = Step(clean.detach(), mixed.detach(), ratio, weight)
        return clean + weight * mixed

    def mixed_loss(
        self,
        a: Tensor,
        b: Tensor,
        negatives: Tensor | None = None,
        *,
        lam: float | Tensor | None = None,
        partner: Tensor | None = None,
        mixed_a: Tensor | None = None,
        mixed_b: Tensor | None = None,
        features: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the mixed loss alone, unweighted, a scalar; arguments and errors as for a call."""
        parts = self._parts(a, b, negatives)
        lam, partner = self._drawn(len(a if features is None else features), lam, partner, mixed_a, mixed_b)
        return self._mixed(parts, lam, partner, mixed_a, mixed_b, features, head)

    def _parts(self, a: Tensor, b: Tensor, negatives: Tensor | None) -> tuple[Tensor, ...]:
        if (negatives is not None) != (self.host.takes == "triples"):
            says = {"labels": "(embeddings, labels)", "pairs": "(a, b)", "triples": "(user, positive, negatives)"}
            raise InputError(f"{type(self.loss).__name__} is called with {says[self.host.takes]}.")
        if self.host.takes == "labels":
            check_batch(a, b)
        else:
            check_sides(a, b, ("a", "b") if negatives is None else ("user", "positive"))
        return (a, b) if negatives is None else (a, b, negatives)

    def _drawn(
        self, count: int, lam: float | Tensor | None, partner: Tensor | None, *mixed: Tensor | None
    ) -> tuple[float | Tensor, Tensor]:
        if lam is None and any(rows is not None for rows in mixed):
            raise InputError("lam is missing: the mixed rows are given, so say at which lambda they were mixed.")
        if lam is None or partner is None:
            drawn_lam, drawn_partner = self.draw(count)
            lam = drawn_lam if lam is None else lam
            partner = drawn_partner if partner is None else partner
        return check_share(lam, count), partner

    def _mixed(
        self,
        parts: tuple[Tensor, ...],
        lam: float | Tensor,
        partner: Tensor,
        mixed_a: Tensor | None,
        mixed_b: Tensor | None,
        features: Tensor | None,
        head: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        if self.official is not None:
            if mixed_a is not None or mixed_b is not None or not isinstance(lam, float):
                raise InputError("official=True mixes embeddings by itself, at one lambda for the step.")
            return self.official.mixed(lam, *parts)
        if features is not None or self.level != "embed":
            parts, mixed_a = encoded_mixtures(self.level, parts, lam, partner, features, head)
        terms = []
        for side, (name, given) in enumerate((("a", mixed_a), ("b", mixed_b))):
            if self.side not in (name, "both"):
                if given is not None:
                    raise InputError(f"mixed_{name} is given, but side={self.side!r} does not mix that side.")
                continue
            rows = self._mixture(parts[side], lam, partner) if given is None else given
            if rows.shape != parts[side].shape:
                raise InputError(
                    f"mixed_{name} has shape {tuple(rows.shape)}, {name} {tuple(parts[side].shape)}; expected the same."
                )
            terms.append(self.host.again(rows, side, self.share(lam), *parts))
        return sum(terms[1:], terms[0]) / len(terms)

    def _mixture(self, rows: Tensor, lam: float | Tensor, partner: Tensor) -> Tensor:
        with no_autocast(rows):
            rows = full_precision(rows)
            return mix_inputs(unit_rows(rows) if self.host.on_cosines else rows, lam, partner)

    def logs(self) -> dict[str, float]:
        """Return the last step's clean and mixed loss, lambda and weight (waits for the device); {} before it."""
        if self.last is None:
            return {}
        told = {"clean": float(self.last.clean), "mixed_weight": self.last.weight}
        if self.last.mixed is not None:
            told |= {"mixed": float(self.last.mixed), "lambda": self.last.ratio}
        return told

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a resumed run needs: the generator's state, the epoch, the decayed margin of the release."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "epoch": self.epoch}
        return state if self.official is None else {**state, "margin": self.official.margin}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.generator.set_state(state["generator"].cpu())
        self.epoch = int(state["epoch"])
        if self.official is not None:
            self.official.margin = float(state["margin"])
