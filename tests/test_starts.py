import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from mei_lightning.optimization.effort import TRIAL_STEPS
from mei_lightning.optimization.starts import (
    better_rows,
    far_behind,
    hardly_better,
    nearly_as_good,
    outdone_in_trial,
    ranks,
)

NUMBERS = st.sampled_from([-torch.inf, -2.0, -1.0, 0.5, 0.5 * (1 + 1e-7), 1.0, 3.0])


@st.composite
def neurons(draw):
    """Values ``[neurons, rows]``, some of them equal but for rounding."""
    rows = draw(st.integers(2, 5))
    return torch.tensor(draw(st.lists(st.lists(NUMBERS, min_size=rows, max_size=rows), min_size=1, max_size=4)))


def is_better(values, one, other):
    """Whether a row is better than another one of the same neuron; the first of those that are about equal is."""
    if abs(values[one] - values[other]) <= 1e-6 * abs(values[one]) or values[one] == values[other]:
        return one < other and values[one] > -torch.inf
    return values[one] > values[other]


@given(neurons(), st.integers(0, 2**20 - 1))
def test_every_better_row_of_the_same_neuron_is_met_once(values, bits):
    which = torch.tensor([bool(bits >> number & 1) for number in range(values.numel())]).view_as(values)
    rows = values.shape[1]
    expected = {
        (neuron * rows + one, neuron * rows + other)
        for neuron in range(len(values))
        for one, other in itertools.permutations(range(rows), 2)
        if which[neuron, one] and is_better(values[neuron].tolist(), other, one)
    }
    found = list(zip(*(numbers.tolist() for numbers in better_rows(values, which)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


@given(neurons())
def test_the_best_row_is_the_first_of_those_that_are_equal(values):
    for own, of_neuron in zip(values.tolist(), ranks(values).tolist(), strict=True):
        assert sorted(of_neuron) == list(range(len(own)))
        best = of_neuron.index(0)
        assert not any(is_better(own, other, best) for other in range(len(own)) if other != best)


def test_a_trial_keeps_the_finalists():
    values = torch.tensor([[1.0, 4.0, 3.0, 2.0]]).repeat(3, 1)
    steps = torch.tensor([[TRIAL_STEPS - 1], [TRIAL_STEPS], [TRIAL_STEPS + 1]]).expand(3, 4)
    assert outdone_in_trial(values, steps, 2).tolist() == [[False] * 4, [True, False, False, True], [False] * 4]


def test_how_far_a_row_may_be_behind_depends_on_what_it_is_and_on_its_steps():
    # Three starts, of which one is a finalist, and one shifted stimulus.
    values = torch.tensor([[1.0, 0.88, 0.98, 0.975]])

    def behind(*steps):
        return far_behind(values, torch.tensor([steps]), starts=3, finalists=1)[0].tolist()

    assert behind(3, 3, 3, 0) == [False] * 4
    assert behind(4, 4, 4, 0) == [False, True, False, False]
    assert behind(8, 8, 8, 7) == [False] * 4
    assert behind(8, 8, 8, 8) == [False, False, False, True]
    assert behind(12, 12, 12, 8) == [False, True, False, True]
    # All that may become finalists go on, however far they are behind.
    assert not far_behind(values[:, :3], torch.full((1, 3), 4), starts=3, finalists=2)[0, 2]
    assert far_behind(-values, torch.full((1, 4), 12), starts=3, finalists=3)[0].tolist() == [True, False, True, True]


def test_the_best_row_is_never_behind():
    values = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    for steps in (4, 8, 12, 100):
        behind = far_behind(values, torch.full((50, 5), steps), starts=3, finalists=1)
        assert not behind.gather(1, values.argmax(dim=1, keepdim=True)).any()


def test_what_is_nearly_as_good_and_what_is_hardly_better():
    assert nearly_as_good(torch.tensor([1.0, 0.996, 0.99, -torch.inf]), torch.ones(4)).tolist() == [1, 1, 0, 0]
    assert nearly_as_good(torch.tensor([-1.004, -1.01]), -torch.ones(2)).tolist() == [True, False]
    # Two starts and two other rows.
    values = torch.tensor([[1.0, 2.0, 2.003, 2.1], [-2.0, -1.0, -0.99, -0.999]])
    assert hardly_better(values, starts=2)[:, 2:].tolist() == [[True, False], [False, True]]
