"""Splitting a stimulus into time and space, and its temporal frequency."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mei_lightning.analysis.decomposition import amplitude_spectrum, decompose, decompose_channels, temporal_frequency


def openretina_video_analysis():
    """openretina's module, from its file: importing the package would need all that it depends on."""
    package = importlib.util.find_spec("openretina")
    if package is None or package.origin is None:
        pytest.skip("openretina is not installed")
    path = Path(package.origin).parent / "utils" / "video_analysis.py"
    if not path.exists():
        pytest.skip("this openretina has no utils/video_analysis.py")
    spec = importlib.util.spec_from_file_location("openretina_video_analysis", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference_of_gaussians(height=18, width=16, centre=(9, 8)):
    y, x = np.mgrid[:height, :width]
    squared_distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return np.exp(-squared_distance / 4) - 0.3 * np.exp(-squared_distance / 32)


@pytest.mark.parametrize("sign", [1, -1])
def test_separable_stimulus_is_recovered_exactly(sign):
    temporal = sign * np.sin(np.arange(40) / 4)
    spatial = difference_of_gaussians() / difference_of_gaussians().max()

    found_temporal, found_spatial, share = decompose(temporal[:, None, None] * spatial)

    np.testing.assert_allclose(found_temporal, temporal, atol=1e-12)
    np.testing.assert_allclose(found_spatial, spatial, atol=1e-12)
    assert share == pytest.approx(1.0)


def test_centre_is_positive_though_the_surround_holds_more_weight():
    spatial = np.full((9, 9), -0.5)
    spatial[2, 6] = 1.0
    _, found, _ = decompose(np.ones((5, 1, 1)) * spatial)
    np.testing.assert_allclose(found, spatial, atol=1e-12)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12)),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_no_separable_stimulus_is_nearer(seed, shape, scale):
    random = np.random.default_rng(seed)
    stimulus = random.standard_normal(shape) * scale

    temporal, spatial, share = decompose(stimulus)

    assert np.abs(spatial).max() == pytest.approx(1.0)
    assert spatial.max() == pytest.approx(1.0)
    separable = temporal[:, None, None] * spatial
    rest = np.sum(((stimulus - separable) / scale) ** 2)
    assert 1 - share == pytest.approx(rest / np.sum((stimulus / scale) ** 2), abs=1e-9)
    strengths = np.linalg.eigvalsh(
        (stimulus / scale).reshape(shape[0], -1) @ (stimulus / scale).reshape(shape[0], -1).T
    )
    assert share == pytest.approx(strengths[-1] / strengths.sum(), abs=1e-9)


def test_same_components_as_openretina():
    random = np.random.default_rng(0)
    stimulus = np.sin(np.arange(50) / 5)[:, None, None] * difference_of_gaussians()
    stimulus += 0.02 * random.standard_normal(stimulus.shape)

    temporal, spatial, _ = decompose(stimulus)
    their_temporal, their_spatial, _ = openretina_video_analysis().decompose_kernel(stimulus)

    np.testing.assert_allclose(temporal, their_temporal, atol=1e-10)
    np.testing.assert_allclose(spatial, their_spatial, atol=1e-10)


def test_zeros_give_zeros():
    temporal, spatial, share = decompose(np.zeros((40, 18, 16)))
    assert temporal.shape == (40,)
    assert spatial.shape == (18, 16)
    assert not temporal.any()
    assert not spatial.any()
    assert share == 0.0


def test_input_is_not_changed():
    stimulus = np.random.default_rng(0).standard_normal((5, 4, 3))
    before = stimulus.copy()
    decompose(stimulus)
    np.testing.assert_array_equal(stimulus, before)


def test_bad_stimulus_is_named():
    with pytest.raises(ValueError, match=r"shape \(2, 40, 18, 16\)"):
        decompose(np.zeros((2, 40, 18, 16)))
    with pytest.raises(ValueError, match="1 values that are not finite"):
        decompose(np.array([[[1.0, np.nan]]]))


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_frequency_of_a_sine(offset):
    seconds = np.arange(50) / 30
    sine = offset + 0.7 * np.sin(2 * np.pi * 3 * seconds)

    frequencies, amplitudes = amplitude_spectrum(sine, 30.0)

    assert temporal_frequency(sine, 30.0) == pytest.approx(3.0)
    assert frequencies[amplitudes.argmax()] == pytest.approx(3.0)
    assert amplitudes.max() == pytest.approx(0.7)
    assert frequencies.min() > 0
    assert frequencies.max() <= 10


def test_frequency_is_weighted_by_amplitude_up_to_the_cutoff():
    seconds = np.arange(60) / 60
    temporal = 3 * np.sin(2 * np.pi * 2 * seconds) + 1 * np.cos(2 * np.pi * 6 * seconds)
    temporal += 9 * np.sin(2 * np.pi * 15 * seconds)
    assert temporal_frequency(temporal, 60.0) == pytest.approx((3 * 2 + 1 * 6) / 4)
    assert temporal_frequency(temporal, 60.0, cutoff=2.0) == pytest.approx(2.0)
    assert temporal_frequency(temporal, 60.0, cutoff=15.0) == pytest.approx((3 * 2 + 1 * 6 + 9 * 15) / 13)


