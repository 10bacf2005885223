"""The norm of a stimulus, said as the root mean square of its entries."""

import math
import re

import numpy as np
import pytest
from conftest import find, linear_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.sizes import norm_of_rms

NEURONS = [("monday", 0), ("tuesday", 2)]
MASK = np.arange(30).reshape(6, 5) % 3 > 0


def settings_of(**arguments):
    return ml.MEIModule(video_model(), NEURONS, time_steps=8, **arguments).problem.configuration


@pytest.mark.parametrize("mask", [None, MASK], ids=["everywhere", "masked"])
def test_entries_have_the_root_mean_square(mask):
    stimuli = find(linear_model(), [0, 1], time_steps=4, rms=0.3, mask=mask)["stimulus"].values.astype(np.float64)
    counted = stimuli.reshape(2, -1) if mask is None else stimuli[..., mask].reshape(2, -1)
    np.testing.assert_allclose(np.sqrt((counted**2).mean(axis=1)), 0.3, rtol=1e-5)


@settings(max_examples=200)
@given(norm=st.floats(1e-3, 1e3).map(lambda norm: float(f"{norm:.6g}")), entries=st.integers(1, 10**6))
def test_a_norm_divided_by_the_root_is_that_norm_again(norm, entries):
    assert norm_of_rms(norm / math.sqrt(entries), entries) == norm


@settings(max_examples=200)
@given(rms=st.floats(1e-3, 1e3), entries=st.integers(1, 10**6))
def test_the_norm_is_the_root_mean_square_times_the_root(rms, entries):
    assert norm_of_rms(rms, entries) == pytest.approx(math.sqrt(entries * rms**2), rel=1e-14)


def test_it_is_recorded_as_the_norm():
    for rms, norm in ((0.1, 0.1 * math.sqrt(480)), (4 / math.sqrt(480), 4)):
        assert settings_of(rms=rms, ranges=(-1, 1)) == settings_of(norm=norm, ranges=(-1, 1))
    assert settings_of(rms=0.1, mask=MASK) == settings_of(norm=0.1 * math.sqrt(2 * 8 * MASK.sum()), mask=MASK)
    assert settings_of(rms=0.1) != settings_of(rms=0.2)


def test_a_run_by_norm_goes_on_by_root_mean_square(tmp_path, monkeypatch):
    quick = {"time_steps": 8, "search": "quick", "max_steps": 2, "directory": tmp_path}
    found = find(video_model(), NEURONS, norm=3.0, **quick).load()
    monkeypatch.setattr(ml.StimulusModule, "training_step", lambda *_: pytest.fail("work began"))
    assert find(video_model(), NEURONS, rms=3.0 / math.sqrt(480), **quick).load().identical(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rms": 0.1, "norm": 3.0}, "norm=3.0 and rms=0.1 both say how large a stimulus is, in two ways: give one."),
        ({"rms": 0.1, "constraint": ml.FixedNorm(3.0)}, "Give either constraint, or norm (or rms), ranges and mask"),
        ({"rms": 0}, "rms=0 must be positive and finite"),
        ({"rms": math.nan}, "rms=nan must be positive"),
        ({"rms": "0.1"}, "rms='0.1' must be one positive, finite number"),
    ],
)
def test_slips_are_refused_in_one_line(arguments, message, monkeypatch):
    monkeypatch.setattr("mei_lightning.problem.load_model", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(ml.MEIError, match=re.escape(message)) as refused:
        find(video_model(), NEURONS, **arguments)
    assert "\n" not in str(refused.value)


def test_methods_take_it():
    found = ml.cluster_by_stimulus(video_model(), [("monday", 0), ("monday", 1)], 2, steps=1, time_steps=8, rms=0.2)
    norms = np.linalg.norm(found["stimulus"].values.reshape(found.sizes["cluster_number"], -1), axis=1)
    np.testing.assert_allclose(norms, 0.2 * math.sqrt(480), rtol=1e-5)
    diverse = ml.find_diverse_stimuli(
        video_model(), [("monday", 0)], 2, max_steps=2, time_steps=8, rms=0.2, search="quick", progress_bar=False
    )
    np.testing.assert_allclose(np.sqrt((diverse["stimulus"] ** 2).mean(("channel", "time", "y", "x"))), 0.2, rtol=1e-5)
