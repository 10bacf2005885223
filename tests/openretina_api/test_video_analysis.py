"""Courses in time and shapes in space, compared with openretina's functions on random input."""

import numpy as np
import pytest

from mei_lightning import openretina_api

RANDOM = np.random.default_rng(0)


@pytest.fixture
def theirs():
    return pytest.importorskip("openretina.utils.video_analysis", reason="openretina is not installed")


@pytest.mark.parametrize("frames", [50, 51])
def test_spectra_are_those_of_openretina(frames, theirs):
    course = RANDOM.standard_normal(frames)
    ours, expected = (names.calculate_fft(course, 30.0, 8.0) for names in (openretina_api, theirs))
    for found, wanted in zip(ours, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert openretina_api.weighted_main_frequency(*ours) == pytest.approx(theirs.weighted_main_frequency(*expected))
    np.testing.assert_allclose(
        openretina_api.butter_lowpass_filter(course, 5.0, 30.0), theirs.butter_lowpass_filter(course, 5.0, 30.0)
    )


def test_a_sine_has_its_frequency():
    frequencies, weights = openretina_api.calculate_fft(np.sin(2 * np.pi * 3 * np.arange(300) / 30))
    assert frequencies[weights.argmax()] == pytest.approx(3)


@pytest.mark.parametrize("shape", [(20, 18, 16), (40, 3, 4), (1, 6, 6)])
def test_kernels_are_taken_apart_as_by_openretina(shape, theirs):
    for _ in range(3):
        kernel = RANDOM.standard_normal(shape)
        temporal, spatial, second = openretina_api.decompose_kernel(kernel, 2.0)
        if shape[0] > 1:
            expected = theirs.decompose_kernel(kernel, 2.0)
            np.testing.assert_allclose(temporal[:, None, None] * spatial, expected[0][:, None, None] * expected[1])
            assert second == pytest.approx(expected[2])
            if min(shape[1:]) > 4:
                np.testing.assert_allclose(temporal, expected[0], atol=1e-9)
                np.testing.assert_allclose(spatial, expected[1], atol=1e-9)
        else:
            np.testing.assert_allclose(temporal[:, None, None] * spatial, 2 * kernel)
            assert second == 0


def test_what_cannot_be_analysed_is_an_error():
    with pytest.raises(ValueError, match=r"half of the frame rate.*15 Hz"):
        openretina_api.calculate_fft(RANDOM.standard_normal(50), 30.0, 20.0)
    with pytest.raises(ValueError, match="has 10"):
        openretina_api.calculate_fft(RANDOM.standard_normal(10))
    with pytest.raises(ValueError, match="as many weights"):
        openretina_api.weighted_main_frequency(np.arange(3.0), np.zeros(3))
