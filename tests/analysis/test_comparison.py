"""MEIs beside other stimuli for the same neurons, against what numpy and the model say of each pair alone."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, still_model, video_model

import mei_lightning as ml

NEURONS = [("tuesday", 2), [("monday", 1), ("tuesday", 0)], ("monday", 3)]


@pytest.fixture(scope="module")
def meis():
    return find(video_model(), NEURONS, time_steps=6, max_steps=4, restarts=1, norm=3.0)


def cosine(one, other):
    return np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)


def mean_response(model, stimulus, target):
    members = [target] if isinstance(target, tuple) else target
    stimulus = torch.as_tensor(stimulus, dtype=torch.float32)[None]
    traces = [model(stimulus, data_key=session)[0, :, index] for session, index in members]
    return torch.stack(traces).mean().item()


@pytest.mark.parametrize("shift", range(-5, 6))
def test_a_stimulus_that_is_moved_in_time_is_found_again(shift):
    rng = np.random.default_rng(shift + 5)
    own = np.zeros((1, 2, 16, 3, 4))
    own[:, :, 6:10] = rng.standard_normal((1, 2, 4, 3, 4))
    dims = ("neuron", "channel", "time", "y", "x")
    coordinates = {"neuron": ["a/0"], "time": ("time", np.arange(16) / 30, {"units": "s"})}
    meis = xr.Dataset({"stimulus": (dims, own)}, coordinates)
    moved = np.roll(own, shift, axis=2)

    compared = ml.compare_meis(meis, meis.assign(stimulus=(dims, moved * 7)))

    np.testing.assert_allclose(compared["similarity"], [cosine(own, moved)], atol=1e-12)
    np.testing.assert_allclose(compared["aligned_similarity"], [1.0])
    np.testing.assert_allclose(compared["shift"], [shift / 30])
    assert compared["shift"].attrs["units"] == "s"


def test_each_model_is_shown_the_meis_of_both(meis):
    models = [video_model(), video_model(seed=1)]
    other = find(models[1], NEURONS[::-1], time_steps=6, max_steps=4, restarts=1, norm=5.0)

    compared = ml.compare_meis(meis, other, models, progress_bar=False)

    assert compared["neuron"].values.tolist() == meis["neuron"].values.tolist()
    for number, target in enumerate(NEURONS):
        pair = meis["stimulus"].values[number], other["stimulus"].sel(neuron=meis["neuron"][number]).values
        expected = [[mean_response(model, stimulus, target) for stimulus in pair] for model in models]
        np.testing.assert_allclose(compared["response"][number], expected, rtol=1e-5)
        np.testing.assert_allclose(compared["similarity"][number], cosine(*pair), rtol=1e-5)
    assert compared["response"].dims == ("neuron", "model", "stimulus")
    assert compared["stimulus"].values.tolist() == ["MEI", "other"]


def test_averages_of_some_neurons_are_shown_with_the_norm_of_the_meis(meis):
    rng = np.random.default_rng(0)
    averages = meis["stimulus"].isel(neuron=[2, 0]).copy(data=rng.standard_normal((2, 2, 6, 6, 5)))
    averages[1] = np.nan
    averages = averages.transpose("x", "y", "time", "channel", "neuron")

    compared = ml.compare_meis(meis, averages, [video_model()], equal_norm=True, progress_bar=False)

    assert compared["neuron"].values.tolist() == ["tuesday/2", "monday/3"]
    average = averages.sel(neuron="monday/3").transpose("channel", "time", "y", "x").values
    scaled = 3.0 * average / np.linalg.norm(average)
    expected = mean_response(video_model(), scaled, ("monday", 3))
    np.testing.assert_allclose(compared["response"].sel(neuron="monday/3", stimulus="other"), [expected], rtol=1e-5)
    assert compared.sel(neuron="tuesday/2")[["similarity", "aligned_similarity", "shift"]].to_array().isnull().all()
    assert compared["response"].sel(neuron="tuesday/2").isnull().all()


def test_what_cannot_be_compared_is_refused(meis):
    with pytest.raises(ValueError, match=r"no neuron that both have: tuesday/2, .* none of friday/1"):
        ml.compare_meis(meis, meis.isel(neuron=[0]).assign_coords(neuron=["friday/1"]))
    with pytest.raises(ValueError, match=r"time 6, .* time 5, .* give stimuli of one shape"):
        ml.compare_meis(meis, meis.isel(time=slice(5)))
    with pytest.raises(ValueError, match=r"stimuli have neuron, channel, time, y, x, and the labels"):
        ml.compare_meis(meis, xr.DataArray(np.zeros((3, 4)), dims=("neuron", "time")))
    with pytest.raises(ValueError, match="takes stimuli of shape"):
        ml.compare_meis(meis, meis, [still_model()])
