"""Temporal contrast and the opponency angle, and polarity, from courses in time that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mei_lightning.analysis.polarity import polarity_of_course
from mei_lightning.analysis.temporal import OPPONENCY_BOUNDARY, last_peaks, opponency_angle, temporal_contrast

FRAMES = np.arange(50)


def lobe(frame, width=2.0):
    return np.exp(-((FRAMES - frame) ** 2) / (2 * width**2))


def course(positive, negative, height=1.0, depth=1.0):
    return height * lobe(positive) - depth * lobe(negative)


def test_last_peaks_are_the_last_of_several():
    flicker = 0.9 * lobe(10) - 0.95 * lobe(18) + lobe(26) - lobe(34) + 0.97 * lobe(42)
    assert last_peaks(flicker) == (42, 34)
    # A last one that is small is passed over.
    assert last_peaks(flicker - 0.92 * lobe(42)) == (26, 34)


def test_peaks_do_not_depend_on_the_unit():
    values = np.random.default_rng(0).standard_normal(50).cumsum()
    assert last_peaks(1e-3 * values) == last_peaks(values) == last_peaks(1e3 * values)


def test_without_a_peak_the_largest_value_counts():
    assert last_peaks(np.linspace(-1, 2, 20)) == (19, 0)


def test_contrast_is_the_change_between_the_last_two_peaks_of_the_reference():
    uv, green = course(40, 30, 2.0, 3.0), -course(40, 30, 0.5, 1.0) + 7 * lobe(10)
    np.testing.assert_allclose(temporal_contrast([green, uv], 1), [-1.5, 5.0], atol=1e-3)
    np.testing.assert_allclose(temporal_contrast([-green, -uv], 1), [1.5, -5.0], atol=1e-3)


def test_contrast_of_a_still_image_is_its_value():
    np.testing.assert_array_equal(temporal_contrast([[0.3], [-2.0]], 0), [0.3, -2.0])


def test_no_change_has_no_contrast_and_no_angle():
    contrast = temporal_contrast(np.zeros((2, 50)), 1)
    assert np.isnan(contrast).all()
    assert np.isnan(opponency_angle(contrast))
    assert np.isnan(opponency_angle([0.0, 0.0]))


@pytest.mark.parametrize(
    ("contrast", "angle"),
    [
        ((2.0, 2.0), 0.0),
        ((0.0, 3.0), np.pi / 4),
        ((-3.0, 0.0), np.pi / 4),
        ((1.0, -1.0), np.pi / 2),
        # From the rotated axes: atan((3 - 1) / (3 + 1)), and beyond the boundary pi/2 minus that.
        ((1.0, 3.0), np.arctan(0.5)),
        ((-1.0, 3.0), np.arctan(2.0)),
    ],
)
def test_opponency_angle(contrast, angle):
    assert opponency_angle(contrast) == pytest.approx(angle)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.sampled_from([1, -1]), st.floats(1e-3, 1e3))
def test_channels_are_opponent_if_their_signs_differ(one, other, sign, scale):
    angle = opponency_angle([one, sign * other])
    assert (angle > OPPONENCY_BOUNDARY) == (sign < 0)
    assert 0 <= angle <= np.pi / 2
    assert angle == pytest.approx(opponency_angle([sign * other, one]))
    assert angle == pytest.approx(opponency_angle([-scale * one, -scale * sign * other]))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "values",
    [
        course(40, 30, 1.0, 0.6),
        # A rebound that is larger than the lobe that the neuron answers to.
        course(45, 35, 0.6, 1.0),
        lobe(30),
        # It ends below 0 by a little.
        lobe(30) - 0.02,
        np.array([0.4]),
    ],
)
def test_polarity_is_how_the_course_ends(values, sign):
    assert polarity_of_course(sign * values) == ("ON" if sign > 0 else "OFF")


def test_nothing_has_no_polarity():
    assert polarity_of_course(np.zeros(40)) == ""


def test_bad_courses_are_named():
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        last_peaks(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        temporal_contrast(np.zeros(5), 0)
    with pytest.raises(ValueError, match=r"between two channels, but .* \(3,\)"):
        opponency_angle([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        polarity_of_course([])
