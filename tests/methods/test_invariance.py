"""Paths of constant response between two stimuli."""

import numpy as np
import pytest
import torch
from conftest import linear_model, video_model

import mei_lightning as ml

QUIET = {"progress_bar": False, "search": "quick"}


@pytest.mark.slow
def test_the_response_stays_within_2_percent_between_different_stimuli(simulated):
    neurons = [("session_1", i) for i in range(8)]
    paths = ml.find_invariance_paths(simulated, neurons, points=7, time_steps=24, **QUIET)
    assert paths["stimulus"].shape == (8, 7, 2, 24, 18, 16)
    np.testing.assert_allclose(paths["score"] / paths["level"], 1, atol=0.02)
    response = [
        simulated(torch.from_numpy(paths["stimulus"].values[n]), "session_1")[:, :, n].mean(dim=1) for n in range(8)
    ]
    np.testing.assert_allclose(torch.stack(response), paths["score"], rtol=1e-4)
    meis = ml.find_meis(simulated, neurons, time_steps=24, **QUIET)
    assert (paths["level"] >= 0.85 * meis["score"]).all()
    ends = paths["stimulus"].values[:, [0, -1]].reshape(8, 2, -1)
    apart = (ends[:, 0] * ends[:, 1]).sum(1) / np.linalg.norm(ends[:, 0], axis=1) / np.linalg.norm(ends[:, 1], axis=1)
    # Every step is a small part of the way.
    assert (paths["step"].min("between") > apart + 0.5 * (1 - apart)).all()


def test_given_ends_of_equal_response_stay():
    model = linear_model()
    kernel = model.network.kernels.detach()[1]
    direction = kernel / kernel.norm()
    aside = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    aside -= (aside * direction).sum() * direction
    aside /= aside.norm()
    ends = torch.stack([1.2 * direction + 1.6 * aside, 1.2 * direction - 1.6 * aside])[None]
    paths = ml.find_invariance_paths(model, [1], 5, ends, time_steps=4, norm=2.0, **QUIET)
    level = 1.2 * kernel.norm().item()
    assert paths["level"].item() == pytest.approx(level, rel=1e-5)
    np.testing.assert_allclose(paths["score"], level, rtol=0.02)
    np.testing.assert_allclose(paths["stimulus"].values[0, [0, -1]], ends[0], atol=2e-2)
    np.testing.assert_allclose(np.linalg.norm(paths["stimulus"].values.reshape(5, -1), axis=1), 2, rtol=1e-5)


@pytest.mark.slow
def test_neurons_do_not_know_of_each_other():
    neurons = [("monday", 0), ("tuesday", 1), ("monday", 3)]
    options = {"points": 4, "time_steps": 8, "max_steps": 10, **QUIET}
    together = ml.find_invariance_paths(video_model(), neurons, **options)
    alone = ml.find_invariance_paths(video_model(), neurons[2:], **options)
    np.testing.assert_allclose(alone["stimulus"], together["stimulus"][[2]], atol=1e-4)


def test_a_path_that_misses_its_level_is_told():
    kernel = linear_model().network.kernels.detach()[1]
    ends = torch.stack([kernel, -kernel])[None]
    with pytest.warns(UserWarning, match="not constant on the path of 1: some points are more than 2% off"):
        ml.find_invariance_paths(linear_model(), [1], ends=ends, time_steps=4, max_steps=1, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 2}, "points=2"),
        ({"ends": torch.zeros(1, 2, 2, 5, 6, 5)}, r"ends of shape .* should be \(1, 2, 2, 4"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ml.find_invariance_paths(linear_model(), [1], time_steps=4, **QUIET, **options)
