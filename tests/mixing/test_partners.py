"""Partners, the mixing of inputs, ratios between bounds."""

import pytest
import torch

from metrixkit.errors import InputError
from metrixkit.mixing import draw_between, draw_partners, mix_inputs


def test_flip_leaves_the_middle_row_of_an_odd_batch_as_it_is():
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
    mixed = mix_inputs(x, 0.7)
    assert torch.equal(mixed[2], x[2])
    for i in (0, 1, 3, 4):
        assert torch.allclose(mixed[i], 0.7 * x[i] + 0.3 * x[4 - i])
    assert torch.equal(mix_inputs(x, 1.0), x)
    assert torch.equal(mix_inputs(x, 0.0), x.flip(0))


def test_permutations_are_drawn_by_the_generator_alone():
    first, again, other = (torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    partner = draw_partners(50, "permutation", first)
    assert torch.equal(partner, draw_partners(50, "permutation", again))
    assert not torch.equal(partner, draw_partners(50, "permutation", other))
    assert sorted(partner.tolist()) == list(range(50))
    # Whatever the size, generators stay together.
    draw_partners(7, "permutation", again)
    draw_partners(50, "permutation", first)
    assert torch.equal(first.get_state(), again.get_state())


def test_a_share_for_each_row_and_bytes():
    x = torch.tensor([[0], [100], [255]], dtype=torch.uint8)
    mixed = mix_inputs(x, torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1, 2, 0]))
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed.flatten(), torch.tensor([0.0, (100 + 255) / 2 / 255, 0.0]))


def test_ratios_between_bounds():
    generator = torch.Generator().manual_seed(0)
    drawn = draw_between(0.5, 1.0, generator, (4000,))
    assert drawn.dtype == torch.float64
    assert ((drawn >= 0.5) & (drawn < 1)).all()
    assert drawn.mean().item() == pytest.approx(0.75, abs=0.01)
    assert draw_between(0.7, 0.7, generator).item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_between(0.6, 0.5, torch.Generator()), "low=0.6 and high=0.5"),
        (lambda: draw_between(0.5, 1.1, torch.Generator()), "0 <= low <= high <= 1"),
        (lambda: draw_partners(4, "fllip"), "Did you mean 'flip'"),
        (lambda: draw_partners(4, "permutation"), "give a torch.Generator"),
        (lambda: mix_inputs(torch.ones(3, dtype=torch.long), 0.5), "expected floating"),
        (lambda: mix_inputs(torch.ones(3), 1.5), "lam is 1.5"),
        (lambda: mix_inputs(torch.ones(3), torch.tensor([0.5, 0.5])), r"shape \(3,\)"),
        (lambda: mix_inputs(torch.ones(3), torch.tensor([0.5, 0.5, -0.1])), r"all in \[0, 1\]"),
        (lambda: mix_inputs(torch.ones(3), 0.5, torch.tensor([0, 1])), "one index a row"),
        (lambda: mix_inputs(torch.ones(3), 0.5, "permutation"), r"draw_partners\(...\) returns"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
