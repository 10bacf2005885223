"""The chromatic landscape of a neuron, against openretina's and single calls."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import find, linear_model, still_model, video_model

import mei_lightning as ml

needs_openretina = pytest.mark.skipif(importlib.util.find_spec("openretina") is None, reason="openretina is missing")
RANGES = [(-0.4, 3.0), (-0.6, 3.0)]


def landscape(model, meis, neuron, **options):
    return ml.chromatic_landscape(model, meis, neuron, accelerator="cpu", **options)


@pytest.fixture(scope="module")
def meis():
    return find(video_model(), [("monday", 1), ("tuesday", 2)], time_steps=6, norm=4.0, max_steps=20, restarts=1)


def their_landscape(model, stimulus, session, index, **grid):
    """openretina's landscape of a stimulus ``[channels, time, height, width]``."""
    from openretina.insilico.stimulus_optimization.objective import IncreaseObjective, MeanReducer
    from openretina.insilico.tuning_analyses.response_gradient import equalize_channels, get_gradient_grid

    objective = IncreaseObjective(model, index, session, MeanReducer())
    return get_gradient_grid(equalize_channels(torch.from_numpy(stimulus)[None]), objective, **grid)


@pytest.mark.slow
@needs_openretina
@pytest.mark.parametrize(("session", "index"), [("monday", 1), ("tuesday", 2)])
def test_same_response_and_gradient_as_openretina(meis, session, index):
    gradient, response, _, *grids = their_landscape(
        video_model(), meis.stimulus.sel(neuron=f"{session}/{index}").values, session, index
    )
    # Their grid is off by some rounding, by which the corner of norm 4 leaves the limits.
    found = landscape(video_model(), meis, (session, index), contrasts=grids[0].round(6))
    np.testing.assert_allclose(found.green_contrast, grids[0], atol=1e-9)
    np.testing.assert_allclose(found.response, response, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-4, atol=1e-4 * np.abs(gradient).max())


@needs_openretina
def test_openretina_ignores_the_limits_of_its_grid_and_of_the_stimulus(meis):
    stimulus = meis.stimulus[0].values
    wide = their_landscape(video_model(), stimulus, "monday", 1, step_size=0.5)
    # Asked for contrasts from 0, it still evaluates those from -1, and says that they were from 0.
    _, response, _, said, _ = their_landscape(video_model(), stimulus, "monday", 1, start=0.0, stop=2.0, step_size=0.5)
    np.testing.assert_allclose(said, np.arange(0.0, 2.5, 0.5))
    np.testing.assert_allclose(response, wide[1])

    contrasts = [0.0, 0.5, 1.0, 1.5, 2.0]
    found = landscape(video_model(), meis, "monday/1", contrasts=contrasts)
    np.testing.assert_allclose(found.response[:3, :3], wide[1][2:, 2:], rtol=1e-4, atol=1e-5)
    # A stimulus of more than the MEI's norm is none that could be shown.
    norm_allows = np.add.outer(np.square(contrasts), np.square(contrasts)) <= 2
    np.testing.assert_array_equal(np.isfinite(found.response), norm_allows)
    # openretina also evaluates what the projector cannot show.
    limited = landscape(video_model(), meis, "monday/1", ranges=RANGES)
    assert 0 < np.isfinite(limited.response).sum() < limited.response.size
    assert np.isfinite(their_landscape(video_model(), stimulus, "monday", 1)[1]).all()


@pytest.mark.slow
def test_points_beyond_the_limits_are_not_evaluated():
    meis = find(video_model(), [("monday", 1)], time_steps=6, norm=4.0, ranges=RANGES, max_steps=20, restarts=1)
    found = landscape(video_model(), meis, ("monday", 1))
    free = landscape(video_model(), meis, ("monday", 1), ranges=[None, None])
    assert np.isfinite(free.response).all()
    mei = meis.stimulus[0].values.astype(float)
    norms = np.sqrt((mei**2).sum(axis=(1, 2, 3)))
    equalised = mei / norms[:, None, None, None] * np.sqrt((norms**2).sum() / 2)
    low, high = np.transpose(RANGES)
    evaluated = 0
    for i, green in enumerate(found.green_contrast.values):
        for j, uv in enumerate(found.UV_contrast.values):
            stimulus = equalised * np.array([green, uv])[:, None, None, None]
            extremes = stimulus.min(axis=(1, 2, 3)), stimulus.max(axis=(1, 2, 3))
            allowed = (extremes[0] >= low - 1e-5).all() and (extremes[1] <= high + 1e-5).all()
            assert np.isfinite(found.response[i, j]) == allowed
            assert np.isfinite(found.gradient[:, i, j]).all() == allowed
            evaluated += allowed
    assert 10 < evaluated < 400
    allowed = np.isfinite(found.response.values)
    np.testing.assert_allclose(found.response.values[allowed], free.response.values[allowed], rtol=1e-5)


