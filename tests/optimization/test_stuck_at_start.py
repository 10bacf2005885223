"""The warning of stimuli that count as converged, and are still the noise that they began with."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import find, linear_model, still_model, video_model
from torch import nn

import mei_lightning as ml

NEURONS = [("monday", 0), ("tuesday", 1), ("monday", 3)]
SGD, ADAM = partial(torch.optim.SGD, lr=1e-5), partial(torch.optim.Adam, lr=1e-7)


def warnings_of(recwarn):
    return [str(warning.message) for warning in recwarn if "still the noise" in str(warning.message)]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"optimizer": SGD}, "Try a larger learning rate of SGD."),
        ({"optimizer": ADAM}, "Try a larger learning rate of Adam."),
        ({"optimizer": ADAM, "parameterization": ml.LowRank(1)}, "Try a larger learning rate of Adam."),
        ({"optimizer": ADAM, "parameterization": ml.ImplicitNetwork(8)}, "Try a larger learning rate of Adam."),
        ({"optimizer": SGD, "initial": ml.PinkNoise()}, "Try a larger learning rate of SGD."),
        ({"optimizer": SGD, "regularizer": ml.TemporalSmoothness(1e-3)}, "Try a larger learning rate of SGD."),
    ],
    ids=["SGD", "Adam", "low rank", "network", "pink", "cost"],
)
def test_neurons_that_are_still_their_initial_noise_are_named(options, advice, recwarn, tmp_path):
    find(video_model(), NEURONS, time_steps=8, directory=tmp_path, **options)
    (warning,) = warnings_of(recwarn)
    assert warning.endswith(f", and perhaps others. {advice}")
    if "optimizer" in options:
        assert ": monday/0, tuesday/1, monday/3, and" in warning


@pytest.mark.slow
def test_jitter_as_large_as_the_image(twin, recwarn):
    found = find(twin, [("session_1", 0), ("session_1", 5)], robustness=[ml.Jitter(space=15, time=39)])
    assert (found["status"] == "converged").all()
    (warning,) = warnings_of(recwarn)
    assert "session_1/0" in warning
    assert warning.endswith("Try less of Jitter(space=15, time=39), or longer steps of AdaptivePowerMethod.")


class OnePixel(nn.Module):
    """The optimum at a norm is where every second initial stimulus is."""

    def forward(self, image):
        return image.flatten(1)


GOOD = {
    "movie": (video_model, NEURONS, {"time_steps": 8}),
    "still": (still_model, [0, 1, 2, 3, 4], {}),
    "linear": (linear_model, [0, 1, 2], {"time_steps": 4}),
    "simulated": (ml.SimulatedRetina, [("session_1", number) for number in range(12)], {"search": "quick"}),
    "robust": (
        ml.DigitalTwin,
        [("session_1", 5), ("session_1", 7)],
        {"robustness": [ml.Jitter(2, 2), ml.Noise(0.3)], "search": "quick"},
    ),
    # What withstands much can be worth less than one step of what withstands nothing.
    "very robust": (video_model, NEURONS[1:], {"time_steps": 8, "robustness": [ml.Jitter(1, 1), ml.Noise(0.1)]}),
    "SGD": (linear_model, [0, 1, 2], {"time_steps": 4, "optimizer": partial(torch.optim.SGD, lr=1.0)}),
    "clip": (video_model, NEURONS, {"time_steps": 8, "initial": ml.BestNaturalClip(5), "optimizer": SGD}),
    "one pixel": (
        lambda: ml.RetinaModel(OnePixel(), ml.StimulusFormat(("grey",), 1, 1), 1),
        [0],
        {"restarts": 16, "optimizer": SGD},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_runs_are_not_warned_of(name, recwarn):
    model, neurons, options = GOOD[name]
    found = find(model(), neurons, **options)
    assert "converged" in found["status"]
    assert not warnings_of(recwarn)


def test_what_begins_at_the_optimum_is_no_failure(recwarn):
    options = {"time_steps": 8, "restarts": 1}
    meis = find(video_model(), NEURONS, **options)
    again = find(video_model(), NEURONS, initial=ml.GivenStimuli(meis), optimizer=SGD, **options)
    np.testing.assert_allclose(again["score"], meis["score"], rtol=1e-3)
    assert not warnings_of(recwarn)
