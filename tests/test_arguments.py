"""Arguments of a wrong type: one message that names the value and the way out, before any work."""

import re

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, video_model

import mei_lightning as ml

ARRAY = np.ones((2, 8, 6, 5), dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "named", "way_out"),
    [
        ({"robustness": ml.Jitter(1)}, "robustness=Jitter(space=1, time=0)", "robustness=[Jitter(space=1, time=0)]"),
        ({"robustness": ml.Jitter}, "robustness=[Jitter] is a class", "robustness=[Jitter(...)]"),
        ({"robustness": [ml.Noise(0.1), ml.Jitter]}, "robustness=[Jitter] is a class", "robustness=[Jitter(...)]"),
        ({"robustness": ["Jitter"]}, "robustness: 'Jitter' is not a Robustness", "robustness=[Jitter(...)]"),
        ({"robustness": "Nois"}, "robustness: 'Nois' is not a Robustness", "robustness=[Noise(...)]"),
        ({"robustness": None}, "type NoneType is not a Robustness", "leave it out"),
        ({"initial": "PinkNoise"}, "initial: 'PinkNoise' is not an InitialStimuli", "initial=PinkNoise(...)"),
        ({"initial": "meis.zarr"}, "initial: 'meis.zarr' is not", "initial=GivenStimuli(...)"),
        ({"initial": ml.PinkNoise}, "initial=PinkNoise is a class", "initial=PinkNoise(...)"),
        ({"initial": ARRAY}, "initial: a value of type ndarray is not", "initial=GivenStimuli(...)"),
        ({"initial": torch.ones(3)}, "initial: a value of type Tensor is not", "initial=GivenStimuli(...)"),
        ({"initial": xr.Dataset()}, "initial: a value of type Dataset is not", "initial=GivenStimuli(...)"),
        ({"parameterization": ml.LowRank}, "parameterization=LowRank is a class", "parameterization=LowRank(...)"),
        ({"parameterization": "LowRnk"}, "'LowRnk' is not a Parameterization", "parameterization=LowRank(...)"),
        ({"parameterization": 2}, "parameterization: 2 is not a Parameterization", "parameterization=LowRank(rank=1)"),
        (
            {"optimizer": torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)},
            "optimizer: SGD does not make an optimizer",
            "optimizer=functools.partial(torch.optim.SGD, lr=10.0)",
        ),
        ({"optimizer": "Adam"}, "optimizer: 'Adam' does not make", "optimizer=functools.partial("),
    ],
)
def test_an_argument_of_a_wrong_type_is_named_with_the_way_out(arguments, named, way_out, monkeypatch):
    message = f"{re.escape(named)}.*{re.escape(way_out)}"
    if "initial" not in arguments:
        with pytest.raises(TypeError, match=message):
            ml.StimulusModule(lambda x: x.flatten(1).sum(1), torch.ones(1, 2, 8, 6, 5), **arguments)
    # Before the model is loaded.
    monkeypatch.setattr("mei_lightning.problem.load_model", lambda *_, **__: pytest.fail("work began"))
    with pytest.raises(TypeError, match=message) as refused:
        find(video_model(), [("monday", 0)], **arguments)
    assert "array(" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.Fourier(temporal=4.0), "Fourier(temporal=4.0) must be (low, high)"),
        (lambda: ml.Fourier(spatial="ab"), "Fourier(spatial='ab') must be (low, high)"),
        (lambda: ml.Fourier(temporal=("1", "2")), "Fourier(temporal=('1', '2')) must be (low, high)"),
        (lambda: ml.Fourier(decay="1"), "Fourier(decay='1') must be"),
        (lambda: ml.Fourier(micrometres_per_degree="31"), "Fourier(micrometres_per_degree='31') must be"),
        (lambda: ml.LowRank(rank=1.5), "LowRank(rank=1.5) must be a whole number"),
        (lambda: ml.LowRank(rank="2"), "LowRank(rank='2') must be a whole number"),
        (lambda: ml.Pyramid(2.5), "Pyramid(levels=2.5) must be a whole number"),
        (lambda: ml.ImplicitNetwork(hidden=8.5), "ImplicitNetwork(hidden=8.5) must be a whole number"),
        (lambda: ml.ImplicitNetwork(frequency="10"), "ImplicitNetwork(frequency='10') must be positive"),
        (lambda: ml.BestNaturalClip(clips=1.5), "BestNaturalClip(clips=1.5) has to be a whole number"),
        (lambda: ml.PinkNoise("1"), "PinkNoise(amplitude='1') has to be positive"),
        (lambda: ml.GivenStimuli(ARRAY, noise="1"), "GivenStimuli(noise='1') has to be"),
        (lambda: ml.Noise("0.1"), "Noise(standard_deviation='0.1') has to be positive"),
        (lambda: ml.Jitter(space="1"), "Jitter(space='1', time=0) needs whole numbers"),
    ],
)
def test_a_number_of_a_wrong_type_is_named(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_numbers_of_numpy_are_numbers():
    ml.LowRank(np.int64(2)), ml.PinkNoise(np.float32(0.5)), ml.Jitter(np.int32(1)), ml.Noise(np.float64(0.1))
    assert ml.Fourier(temporal=np.array([1.0, 4.0])).temporal == (1.0, 4.0)


def test_a_step_follows_one_member():
    ensemble = ml.Ensemble([video_model(), video_model(1)])
    with pytest.raises(ValueError, match=r"RandomMember\(\) more than once.*Name it once"):
        ml.MEIModule(ensemble, [("monday", 0)], time_steps=8, robustness=[ml.RandomMember(), ml.RandomMember()])