def test_the_response_of_a_linear_neuron_is_a_plane_and_its_gradient_constant():
    model = linear_model()
    meis = find(model, [0, 1], time_steps=4, norm=3.0, max_steps=20, restarts=1)
    found = landscape(model, meis, 1, contrasts=[-1.0, -0.25, 0.5, 1.0])
    # The MEI is the kernel at the norm: of each channel the inner product with the kernel's is norm times norm.
    kernel = model.network.kernels[1].double().flatten(1).norm(dim=1).numpy()
    slopes = kernel * 3 / np.sqrt(2)
    green, uv = np.meshgrid(found.green_contrast, found.UV_contrast, indexing="ij")
    np.testing.assert_allclose(found.response, slopes[0] * green + slopes[1] * uv, rtol=1e-4, atol=1e-4)
    for channel in range(2):
        np.testing.assert_allclose(found.gradient[channel], slopes[channel], rtol=1e-4)
    np.testing.assert_allclose(found.mei_contrast, kernel / np.linalg.norm(kernel) * np.sqrt(2), rtol=1e-4)
    assert found.attrs["channel_norm"] == pytest.approx(3 / np.sqrt(2))


def test_at_the_contrast_of_the_mei_the_response_is_its_score(meis):
    contrast = landscape(video_model(), meis, "tuesday/2").mei_contrast.values
    assert np.sum(contrast**2) == pytest.approx(2)
    found = landscape(video_model(), meis, "tuesday/2", contrasts=contrast)
    assert found.response[0, 1] == pytest.approx(meis.score.sel(neuron="tuesday/2").item(), rel=1e-5)


def test_a_user_looks_at_the_colour_opponent_cell_of_the_twin(twin):
    chosen = ml.NeuronSelection(sessions=["session_1"], where={"type": "color_opponent"}, sample=1)
    meis = find(twin, chosen, search="quick")

    found = landscape(twin, meis, meis.neuron.item(), contrasts=[-1.0, 0.0, 1.0])

    # Both channels as in the MEI, which are of opposite sign, excite; a channel reversed does not.
    response = found.response.values
    assert response[2, 2] == response.max()
    assert response[2, 2] > 5 * max(response[0, 2], response[2, 0], response[0, 0])
    assert (found.gradient[:, 1, 1] > 0).all()


def test_what_has_no_landscape_is_refused(meis):
    with pytest.raises(ValueError, match=r"no neuron 'monday/7'.*monday/1, tuesday/2"):
        landscape(video_model(), meis, ("monday", 7))
    images = find(still_model(), [0], max_steps=1, restarts=1)
    with pytest.raises(ValueError, match="two channels; these have luminance"):
        landscape(still_model(), images, 0)
    with pytest.raises(ValueError, match=r"contrasts=\[\]"):
        landscape(video_model(), meis, "monday/1", contrasts=[])
    with pytest.raises(ValueError, match="one \\(low, high\\)"):
        landscape(video_model(), meis, "monday/1", ranges=[None])
    without_uv, pending = meis.copy(deep=True), meis.copy(deep=True)
    without_uv.stimulus[0, 1] = 0
    with pytest.raises(ValueError, match="'monday/1' is zero in channel 'UV'"):
        landscape(video_model(), without_uv, "monday/1")
    pending.stimulus[0], pending.status[0] = np.nan, "pending"
    with pytest.raises(ValueError, match="'monday/1' has no MEI: its status is 'pending'"):
        landscape(video_model(), pending, "monday/1")
