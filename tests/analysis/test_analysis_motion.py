"""Orientation and direction of motion of stimuli that are known."""

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from mei_lightning.analysis.motion import motion


def patch(direction, frames=40, height=18, width=16, wavelength=6.0, period=10.0, sd=2.5, y=8.5, x=7.5):
    """A grating that drifts in a direction (degrees; 0 towards growing x, 90 towards growing y) under a window."""
    rows, columns = np.mgrid[:height, :width]
    rows, columns = rows - y, columns - x
    along = columns * np.cos(np.radians(direction)) + rows * np.sin(np.radians(direction))
    phase = 2 * np.pi * (along / wavelength - np.arange(frames)[:, None, None] / period)
    return (np.cos(phase) * np.exp(-(rows**2 + columns**2) / (2 * sd**2)))[None]


def difference(one, other, period):
    return abs((one - other + period / 2) % period - period / 2)


@settings(max_examples=60)
@given(
    direction=st.floats(0, 360),
    wavelength=st.floats(4.5, 8),
    period=st.floats(5, 20),
    y=st.floats(7, 11),
    x=st.floats(6, 10),
)
def test_direction_and_orientation_of_a_drifting_grating(direction, wavelength, period, y, x):
    found = motion(patch(direction, wavelength=wavelength, period=period, y=y, x=x))
    assert difference(found.direction, direction, 360) < 5
    assert difference(found.orientation, direction + 90, 180) < 5
    assert found.direction_index > 0.7
    assert 0 <= found.direction < 360
    assert 0 <= found.orientation < 180


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 12), height=st.integers(1, 9), width=st.integers(1, 9))
def test_turning_mirroring_and_playing_backwards(seed, frames, height, width):
    stimulus = np.random.default_rng(seed).standard_normal((2, frames, height, width))
    found = motion(stimulus)
    others = {
        "scaled": (motion(-1e3 * stimulus), found.direction, found.orientation),
        "backwards": (motion(stimulus[:, ::-1]), found.direction + 180, found.orientation),
        "mirrored": (motion(stimulus[..., ::-1]), 180 - found.direction, -found.orientation),
        "transposed": (motion(stimulus.swapaxes(2, 3)), 90 - found.direction, 90 - found.orientation),
    }
    for name, (other, direction, orientation) in others.items():
        assert other.direction_index == pytest.approx(found.direction_index, abs=1e-9), name
        assert other.orientation_index == pytest.approx(found.orientation_index, abs=1e-9), name
        if found.direction_index > 1e-3:
            assert difference(other.direction, direction, 360) < 1e-3, name
        if found.orientation_index > 1e-3:
            assert difference(other.orientation, orientation, 180) < 1e-3, name


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_what_is_separable_does_not_move(seed):
    random = np.random.default_rng(seed)
    stimulus = random.standard_normal((1, 30, 1, 1)) * random.standard_normal((1, 1, 18, 16))
    found = motion(stimulus)
    assert found.direction_index < 1e-6
    assert np.isnan(found.direction)


def brute_force(stimulus):
    """Both mean vectors from every sample of the whole spectrum."""
    side = scipy.fft.next_fast_len(2 * max(stimulus.shape[2:]))
    frames = scipy.fft.next_fast_len(stimulus.shape[1], real=True)
    vectors = {"axis": [], "direction": []}
    for (hertz, row, column), power in np.ndenumerate(
        sum(np.abs(np.fft.fftn(channel, (frames, side, side), (0, 1, 2))) ** 2 for channel in stimulus)
    ):
        t, y, x = (np.fft.fftfreq(size)[k] for size, k in ((frames, hertz), (side, row), (side, column)))
        if 0 < np.hypot(x, y) < 0.5:
            angle = np.arctan2(y, x)
            vectors["axis"].append((power, np.exp(2j * angle)))
            if 0 < abs(t) < 0.5:
                vectors["direction"].append((power, np.exp(1j * angle) * -np.sign(t)))
    return {
        name: sum(power * unit for power, unit in pairs) / sum(power for power, _ in pairs)
        for name, pairs in vectors.items()
    }


@pytest.mark.parametrize("frames", [5, 6])
def test_indices_are_those_of_the_whole_spectrum(frames):
    stimulus = np.random.default_rng(frames).standard_normal((2, frames, 4, 3)) + 1
    found, expected = motion(stimulus), brute_force(stimulus)
    assert found.orientation_index == pytest.approx(abs(expected["axis"]))
    assert found.direction_index == pytest.approx(abs(expected["direction"]))
    assert difference(found.direction, np.degrees(np.angle(expected["direction"])), 360) < 1e-6
    assert difference(found.orientation, np.degrees(np.angle(expected["axis"])) / 2 + 90, 180) < 1e-6


def test_what_stands_still_behind_a_motion_does_not_count():
    # Whole periods, so that nothing of the grating stands still.
    moving = patch(70, frames=40, period=10)
    assert motion(moving + 5 * patch(0, frames=1)).direction_index == pytest.approx(motion(moving).direction_index)


def test_two_opposite_motions_are_none():
    assert motion(patch(30) + patch(210)).direction_index < 0.01


@pytest.mark.parametrize("angle", [0, 25, 90, 140])
def test_an_elongated_spot_is_oriented_along_its_long_axis(angle):
    rows, columns = np.mgrid[:18, :16] - np.array([8.5, 7.5])[:, None, None]
    along = columns * np.cos(np.radians(angle)) + rows * np.sin(np.radians(angle))
    across = -columns * np.sin(np.radians(angle)) + rows * np.cos(np.radians(angle))
    image = np.exp(-(along**2) / (2 * 2.4**2) - across**2 / (2 * 1.2**2))
    found = motion(image[None, None])
    assert difference(found.orientation, angle, 180) < 3
    # The mean of cos(2 angle) over a Gaussian spectrum with axes of 1 to 2 is 1/3.
    assert found.orientation_index == pytest.approx(1 / 3, abs=0.03)
    assert np.isnan(found.direction)


def test_a_round_spot_has_no_orientation_and_zeros_have_nothing():
    rows, columns = np.mgrid[:18, :16]
    spot = np.exp(-((rows - 8.2) ** 2 + (columns - 7.7) ** 2) / 8)
    assert motion(spot[None, None]).orientation_index < 0.03
    nothing = motion(np.zeros((2, 5, 4, 3)))
    assert nothing.direction_index == nothing.orientation_index == 0
    assert np.isnan(nothing.direction)
    assert np.isnan(nothing.orientation)


def test_bad_stimuli_are_named():
    with pytest.raises(ValueError, match=r"shape \(5, 4, 3\)"):
        motion(np.zeros((5, 4, 3)))
    with pytest.raises(ValueError, match="1 values that are not finite"):
        motion(np.array([[[[1.0, np.inf]]]]))
