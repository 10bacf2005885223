import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mei_lightning.optimization.search import MultiStart, SearchRows, better_rows, nearly_as_good, ranks

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


def ended(search, values, steps, meets=None, frame_shifted=False):
    """Which active rows end, with all of them given up or joined as the search says."""
    rows = SearchRows(
        values,
        steps,
        torch.ones_like(values, dtype=torch.bool),
        torch.full((len(values),), frame_shifted),
    )
    given_up, joined = search.ended(rows, meets or (lambda which, similarity: torch.zeros_like(which)))
    assert not (given_up & joined).any()
    return given_up, joined


def test_a_trial_keeps_the_best_starts():
    values = torch.tensor([[1.0, 4.0, 3.0, 2.0]]).repeat(3, 1)
    steps = torch.tensor([[7], [8], [9]]).expand(3, 4)
    given_up, _ = ended(MultiStart(starts=4, keep=2, shifts=()), values, steps)
    assert given_up.tolist() == [[False] * 4, [True, False, False, True], [False] * 4]
    given_up, _ = ended(MultiStart(starts=4, keep=1, trial_steps=6, shifts=()), values, steps - 2)
    assert given_up.tolist() == [[False] * 4, [True, False, True, True], [False] * 4]


def test_how_far_a_row_may_be_behind_depends_on_what_it_is_and_on_its_steps():
    # Three starts, of which one is kept, and one shifted stimulus.
    values = torch.tensor([[1.0, 0.88, 0.98, 0.975]])

    def behind(*steps, keep=1, values=values):
        return ended(MultiStart(starts=3, keep=keep), values, torch.tensor([steps]))[0][0].tolist()

    assert behind(2, 2, 2, 0) == [False] * 4
    assert behind(4, 4, 4, 0) == [False, True, False, False]
    assert behind(10, 10, 10, 6) == [False] * 4
    assert behind(10, 10, 10, 8) == [False, False, False, True]
    assert behind(12, 12, 12, 8) == [False, True, False, True]
    # Only after an even number of its own steps is a row compared.
    assert behind(13, 13, 13, 9) == [False] * 4
    # All that may be kept go on, however far they are behind.
    assert not behind(4, 4, 4, 0, keep=3)[1]
    assert behind(12, 12, 12, 12, keep=3, values=-values) == [True, False, True, True]


def test_the_best_row_is_never_given_up():
    values = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    for steps in (4, 8, 12, 100):
        given_up, _ = ended(MultiStart(), values, torch.full((50, 5), steps))
        assert not given_up.gather(1, values.argmax(dim=1, keepdim=True)).any()


def test_a_row_that_comes_to_where_a_better_one_is_joins_it_unless_it_was_moved_by_frames():
    values, steps = torch.tensor([[1.0, 0.99, 0.99]]), torch.full((1, 3), 10)
    asked = []

    def meets(which, similarity):
        asked.append((which.tolist(), similarity.tolist()))
        return which & torch.tensor([[False, True, True]])

    _, joined = ended(MultiStart(starts=2), values, steps, meets)
    assert joined.tolist() == [[False, True, True]]
    _, joined = ended(MultiStart(starts=2), values, steps, meets, frame_shifted=True)
    assert not joined.any()
    which, (first, second, moved) = asked[0]
    assert which == [[True] * 3]
    assert 1 > first == second > moved > 0


def test_what_is_nearly_as_good_and_what_is_hardly_better():
    assert nearly_as_good(torch.tensor([1.0, 0.996, 0.99, -torch.inf]), torch.ones(4)).tolist() == [1, 1, 0, 0]
    assert nearly_as_good(torch.tensor([-1.004, -1.01]), -torch.ones(2)).tolist() == [True, False]
    # Two starts and two other rows.
    values = torch.tensor([[1.0, 2.0, 2.003, 2.1], [-2.0, -1.0, -0.99, -0.999]])
    assert MultiStart(starts=2).hardly_better(values)[:, 2:].tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize("wrong", [{"keep": 4}, {"keep": 0}, {"trial_steps": 7}, {"trial_steps": 0}, {"max_steps": 0}])
def test_numbers_that_make_no_search_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        MultiStart(**wrong)
