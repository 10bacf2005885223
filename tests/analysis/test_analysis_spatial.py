"""The fit of a difference of Gaussians, and the shape that clipping hides, against images that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mei_lightning.analysis.decomposition import decompose, unclipped_shape
from mei_lightning.analysis.spatial import fit_difference_of_gaussians


def gaussian(shape, y, x, sd):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sd**2))


def centre_surround(shape, y, x, sd, ratio, strength):
    """A centre of volume 1 and a surround of volume ``strength``, scaled to a maximum of 1."""
    volumes = [gaussian(shape, y, x, value) / (2 * np.pi * value**2) for value in (sd, ratio * sd)]
    image = volumes[0] - strength * volumes[1]
    return image / image.max()


@settings(max_examples=150)
@given(
    y=st.floats(2, 15),
    x=st.floats(2, 13),
    sd=st.floats(0.8, 2.5),
    ratio=st.floats(1.6, 3.0),
    strength=st.floats(0.1, 0.9),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
)
def test_parameters_are_recovered(y, x, sd, ratio, strength, scale):
    fit = fit_difference_of_gaussians(scale * centre_surround((18, 16), y, x, sd, ratio, strength))
    assert fit.r2 > 0.9999
    np.testing.assert_allclose([fit.y, fit.x], [y, x], atol=0.02)
    assert fit.centre_sd == pytest.approx(sd, rel=0.03)
    assert fit.surround_sd == pytest.approx(ratio * sd, rel=0.1)
    assert fit.surround_strength == pytest.approx(strength, abs=0.05)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), sd=st.floats(1.0, 2.5), y=st.floats(3, 14), x=st.floats(3, 12))
def test_noise_moves_the_centre_by_little_and_r2_is_the_explained_variance(seed, sd, y, x):
    image = centre_surround((18, 16), y, x, sd, 2.0, 0.5)
    noise = 0.05 * np.random.default_rng(seed).standard_normal(image.shape)
    fit = fit_difference_of_gaussians(image + noise)
    np.testing.assert_allclose([fit.y, fit.x], [y, x], atol=0.3)
    assert fit.centre_sd == pytest.approx(sd, rel=0.25)
    # Least squares with 6 parameters explains at least what the truth does.
    explained = 1 - np.sum(noise**2) / np.sum((image + noise - (image + noise).mean()) ** 2)
    assert explained - 1e-6 <= fit.r2 <= explained + 0.1


def test_a_centre_alone_has_no_surround():
    fit = fit_difference_of_gaussians(gaussian((18, 16), 7.3, 8.8, 1.7))
    assert fit.centre_sd == pytest.approx(1.7, rel=1e-3)
    assert fit.surround_strength == pytest.approx(0, abs=1e-3)
    assert np.isnan(fit.surround_sd)


def test_a_centre_at_the_edge_and_another_shape_of_image():
    fit = fit_difference_of_gaussians(centre_surround((24, 40), 0.2, 38.6, 3.0, 2.0, 0.4))
    np.testing.assert_allclose([fit.y, fit.x, fit.centre_sd], [0.2, 38.6, 3.0], rtol=0.02, atol=0.02)


def test_a_grating_is_not_a_centre_with_a_surround():
    assert fit_difference_of_gaussians(np.cos(np.arange(16) * 2.0) * np.ones((18, 1))).r2 < 0.3


@pytest.mark.parametrize("image", [np.zeros((18, 16)), np.ones((18, 16)), -gaussian((9, 9), 4, 4, 1) - 1, [[1.0]]])
def test_what_has_no_centre_has_no_fit(image):
    fit = fit_difference_of_gaussians(image)
    assert np.isnan([fit.y, fit.x, fit.centre_sd, fit.surround_sd, fit.surround_strength, fit.r2]).all()


def test_other_images_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 18, 16\)"):
        fit_difference_of_gaussians(np.zeros((2, 18, 16)))


@settings(max_examples=25)
@given(limit=st.floats(0.15, 0.9), sd=st.floats(1.0, 2.5), sign=st.sampled_from([1, -1]))
def test_the_shape_behind_clipping(limit, sd, sign):
    spatial = centre_surround((18, 16), 8.4, 7.1, sd, 1.8, 0.6)
    stimulus = sign * np.sin(np.arange(40) / 4)[:, None, None] * spatial
    clipped = np.clip(stimulus, -limit, limit)
    found = unclipped_shape(clipped, np.abs(clipped) >= limit)
    np.testing.assert_allclose(found, spatial, atol=0.01)
    # Which the decomposition alone does not find.
    assert np.abs(decompose(clipped)[1] - spatial).max() > np.abs(found - spatial).max()


def test_without_clipping_it_is_the_decomposition():
    stimulus = np.random.default_rng(0).standard_normal((20, 9, 8))
    np.testing.assert_array_equal(unclipped_shape(stimulus, stimulus > 9), decompose(stimulus)[1])
    assert not unclipped_shape(np.zeros((5, 4, 3)), np.ones((5, 4, 3), dtype=bool)).any()


def test_what_is_always_clipped_is_as_in_the_decomposition():
    stimulus = np.random.default_rng(0).standard_normal((20, 9, 8))
    everything = np.ones(stimulus.shape, dtype=bool)
    np.testing.assert_allclose(unclipped_shape(stimulus, everything), decompose(stimulus)[1])
    one_pixel = np.zeros(stimulus.shape, dtype=bool)
    one_pixel[:, 2, 3] = True
    assert np.isfinite(unclipped_shape(stimulus, one_pixel)).all()
    with pytest.raises(ValueError, match=r"is_clipped has \(2, 3\)"):
        unclipped_shape(stimulus, np.ones((2, 3)))
