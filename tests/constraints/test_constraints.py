import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import Bounds, minimize

from mei_lightning import constraints
from mei_lightning.constraints import (
    ChannelRange,
    Compose,
    FixedNorm,
    MaximalNorm,
    NormAndRange,
    RescaleThenClip,
    SpatialLowPass,
    TemporalLowPass,
    range_bounds,
)

PUBLISHED_RANGES = [(-0.654, 6.269), (-0.913, 6.269)]


@st.composite
def problems(draw, reachable=True, max_rows=4):
    """Stimuli on a non-square map, a range for each channel, and a norm below the largest of each row."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, largest)) for largest in (max_rows, 3, 4, 5, 3))
    stimulus = generator.standard_normal(shape) * 10.0 ** generator.uniform(-3, 3, (shape[0], 1, 1, 1, 1))
    if draw(st.booleans()):
        stimulus *= 10.0 ** generator.uniform(-6, 0, shape)
    if draw(st.booleans()):
        stimulus *= generator.random(shape) < 0.7
    stimulus[:, 0, 0, 0, 0] = 1.0
    bound = st.one_of(st.none(), st.floats(0.05, 3), st.just(0.0))
    ranges = [(None if (low := draw(bound)) is None else -low, draw(bound)) for _ in range(shape[1])]
    ranges[0] = (ranges[0][0], draw(st.floats(0.05, 3)))
    stimulus = torch.tensor(stimulus, dtype=torch.float32)
    limit = largest_norm_by_signs(stimulus.double().numpy(), ranges).min() if reachable else 10.0
    norm = min(limit, 100.0) * draw(st.floats(0.01, 0.99))
    return stimulus, ranges, norm


def numpy_bounds(ranges, ndim=5):
    low, high = (bound.double().numpy() for bound in range_bounds(ranges))
    return low.reshape(-1, *[1] * (ndim - 2)), high.reshape(-1, *[1] * (ndim - 2))


def largest_norm_by_signs(stimulus, ranges):
    low, high = numpy_bounds(ranges)
    limit = np.where(stimulus > 0, high, np.where(stimulus < 0, low, 0))
    return np.sqrt((limit**2).sum((1, 2, 3, 4)))


def bisect(row, low, high, norm, largest_scale):
    """clip(s * row) of a norm, by bisection on log s in float64."""

    def clipped(log_scale):
        return np.clip(np.exp(log_scale) * row, low, high)

    left, right = -60.0, min(60.0, np.log(largest_scale))
    for _ in range(200):
        middle = (left + right) / 2
        if np.linalg.norm(clipped(middle)) < norm:
            left = middle
        else:
            right = middle
    return clipped(right)


def norms(stimulus):
    return stimulus.double().flatten(1).norm(dim=1)


def assert_in_range(stimulus, ranges):
    low, high = (bound[:, None, None, None] for bound in range_bounds(ranges))
    assert (stimulus >= low).all()
    assert (stimulus <= high).all()


@pytest.mark.slow
@given(problems(), st.sampled_from(["fixed", "maximal"]))
@settings(max_examples=150)
def test_norm_and_range_agree_with_bisection(problem, norm_is):
    stimulus, ranges, norm = problem
    before = stimulus.clone()
    projected = NormAndRange(norm, ranges, norm_is=norm_is)(stimulus)
    assert torch.equal(stimulus, before)
    assert_in_range(projected, ranges)
    if norm_is == "fixed":
        np.testing.assert_allclose(norms(projected), norm, rtol=1e-6)
    else:
        assert (norms(projected) <= norm * (1 + 1e-6)).all()
    low, high = numpy_bounds(ranges)
    for row, result in zip(stimulus.double().numpy(), projected.numpy(), strict=True):
        expected = bisect(row, low, high, norm, np.inf if norm_is == "fixed" else 1.0)
        # Near saturation the norm hardly depends on s, so that s is less certain than the norm.
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-4 * norm)


@pytest.mark.parametrize("norm_is", ["fixed", "maximal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_which_few_and_many_entries_are_clipped_agree_with_bisection_and_do_not_know_of_each_other(
    norm_is, dtype
):
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(6, 2, 50, 9, 8, generator=generator, dtype=torch.float64)
    # None clipped; few; few, whose scale grows far; many; zeros; what is not a number.
    power = torch.tensor([0.1, 1.0, 8.0, 1.0, 1.0, 1.0], dtype=torch.float64).view(-1, 1, 1, 1, 1)
    stimulus = (noise.sign() * noise.abs() ** power).to(dtype)
    stimulus[3] = torch.where(stimulus[3] < -1.4, 10 * stimulus[3], 0.3 * stimulus[3])
    stimulus[4], stimulus[5, 1, 2, 3, 4] = 0.0, torch.nan
    constraint = NormAndRange(20.0, PUBLISHED_RANGES, norm_is=norm_is)
    projected = constraint(stimulus)
    low, high = numpy_bounds(PUBLISHED_RANGES)
    shares = [((row == low) | (row == high)).mean() for row in projected[:4].to(torch.float32).double().numpy()]
    assert shares[0] == 0 < min(shares[1:3]) <= max(shares[1:3]) < 1 / 16 < shares[3]
    for row, result in zip(stimulus[:4].double().numpy(), projected[:4].double().numpy(), strict=True):
        expected = bisect(row, low, high, 20.0, np.inf if norm_is == "fixed" else 1.0)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert not projected[4].any()
    assert not projected[5].isfinite().all()
    for row in range(5):
        assert torch.equal(constraint(stimulus[row : row + 1])[0], projected[row])
    # Whatever their order in memory.
    swapped = stimulus.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(constraint(swapped)[:5], projected[:5])


@pytest.mark.parametrize("norm_is", ["fixed", "maximal"])
@pytest.mark.parametrize("norm", [0.1, 20.0, 25.0])
def test_where_few_entries_are_clipped_only_these_are_looked_at_again(norm_is, norm, monkeypatch):
    """Stimuli mostly are such, and passes over all of their entries would take much of the time of a step."""
    stimulus = torch.randn(6, 2, 50, 9, 8, generator=torch.Generator().manual_seed(4))
    constraint = NormAndRange(norm, PUBLISHED_RANGES, norm_is=norm_is)
    expected = constraint(stimulus)
    monkeypatch.setattr(
        "mei_lightning.constraints.projection._scale_to_norm", lambda *_: pytest.fail("a pass over all entries")
    )
    assert torch.equal(constraint(stimulus), expected)
    clipped = (expected == range_bounds(PUBLISHED_RANGES)[0][:, None, None, None]).float().mean()
    assert clipped < 1 / 16
    assert (norm < 1) == (clipped == 0)


@given(problems(max_rows=1), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_maximal_norm_and_range_is_the_nearest_feasible_point(problem, seed):
    stimulus, ranges, norm = problem
    projected = NormAndRange(norm, ranges, norm_is="maximal")(stimulus).double().numpy()
    generator = np.random.default_rng(seed)
    low, high = numpy_bounds(ranges)
    others = projected + generator.standard_normal((200, *stimulus.shape[1:])) * 10.0 ** generator.uniform(-3, 1)
    others = np.clip(others, low, high)
    others *= np.minimum(1, norm / np.sqrt((others**2).sum((1, 2, 3, 4), keepdims=True)).clip(1e-300))
    # A point of a convex set is the nearest one if and only if no feasible direction leads towards the stimulus.
    stimulus = stimulus.double().numpy()
    towards = ((stimulus - projected) * (others - projected)).sum((1, 2, 3, 4))
    assert towards.max() <= 1e-5 * norm * np.linalg.norm(stimulus)


@pytest.mark.parametrize("norm_is", ["fixed", "maximal"])
def test_norm_and_range_agree_with_a_general_solver(norm_is):
    generator = np.random.default_rng(3)
    ranges, norm = [(-0.3, 1.0), (-0.5, None)], 1.6
    low, high = numpy_bounds(ranges)
    for _ in range(5):
        stimulus = generator.standard_normal((1, 2, 2, 2, 1)) * 2
        flat = stimulus.ravel()
        box = [np.broadcast_to(bound, stimulus.shape).ravel() for bound in (low, high)]
        solution = minimize(
            lambda y, x: ((y - x) ** 2).sum(),
            np.clip(0.5 * norm * flat / np.linalg.norm(flat), *box),
            args=(flat,),
            jac=lambda y, x: 2 * (y - x),
            method="SLSQP",
            bounds=Bounds(*box),
            constraints={
                "type": "eq" if norm_is == "fixed" else "ineq",
                "fun": lambda y: norm**2 - (y**2).sum(),
                "jac": lambda y: -2 * y,
            },
            options={"ftol": 1e-10, "maxiter": 1000},
        )
        assert solution.success
        projected = NormAndRange(norm, ranges, norm_is=norm_is)(torch.tensor(stimulus))
        np.testing.assert_allclose(projected.numpy().ravel(), solution.x, atol=2e-4)


@given(problems(), st.sampled_from(["fixed", "maximal"]))
@settings(max_examples=50)
def test_projecting_twice_changes_nothing(problem, norm_is):
    stimulus, ranges, norm = problem
    constraint = NormAndRange(norm, ranges, norm_is=norm_is)
    once = constraint(stimulus)
    torch.testing.assert_close(constraint(once), once, rtol=1e-5, atol=1e-6 * norm)


@given(problems())
@settings(max_examples=50)
def test_a_larger_norm_moves_every_value_away_from_zero(problem):
    stimulus, ranges, norm = problem
    small = NormAndRange(0.5 * norm, ranges)(stimulus)
    large = NormAndRange(norm, ranges)(stimulus)
    assert (large.abs() >= small.abs() * (1 - 1e-6)).all()
    assert (large * small >= 0).all()


@given(problems())
@settings(max_examples=50)
def test_feasible_stimuli_stay_under_a_maximal_norm(problem):
    stimulus, ranges, norm = problem
    feasible = NormAndRange(0.99 * norm, ranges)(stimulus)
    assert torch.equal(NormAndRange(norm, ranges, norm_is="maximal")(feasible), feasible)
    assert torch.equal(MaximalNorm(norm)(feasible), feasible)
    assert torch.equal(ChannelRange(ranges)(feasible), feasible)


@given(problems(max_rows=5), st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_rows_do_not_know_their_neighbours(problem, random):
    stimulus, ranges, norm = problem
    order = list(range(len(stimulus)))
    random.shuffle(order)
    for constraint in (
        NormAndRange(norm, ranges),
        NormAndRange(norm, ranges, norm_is="maximal"),
        Compose([TemporalLowPass(1.2), SpatialLowPass(0.7), NormAndRange(norm, ranges)]),
    ):
        together = constraint(stimulus)
        torch.testing.assert_close(constraint(stimulus[order]), together[order], rtol=1e-6, atol=1e-7 * norm)
        for row in range(len(stimulus)):
            alone = constraint(stimulus[row : row + 1])
            torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-6, atol=1e-7 * norm)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("norm_is", ["fixed", "maximal"])
@pytest.mark.parametrize("ranges", [None, PUBLISHED_RANGES])
def test_a_row_that_is_not_finite_disturbs_no_other(bad, norm_is, ranges):
    stimulus = torch.randn(3, 2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    constraint = NormAndRange(3.0, ranges, norm_is=norm_is)
    expected = constraint(stimulus)
    stimulus[1, 0, 2, 1, 1] = bad
    projected = constraint(stimulus)
    assert torch.equal(projected[[0, 2]], expected[[0, 2]])
    assert not projected[1].isfinite().all()
    with pytest.raises(ValueError, match=r"Row\(s\) 1 of the initial stimulus are not finite"):
        constraint.check_stimulus(stimulus)


@pytest.mark.parametrize("norm_is", ["fixed", "maximal"])
@pytest.mark.parametrize("ranges", [None, PUBLISHED_RANGES])
def test_zero_rows_stay_zero_and_are_named(norm_is, ranges):
    stimulus = torch.randn(4, 2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    stimulus[[0, 2]] = 0
    constraint = NormAndRange(3.0, ranges, norm_is=norm_is)
    projected = constraint(stimulus)
    assert not projected[[0, 2]].any()
    np.testing.assert_allclose(norms(projected[[1, 3]]), 3.0, rtol=1e-6)
    if norm_is == "maximal":
        constraint.check_stimulus(stimulus)
    else:
        with pytest.raises(ValueError, match=r"Row\(s\) 0, 2 of the initial stimulus are zero.*norm 3"):
            constraint.check_stimulus(stimulus)


def test_a_row_that_is_zero_within_its_range_is_named():
    stimulus = -torch.ones(2, 1, 1, 2, 2)
    stimulus[0] = 1
    with pytest.raises(ValueError, match=r"Row\(s\) 1 of the initial stimulus are zero"):
        NormAndRange(1.0, [(0.0, 1.0)]).check_stimulus(stimulus)


def test_a_row_whose_signs_forbid_the_norm_gets_as_near_as_its_range_allows():
    stimulus = torch.tensor([[-1.0, -2.0, 0.01, 0.0], [1.0, 1.0, 1.0, -1.0]]).reshape(2, 1, 1, 2, 2)
    constraint = NormAndRange(2.0, [(-0.5, 2.0)])
    constraint.check(stimulus.shape)
    projected = constraint(stimulus)
    torch.testing.assert_close(projected[0].flatten(), torch.tensor([-0.5, -0.5, (4 - 0.5) ** 0.5, 0.0]))
    stimulus[0, 0, 0, 1, 0] = 0
    projected = constraint(stimulus)
    assert projected[0].flatten().tolist() == [-0.5, -0.5, 0.0, 0.0]
    assert norms(projected)[1].item() == pytest.approx(2.0)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 0.5), st.floats(0, 90))
@settings(max_examples=150)
def test_norm_holds_however_heavy_the_tails(seed, shortfall, octaves):
    generator = np.random.default_rng(seed)
    stimulus = 2.0 ** -(generator.random(80) * octaves) * generator.choice([-1, 1], 80)
    norm = np.sqrt(80 * (1 - shortfall))
    projected = NormAndRange(norm, [(-1, 1)])(torch.tensor(stimulus, dtype=torch.float32).reshape(1, 1, 1, 8, 10))
    assert projected.abs().max() <= 1
    assert norms(projected).item() == pytest.approx(norm, rel=1e-5)


@given(problems(reachable=False))
@settings(max_examples=50)
def test_norm_alone_is_a_rescaling(problem):
    stimulus, _, norm = problem
    before = norms(stimulus)[:, None, None, None, None]
    np.testing.assert_allclose(FixedNorm(norm)(stimulus), stimulus * (norm / before), rtol=1e-6)
    np.testing.assert_allclose(MaximalNorm(norm)(stimulus), stimulus * (norm / before).clamp(max=1), rtol=1e-6)


def test_range_alone_is_a_clip_of_each_channel():
    stimulus = torch.randn(3, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    projected = ChannelRange([(0.2, 1.0), None, (None, -0.1)])(stimulus)
    assert torch.equal(projected[:, 0], stimulus[:, 0].clamp(0.2, 1.0))
    assert torch.equal(projected[:, 1], stimulus[:, 1])
    assert torch.equal(projected[:, 2], stimulus[:, 2].clamp(max=-0.1))


def test_published_recipe_holds_norm_and_range_together():
    stimulus = torch.randn(8, 2, 50, 18, 16, generator=torch.Generator().manual_seed(0)) * 50
    constraint = NormAndRange(30.0, PUBLISHED_RANGES)
    constraint.check_stimulus(stimulus)
    projected = constraint(stimulus)
    assert_in_range(projected, PUBLISHED_RANGES)
    np.testing.assert_allclose(norms(projected), 30.0, rtol=1e-6)


@pytest.mark.parametrize("ranges", [None, [(-1.0, 2.0), (-0.5, 0.5)]])
def test_frozen_pixels_keep_their_value_outside_the_norm(ranges):
    generator = torch.Generator().manual_seed(0)
    stimulus = torch.randn(3, 2, 4, 5, 3, generator=generator)
    mask = torch.rand(5, 3, generator=generator) < 0.5
    frozen = torch.rand(2, 1, 5, 3, generator=generator) * 0.4
    constraint = NormAndRange(2.0, ranges, mask=mask, frozen=frozen)
    constraint.check_stimulus(stimulus)
    projected = constraint(stimulus)
    assert torch.equal(projected[..., ~mask], frozen.expand(2, 4, 5, 3)[..., ~mask].expand(3, -1, -1, -1))
    free = NormAndRange(2.0, ranges)(stimulus * mask)
    torch.testing.assert_close(projected[..., mask], free[..., mask])
    np.testing.assert_allclose(norms(projected[..., mask]), 2.0, rtol=1e-6)
    stimulus[1, 0, 0][~mask] = torch.nan
    torch.testing.assert_close(constraint(stimulus), projected)


def test_a_mask_of_channels_freezes_channels():
    stimulus = torch.randn(2, 3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    projected = FixedNorm(5.0, mask=[1, 0, 1], frozen=[9.0, -2.5, 9.0])(stimulus)
    assert (projected[:, 1] == -2.5).all()
    np.testing.assert_allclose(norms(projected[:, [0, 2]]), 5.0, rtol=1e-6)
    stimulus[1, [0, 2]] = 0
    with pytest.raises(ValueError, match=r"Row\(s\) 1 of the initial stimulus are zero"):
        FixedNorm(5.0, mask=[1, 0, 1], frozen=-2.5).check_stimulus(stimulus)


def test_a_mask_alone_keeps_free_pixels_and_a_range_without_zero_spares_frozen_ones():
    stimulus = torch.randn(2, 2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    projected = NormAndRange(mask=[0, 1])(stimulus)
    assert torch.equal(projected[:, 1], stimulus[:, 1])
    assert not projected[:, 0].any()
    constraint = ChannelRange([(-1.0, 1.0), (1.0, 2.0)], mask=[1, 0], frozen=[9.0, 1.5])
    constraint.check_stimulus(stimulus)
    projected = constraint(stimulus)
    assert (projected[:, 1] == 1.5).all()
    assert torch.equal(projected[:, 0], stimulus[:, 0].clamp(-1, 1))


@pytest.mark.parametrize(("sigma", "frames"), [(0.5, 20), (1.7, 20), (3.0, 5), (2.0, 1)])
def test_temporal_low_pass_agrees_with_scipy(sigma, frames):
    stimulus = torch.randn(2, 2, frames, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter1d(stimulus.double().numpy(), sigma, axis=2, mode="nearest")
    np.testing.assert_allclose(TemporalLowPass(sigma)(stimulus), expected, atol=1e-6)


@pytest.mark.parametrize(("sigma", "size"), [(0.5, (18, 16)), (1.7, (5, 9)), (4.0, (3, 1))])
def test_spatial_low_pass_agrees_with_scipy_and_keeps_constants(sigma, size):
    stimulus = torch.randn(2, 2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter1d(stimulus.double().numpy(), sigma, axis=3, mode="nearest")
    expected = gaussian_filter1d(expected, sigma, axis=4, mode="nearest")
    np.testing.assert_allclose(SpatialLowPass(sigma)(stimulus), expected, atol=1e-6)
    torch.testing.assert_close(SpatialLowPass(sigma)(torch.ones_like(stimulus)), torch.ones_like(stimulus))


def test_composition_applies_in_order_and_its_last_constraint_holds():
    stimulus = torch.randn(2, 2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    smooth, last = SpatialLowPass(1.0), NormAndRange(3.0, PUBLISHED_RANGES)
    composed = Compose([Compose([TemporalLowPass(1.0), smooth]), last])
    composed.check_stimulus(stimulus)
    assert torch.equal(composed(stimulus), last(smooth(TemporalLowPass(1.0)(stimulus))))
    with pytest.raises(ValueError, match="2 channel range"):
        composed.check((1, 3, 6, 5, 4))
    stimulus[1] = 0
    with pytest.raises(ValueError, match=r"Row\(s\) 1 .* are zero"):
        composed.check_stimulus(stimulus)
    assert doctest.testmod(constraints).failed == 0


def test_constraints_follow_dtype_and_leave_checkpoints_alone():
    constraint = NormAndRange(3.0, PUBLISHED_RANGES, mask=[1, 0])
    assert constraint.state_dict() == {}
    assert constraint.to(torch.float64).low.dtype == torch.float64
    stimulus = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projected = constraint(stimulus)
    assert projected.dtype == torch.float64
    np.testing.assert_allclose(norms(projected), 3.0, rtol=1e-13)
    assert not constraint(stimulus.requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormAndRange(), "constrains nothing"),
        (lambda: FixedNorm(0.0), r"norm=0.0 must be positive"),
        (lambda: MaximalNorm(float("nan")), r"norm=nan must be positive"),
        (lambda: NormAndRange(1.0, norm_is="exact"), r"norm_is='exact'"),
        (lambda: ChannelRange([(1.0, -1.0)]), r"range \(1.0, -1.0\) of channel 0 is empty"),
        (lambda: ChannelRange([None, (0, 1, 2)]), r"range of channel 1 must be \(low, high\) or None, not \(0, 1, 2\)"),
        (lambda: ChannelRange((-1.0, 1.0)), r"range of channel 0 must be \(low, high\) or None, not -1.0"),
        (lambda: ChannelRange([("low", 1.0)]), r"range of channel 0 must be \(low, high\) or None, not \('low', 1.0\)"),
        (lambda: ChannelRange([]), "ranges is empty"),
        (lambda: NormAndRange(1.0, [(0.5, 1.0)]), "0 has to be inside each range"),
        (lambda: FixedNorm(1.0, mask=[0, 0]), "is empty: no pixel is free"),
        (lambda: FixedNorm(1.0, mask=[0.5, 1]), "1 .free. and 0 .frozen."),
        (lambda: FixedNorm(1.0, frozen=2.0), "give a mask as well"),
        (lambda: TemporalLowPass(0.0), r"TemporalLowPass\(sigma=0.0\) must be positive"),
        (lambda: SpatialLowPass("1 pixel"), r"SpatialLowPass\(sigma=1 pixel\) must be positive"),
        (lambda: Compose([]), "has no constraints"),
        (lambda: Compose([FixedNorm(1.0), ChannelRange([None])]), r"ChannelRange.* after FixedNorm.* would undo it"),
        (lambda: Compose([Compose([FixedNorm(1.0)]), SpatialLowPass(1.0)]), r"SpatialLowPass\(sigma=1\) after FixedN"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (ChannelRange([(-1, 1)]), r"1 channel range\(s\) for a stimulus of 2 channel\(s\): \(\(-1, 1\),\)"),
        (
            NormAndRange(10.0, [(-0.1, 0.2), (-0.5, 0.1)]),
            r"norm=10 cannot be reached.*largest possible norm .* is 5.899",
        ),
        (NormAndRange(5.0, [(-0.1, 0.2), (-0.5, 0.1)], mask=[1, 0]), "largest possible norm .* is 2.19"),
        (FixedNorm(1.0, mask=torch.ones(7, 3)), r"mask of shape \(7, 3\) does not broadcast"),
        (FixedNorm(1.0, mask=[1, 1, 0]), r"mask of shape \(3, 1, 1, 1\) does not broadcast"),
        (FixedNorm(1.0, mask=[1, 0], frozen=torch.zeros(3, 3)), r"frozen of shape \(3, 3\) does not broadcast"),
        (ChannelRange([None, (-1, 1)], mask=[1, 0], frozen=[0.0, 2.0]), "Frozen value 2 is outside"),
    ],
)
def test_constraints_that_cannot_be_met_are_refused_before_the_first_step(constraint, message):
    with pytest.raises(ValueError, match=message):
        constraint.check((4, 2, 5, 4, 6))


def test_largest_possible_norm_is_reached():
    ranges = [(-0.1, 0.2), (-0.5, 0.1)]
    stimulus = torch.ones(1, 2, 5, 4, 6)
    stimulus[:, 1] = -1
    norm = (120 * (0.2**2 + 0.5**2)) ** 0.5
    constraint = NormAndRange(norm, ranges)
    constraint.check_stimulus(stimulus)
    assert norms(constraint(stimulus)).item() == pytest.approx(norm, rel=1e-6)
    with pytest.raises(ValueError, match="cannot be reached"):
        NormAndRange(norm * 1.001, ranges).check(stimulus.shape)


def test_a_stimulus_has_five_dimensions_and_each_channel_a_range():
    with pytest.raises(ValueError, match=r"\[rows, channels, time, height, width\], not \(2, 5, 4, 6\)"):
        FixedNorm(1.0).check((2, 5, 4, 6))
    with pytest.raises(ValueError, match="1 channel range"):
        ChannelRange([(-1, 1)])(torch.zeros(1, 2, 3, 4, 5))


def test_repr_shows_the_values():
    constraint = NormAndRange(30.0, [(-0.5, None), None], mask=[1, 0], frozen=-0.25)
    assert repr(constraint) == (
        "NormAndRange(norm=30, norm_is='fixed', ranges=((-0.5, None), None), "
        "mask=(2, 1, 1, 1) with 1 of 2 free, frozen=-0.25)"
    )


def test_rescale_then_clip_is_the_published_rule():
    stimulus = torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    rule = RescaleThenClip(30.0, [(-0.654, 6.269), (-0.913, 6.269)])
    for row, result in zip(stimulus.numpy(), rule(stimulus).numpy(), strict=True):
        scaled = 30.0 * row / np.sqrt((row.astype(float) ** 2).sum())
        expected = np.stack([scaled[0].clip(-0.654, 6.269), scaled[1].clip(-0.913, 6.269)])
        np.testing.assert_allclose(result, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="2 channel range"):
        rule.check((1, 3, 4, 5, 6))
    with pytest.raises(ValueError, match="zero"):
        rule.check_stimulus(torch.zeros(1, 2, 4, 5, 6))