def test_spectrum_has_the_energy_of_the_trace():
    temporal = np.random.default_rng(1).standard_normal(51)
    _, amplitudes = amplitude_spectrum(temporal, 30.0, cutoff=15.0)
    assert np.sum(amplitudes**2) / 2 == pytest.approx(temporal.var())


@pytest.mark.parametrize("temporal", [np.zeros(40), np.full(40, 0.3), np.ones(1)])
def test_no_change_has_no_frequency(temporal):
    assert np.isnan(temporal_frequency(temporal, 30.0))


def test_bad_frequencies_are_named():
    with pytest.raises(ValueError, match="frame_rate=0"):
        temporal_frequency(np.ones(40), 0)
    with pytest.raises(ValueError, match=r"cutoff=-1\.0"):
        amplitude_spectrum(np.ones(40), 30.0, -1.0)
    with pytest.raises(ValueError, match=r"shape \(2, 40\)"):
        amplitude_spectrum(np.ones((2, 40)), 30.0)


def test_same_main_frequency_as_openretina_of_the_same_spectrum():
    temporal = np.random.default_rng(2).standard_normal(50)
    spectrum = amplitude_spectrum(temporal, 30.0)
    assert temporal_frequency(temporal, 30.0) == pytest.approx(
        openretina_video_analysis().weighted_main_frequency(*spectrum)
    )


def test_where_openretina_is_wrong_the_sign_of_a_centre_that_is_not_in_the_middle():
    spatial = difference_of_gaussians(centre=(2, 2))
    # What is in the middle of the image is the surround of the cell.
    spatial -= 0.2 * difference_of_gaussians()
    spatial /= spatial.max()
    temporal = np.sin(np.arange(50) / 5)
    stimulus = temporal[:, None, None] * spatial

    found_temporal, found_spatial, _ = decompose(stimulus)
    their_temporal, their_spatial, _ = openretina_video_analysis().decompose_kernel(stimulus)

    np.testing.assert_allclose(found_spatial, spatial, atol=1e-10)
    np.testing.assert_allclose(found_temporal, temporal, atol=1e-10)
    np.testing.assert_allclose(their_spatial, -spatial, atol=1e-10)
    np.testing.assert_allclose(their_temporal, -temporal, atol=1e-10)


def test_where_openretina_is_wrong_zeros_and_the_explained_share():
    # Of nothing it makes a bright pixel.
    assert openretina_video_analysis().decompose_kernel(np.zeros((40, 18, 16)))[1].max() == 1
    assert not decompose(np.zeros((40, 18, 16)))[1].any()
    # Its third value is the second singular value, which does not tell how much the first explains.
    separable = np.sin(np.arange(50) / 5)[:, None, None] * difference_of_gaussians()
    assert decompose(separable)[2] == pytest.approx(1)
    assert openretina_video_analysis().decompose_kernel(separable)[2] == pytest.approx(0, abs=1e-10)


def test_where_openretina_is_wrong_the_mean_of_a_course_pulls_its_frequency_towards_zero():
    sine = 2.0 + np.sin(2 * np.pi * 3 * np.arange(50) / 30)
    theirs = openretina_video_analysis()
    assert temporal_frequency(sine, 30.0) == pytest.approx(3.0)
    assert theirs.weighted_main_frequency(*theirs.calculate_fft(sine, 30.0)) < 1.0
    # Nor does its cutoff cut: the filter lets some of what is above pass, and it counts.
    frequencies, amplitudes = theirs.calculate_fft(np.sin(2 * np.pi * 10.8 * np.arange(50) / 30), 30.0)
    assert amplitudes[frequencies > 10].max() > 0.1 * 25
    assert amplitude_spectrum(sine, 30.0)[0].max() <= 10


def test_channels_have_signs_that_make_them_positive_in_the_same_place():
    rows, columns = np.mgrid[:8, :7]
    centre = np.exp(-((rows - 3) ** 2 + (columns - 2) ** 2) / 4)
    # Of the second channel, the strongest pixel is a negative one beside the centre.
    beside = np.exp(-((rows - 6) ** 2 + (columns - 5) ** 2) / 2)
    course = np.sin(np.arange(9.0))
    stimulus = np.stack([3 * course[:, None, None] * centre, course[:, None, None] * (centre - 1.5 * beside)])
    temporal, spatial, explained = decompose_channels(stimulus)
    assert (spatial[:, 3, 2] > 0).all()
    np.testing.assert_allclose(temporal[:, :, None, None] * spatial[:, None], stimulus, atol=1e-12)
    np.testing.assert_allclose(explained, 1)
    # By itself the second channel would be turned round.
    assert decompose(stimulus[1])[1][3, 2] < 0
