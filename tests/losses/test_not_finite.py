"""A row that is not finite makes every loss NaN, or is refused: no loss answers a number that hides it."""

import pytest
import torch
from contrast_catalogue import contrasts
from loss_catalogue import metrix, on_labels, pair_losses, proxy_losses

from metrixkit import losses
from metrixkit.errors import InputError
from metrixkit.losses.unit import unit_and_inverse
from metrixkit.losses.zero_or_nan import zero_or_nan

CASES = [*on_labels(), *metrix(), *contrasts()]
IDS = [case.name for case in CASES]
BAD = (float("nan"), float("inf"), float("-inf"))
NO_LOSSES = {
    "LOSSES", "ClusterLosses", "HarderDraw", "PairLoss", "ProxyLoss", "Ramp", "Terms", "cluster_weights",
    "draw_harder", "extend_positives", "from_pml", "same_label", "sinkhorn",
    "mochi_loss_drawn",  # what mochi_loss calls
}  # fmt: skip


def hidden_in(case, values):
    """Return where a value that is not finite is hidden by a finite loss: [(tensor, row, value), ...]."""
    found = []
    for name, tensor in case.tensors.items():
        for row in range(len(tensor)):
            for value in values(row):
                if case.name == "two_hot_cross_entropy" and value == float("-inf"):
                    continue  # which is how a candidate is ruled out there
                changed = tensor.clone()
                changed[row].view(-1)[1 % changed[row].numel()] = value
                try:
                    loss = case.value({**case.tensors, name: changed})
                except InputError:
                    continue
                if bool(torch.isfinite(loss)):
                    found.append((name, row, value))
    return found


def test_the_catalogue_holds_every_public_loss():
    assert len(set(IDS)) == len(IDS)
    names = " ".join(IDS)
    assert {name for name in losses.__all__ if name not in names} - NO_LOSSES == set()


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_row_that_is_not_finite_shows_in_the_loss(case):
    assert bool(torch.isfinite(case.value(case.tensors))), "the batch itself has a loss"
    # Every second row, and row 7, which is alone in its class; all rows and values in the slow suite.
    values = {0: BAD[:1], 2: BAD[1:2], 4: BAD[2:], 7: BAD[:1]}
    assert hidden_in(case, lambda row: values.get(row, ())) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_any_such_value_in_any_row_shows_in_the_loss(case):
    assert hidden_in(case, lambda row: BAD) == []


@pytest.mark.parametrize("name", [*pair_losses(), *proxy_losses()])
def test_a_similarity_that_is_nan_shows_in_the_loss_of_its_anchor_alone(name):
    loss = {**pair_losses(), **proxy_losses()}[name]
    s = torch.linspace(-0.5, 0.5, 12).view(3, 4)
    w_pos = torch.tensor([[True, True, False, False]] * 3)
    s[1, 0] = float("nan")
    each = loss.from_similarity(s, w_pos, ~w_pos)
    assert each.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("value", [*BAD, 1e30])
def test_a_row_without_a_finite_length_is_nan_as_a_whole(value):
    rows = torch.ones(3, 4)
    rows[1, 2] = value
    rows[2] = 0
    unit, inverse = unit_and_inverse(rows)
    assert unit[1].isnan().all()
    assert inverse[1].isnan().all()
    torch.testing.assert_close(unit[[0, 2]], torch.tensor([[0.5] * 4, [0.0] * 4]))


def test_spoilt_is_zero_for_anything_finite():
    finite = [torch.full((300,), 6e4, dtype=torch.float16), torch.full((3, 3), -3e38), torch.zeros(0, 4)]
    assert [float(zero_or_nan(t)) for t in finite] == [0, 0, 0]
    for value in BAD:
        assert bool(zero_or_nan(torch.zeros(3), torch.tensor([1.0, value])).isnan())


def test_a_batch_without_pairs_hides_nothing():
    alone = torch.full((1, 1), float("nan"))
    assert losses.OfficialContrastive()(alone, torch.zeros(1, dtype=torch.int64)).isnan()
    rows = torch.eye(3)
    assert losses.Triplet()(rows, torch.arange(3)) == 0
    rows[1, 1] = float("nan")
    assert losses.Triplet()(rows, torch.arange(3)).isnan()
