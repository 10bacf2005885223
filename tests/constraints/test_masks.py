"""Which pixels may vary, as an argument of a run."""

import json
import re

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, linear_model, video_model

import mei_lightning as ml

NEURONS = [("monday", 0), ("tuesday", 2)]
QUICK = {"time_steps": 8, "search": "quick", "max_steps": 6}
CENTRE = np.zeros((6, 5), dtype=bool)
CENTRE[1:4, 2:] = True
GROWING = np.arange(8)[:, None, None] + np.arange(30).reshape(6, 5) > 15
GREEN = np.stack([GROWING, np.zeros_like(GROWING)])


@pytest.mark.parametrize("mask", [CENTRE, GROWING, GREEN, np.array([True, False])], ids=lambda mask: str(mask.shape))
def test_outside_of_the_mask_a_stimulus_is_grey_and_inside_it_has_the_norm(mask):
    meis = find(video_model(), NEURONS, mask=mask, norm=3.0, ranges=(-1, 2), **QUICK)
    free = np.broadcast_to(mask[:, None, None, None] if mask.ndim == 1 else mask, (2, 8, 6, 5))
    stimuli = meis["stimulus"].values
    assert (stimuli[:, ~free] == 0).all()
    assert np.abs(stimuli[:, free]).max(axis=1).min() > 0
    np.testing.assert_allclose(np.linalg.norm(stimuli.reshape(2, -1), axis=1), 3.0, rtol=1e-5)
    assert (stimuli >= -1 - 1e-6).all()
    assert (stimuli <= 2 + 1e-6).all()


def test_the_mei_of_a_linear_neuron_is_its_kernel_under_the_mask():
    model = linear_model()
    kernels = next(model.parameters()).detach().numpy()
    meis = find(model, [0, 1, 2], time_steps=4, mask=CENTRE, norm=2.0)
    expected = kernels * CENTRE
    expected *= 2.0 / np.linalg.norm(expected.reshape(3, -1), axis=1)[:, None, None, None, None]
    np.testing.assert_allclose(meis["stimulus"].values, expected, atol=2e-3)


def test_without_a_norm_the_root_mean_square_of_the_free_pixels_is_the_papers():
    meis = find(linear_model(), 0, time_steps=4, mask=CENTRE)
    free = meis["stimulus"].values[0][:, :, CENTRE]
    assert np.sqrt((free.astype(np.float64) ** 2).mean()) == pytest.approx(30 / np.sqrt(2 * 50 * 18 * 16), rel=1e-5)


def settings_of(**settings):
    return ml.MEIModule(video_model(), NEURONS, time_steps=8, **settings).problem.configuration


def test_a_mask_is_short_for_a_constraint():
    short = settings_of(mask=CENTRE, norm=3.0, ranges=[(-1, 2), None])
    assert short == settings_of(constraint=ml.NormAndRange(3.0, [(-1.0, 2.0), None], mask=torch.tensor(CENTRE)))
    assert settings_of(norm=3.0) == settings_of(constraint=ml.NormAndRange(3.0))
    assert short != settings_of(mask=~CENTRE, norm=3.0, ranges=[(-1, 2), None])


@pytest.mark.parametrize(
    "same",
    [
        CENTRE.astype(np.float32),
        CENTRE.astype(int).tolist(),
        torch.tensor(CENTRE),
        torch.tensor(CENTRE).double(),
        "mask.npy",
    ],
    ids=lambda same: type(same).__name__,
)
def test_equal_masks_are_the_same_settings(same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mask.npy", CENTRE)
    configuration = settings_of(mask=same)
    assert configuration == settings_of(mask=CENTRE)
    json.dumps(configuration, allow_nan=False)


def test_a_run_goes_on_with_an_equal_mask_and_is_refused_with_another(tmp_path):
    first = find(video_model(), NEURONS, mask=CENTRE, directory=tmp_path, **QUICK)
    again = find(video_model(), NEURONS, mask=CENTRE.astype(float), directory=tmp_path, **QUICK)
    xr.testing.assert_identical(first.load(), again.load())
    for other in (~CENTRE, None):
        with pytest.raises(ValueError, match=r"constraint\.mask"):
            find(video_model(), NEURONS, mask=other, directory=tmp_path, **QUICK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((6, 5)), "The mask (6, 5) is empty: no pixel is free"),
        (np.where(CENTRE, 1.0, np.nan), "other values were found, such as nan."),
        (np.where(CENTRE, 1.0, 0.5), "other values were found, such as 0.5."),
        (np.ones((1, 2, 8, 6, 5)), "mask of shape (1, 2, 8, 6, 5): give [height, width]"),
        (np.ones((5, 6)), "mask of shape (5, 6) does not broadcast to a stimulus"),
        (np.ones((9, 6, 5)), "mask of shape (9, 6, 5) does not broadcast"),
        (np.ones((0, 5)), "is empty: no pixel is free"),
        (1, "mask=1 must be an array of zeros and ones, e.g. of shape [height, width]"),
        ([[1], [1, 0]], "mask=[[1], [1, 0]] must be an array"),
        ([["a"]], "mask=[['a']] must be an array"),
        ({"y": 1}, "mask={'y': 1} must be an array"),
        ("nothing.npy", "There is no array at nothing.npy."),
    ],
    ids=str,
)
def test_a_bad_mask_is_refused_in_one_line(mask, message, monkeypatch):
    monkeypatch.setattr("mei_lightning.problem.try_model", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(ml.MEIError, match=re.escape(message)) as refused:
        find(video_model(), NEURONS, mask=mask, time_steps=8)
    assert "\n" not in str(refused.value)


def test_a_mask_and_a_constraint_are_refused():
    with pytest.raises(ValueError, match=r"Give either constraint, or norm \(or rms\), ranges and mask"):
        find(video_model(), NEURONS, mask=CENTRE, constraint=ml.FixedNorm(3.0))


def test_a_norm_that_the_free_pixels_cannot_have_is_refused():
    one = np.zeros((6, 5))
    one[2, 2] = 1
    with pytest.raises(ValueError, match=r"norm=9 cannot be reached within ranges.* is 4\."):
        find(video_model(), NEURONS, mask=one, norm=9.0, ranges=(-1, 1), time_steps=8)


@pytest.mark.slow
def test_methods_keep_to_the_mask():
    options = {"time_steps": 8, "mask": CENTRE, "norm": 3.0, "search": "quick", "progress_bar": False}
    model, neuron = video_model(), [("monday", 1)]
    found = [
        ml.find_diverse_stimuli(model, neuron, number=2, max_steps=3, **options),
        ml.find_surrounds(model, neuron, centre=0.9, starts=1, max_steps=3, **options),
        ml.cluster_by_stimulus(
            model, [("monday", 0), ("monday", 1)], 2, steps=2, time_steps=8, mask=CENTRE, norm=3.0, seed=1
        ),
    ]
    for dataset in found:
        stimuli = dataset["stimulus"].values
        assert stimuli[..., CENTRE].any()
        assert not stimuli[..., ~CENTRE].any()
