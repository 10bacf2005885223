import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mei_lightning.constraints import ChannelRange
from mei_lightning.regularizers import (
    RangePenalty,
    SpatialSmoothness,
    SpatialTotalVariation,
    SumOfRegularizers,
    TemporalSmoothness,
    TemporalTotalVariation,
)


@st.composite
def stimuli(draw):
    shape = tuple(draw(st.integers(1, largest)) for largest in (3, 2, 4, 5, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def sum_over_neighbours(stimulus, cost, axes):
    """The cost of each pair of neighbours along the axes (of channel, time, height, width), summed one by one."""
    costs = []
    for row in stimulus.numpy():
        total = 0.0
        for index in np.ndindex(row.shape):
            for axis in axes:
                neighbour = list(index)
                neighbour[axis] += 1
                if neighbour[axis] < row.shape[axis]:
                    total += cost(row[tuple(neighbour)] - row[index])
        costs.append(total)
    return costs


@pytest.mark.parametrize(
    ("regularizer", "cost", "axes"),
    [
        (TemporalTotalVariation, abs, [1]),
        (SpatialTotalVariation, abs, [2, 3]),
        (TemporalSmoothness, np.square, [1]),
        (SpatialSmoothness, np.square, [2, 3]),
    ],
)
@given(stimulus=stimuli())
@settings(max_examples=25)
def test_differences_agree_with_a_loop(regularizer, cost, axes, stimulus):
    expected = sum_over_neighbours(stimulus, cost, axes)
    np.testing.assert_allclose(regularizer(0.3)(stimulus), 0.3 * np.array(expected), rtol=1e-12)


@given(stimulus=stimuli())
@settings(max_examples=25)
def test_range_penalty_agrees_with_a_loop_and_is_zero_after_a_clip(stimulus):
    ranges = [(-0.5, 0.25), (None, 0.1)][: stimulus.shape[1]]
    expected = [
        sum(
            max(0.0, row[index] - high) + (0.0 if low is None else max(0.0, low - row[index]))
            for index in np.ndindex(row.shape)
            for low, high in [ranges[index[0]]]
        )
        for row in stimulus.numpy()
    ]
    penalty = RangePenalty(ranges, factor=2.0)
    np.testing.assert_allclose(penalty(stimulus), 2 * np.array(expected), rtol=1e-5, atol=1e-6)
    assert not penalty(ChannelRange(ranges)(stimulus.float())).any()


def test_still_images_cost_nothing_in_time_and_keep_a_gradient():
    stimulus = torch.randn(2, 1, 1, 3, 4, requires_grad=True)
    for regularizer in (TemporalTotalVariation(), TemporalSmoothness()):
        cost = regularizer(stimulus)
        assert cost.tolist() == [0.0, 0.0]
        cost.sum().backward()
    assert not stimulus.grad.any()


def test_descending_a_cost_makes_a_stimulus_smooth_and_in_range():
    stimulus = torch.randn(2, 1, 6, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    regularizer = TemporalSmoothness(0.5) + SpatialSmoothness() + 0.2 * RangePenalty([(0.5, None)])
    regularizer.check(stimulus.shape)
    before = regularizer(stimulus).detach()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(regularizer(stimulus).sum(), stimulus)
        stimulus.data -= 0.05 * gradient
    assert (regularizer(stimulus) < 1e-3 * before).all()
    assert stimulus.detach().numpy() == pytest.approx(0.5, abs=0.02)


@given(stimulus=stimuli())
@settings(max_examples=25)
def test_costs_add_and_scale_row_by_row(stimulus):
    temporal, spatial = TemporalTotalVariation(0.7), SpatialSmoothness(0.2)
    combined = 3.0 * (temporal + 2 * spatial) + temporal * 0.5
    expected = 3.5 * temporal(stimulus) + 6 * spatial(stimulus)
    assert expected.shape == (len(stimulus),)
    torch.testing.assert_close(combined(stimulus), expected)
    for row in range(len(stimulus)):
        torch.testing.assert_close(combined(stimulus[row : row + 1]), expected[row : row + 1])


@pytest.mark.parametrize("wrap", [lambda penalty: penalty, lambda penalty: 2.0 * (TemporalSmoothness() + penalty)])
def test_wrong_number_of_ranges_is_refused(wrap):
    penalty = wrap(RangePenalty([(-1.0, 1.0)]))
    with pytest.raises(ValueError, match=r"1 channel range\(s\) for a stimulus of 2 channel\(s\)"):
        penalty.check((1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="1 channel range"):
        penalty(torch.zeros(1, 2, 3, 4, 5))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"TemporalSmoothness\(factor=nan\) must be a finite number"):
        TemporalSmoothness(float("nan"))
    with pytest.raises(ValueError, match=r"range \(1, 0\) of channel 0 is empty"):
        RangePenalty([(1, 0)])
    with pytest.raises(ValueError, match="has no regularizers"):
        SumOfRegularizers([])
    with pytest.raises(ValueError, match=r"not \(2, 3\)"):
        SpatialTotalVariation().check((2, 3))
    with pytest.raises(TypeError):
        TemporalSmoothness() + 1.0


def test_repr_shows_the_values():
    assert repr(RangePenalty([(-1, None)], 0.5)) == "RangePenalty(ranges=((-1, None),), factor=0.5)"
    assert "SpatialSmoothness(factor=0.1)" in repr(2 * SpatialSmoothness(0.1))
