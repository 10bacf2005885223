"""Arguments of a wrong type: one message that names the value and the way out, before any work."""

import json
import re
from contextlib import contextmanager
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import STILL_FORMAT, VIDEO_FORMAT, LinearNetwork, StillNetwork, find, linear_model, video_model
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.arguments import in_short
from mei_lightning.settings import MEISettings

ARRAY = np.ones((2, 8, 6, 5), dtype=np.float32)


@pytest.mark.slow
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


@pytest.mark.parametrize("whole", [np.int64, torch.tensor])
def test_numbers_of_a_run_can_be_those_of_numpy(whole, tmp_path):
    facts = ml.StimulusFormat(
        ["green", "UV"],
        whole(6),
        whole(5),
        frame_rate=np.float32(30),
        mean=np.array([37, 36], dtype=np.float32),
        sd=np.array([29, 40], dtype=np.float32),
        frames_lost=whole(3),
    )
    model = ml.RetinaModel(LinearNetwork(3), facts, whole(3))
    settings = {"seed": 3, "time_steps": 4, "max_steps": 2, "restarts": 2, "rows_per_device": 4}
    given = {name: whole(value) for name, value in settings.items()}
    found = find(model, [whole(1)], directory=tmp_path, devices=whole(1), norm=np.float32(3), **given)
    # As JSON it is what plain numbers are: the run is known again.
    again = find(model, [1], directory=tmp_path, norm=3, **settings)
    assert found.identical(again)
    ml.export_for_experiment(found, tmp_path / "shown", ["1"], clip=True, gap=np.float32(0.5), repeats=whole(2))
    assert json.loads((tmp_path / "shown" / "stimuli.json").read_text())["gap_s"] == 0.5
    ml.save_stimulus_to_gif(found["stimulus"][0].values, tmp_path / "slow.gif", fps=np.float32(10))


def test_a_step_follows_one_member():
    ensemble = ml.Ensemble([video_model(), video_model(1)])
    with pytest.raises(ValueError, match=r"RandomMember\(\) more than once.*Name it once"):
        ml.MEIModule(ensemble, [("monday", 0)], time_steps=8, robustness=[ml.RandomMember(), ml.RandomMember()])


SLIPS = [
    ({"norm": []}, "norm=[] is empty: give at least one norm"),
    ({"norm": np.ones(0)}, "norm=[] is empty: give at least one norm"),
    ({"norm": [5, 10, 5.0]}, "norm=[5, 10, 5.0] names 5 more than once"),
    ({"norm": [5, -10]}, "norm=-10 must be positive and finite, as each value of a list"),
    ({"norm": (5, np.nan)}, "norm=nan must be positive and finite, as each"),
    ({"norm": [5, "10"]}, "norm='10' must be one positive, finite number, as each value of a list"),
    ({"norm": [5, None]}, "norm=None must be one positive, finite number, as each"),
    ({"norm": [[5, 10]]}, "norm=[5, 10] must be one positive, finite number, as each"),
    ({"norm": {5: 10}}, "norm={5: 10} must be one positive, finite number"),
    ({"norm": [5, 10], "rms": 0.1}, "norm=[5, 10] and rms=0.1 both say how large a stimulus is"),
    ({"norm": [5, 10], "constraint": ml.FixedNorm(1.0)}, "Give either constraint, or norm (or rms), ranges and mask"),
    ({"norm": [5, 1e4], "ranges": (-1, 1), "time_steps": 8}, "norm=10000 cannot be reached within ranges"),
    ({"rms": [0.1, 0]}, "rms=0 must be positive and finite, as each value of a list"),
    ({"norm": "30"}, "norm='30' must be one"),
    ({"norm": True}, "norm=True must be one"),
    ({"norm": -1}, "norm=-1 must be positive"),
    ({"norm": np.nan}, "norm=nan must be positive"),
    ({"norm": np.ones(2)}, "norm=[1.0, 1.0] names 1 more than once"),
    ({"ranges": 3}, "ranges=3: give one (low, high) for each channel"),
    ({"ranges": "ab"}, "ranges='ab': give one (low, high)"),
    ({"ranges": True}, "ranges=True: give one"),
    ({"ranges": [(-1, "1"), None]}, "ranges=[(-1, '1'), None]: give one"),
    ({"ranges": [(-1, 0, 1), None]}, "ranges=[(-1, 0, 1), None]: give one"),
    ({"ranges": np.ones((2, 2, 2))}, "ranges=ndarray of shape (2, 2, 2): give one"),
    ({"ranges": [(-1, 1)] * 3}, "3 channel range(s) for a stimulus of 2 channel(s)"),
    ({"ranges": (1, -1)}, "The range (1.0, -1.0) of channel 0 is empty"),
    ({"seed": 1.5}, "seed=1.5 must be a whole number."),
    ({"seed": "1"}, "seed='1' must be a whole number."),
    ({"seed": None}, "seed=None must be a whole number."),
    ({"seed": True}, "seed=True must be a whole number."),
    ({"time_steps": "8"}, "time_steps='8' must be a whole number."),
    ({"time_steps": 8.0}, "time_steps=8.0 must be a whole number."),
    ({"time_steps": [8, 9]}, "time_steps=[8, 9] must be a whole number."),
    ({"time_steps": -8}, "time_steps=-8 must be at least 1."),
    ({"restarts": "2"}, "restarts='2' must be a whole number."),
    ({"restarts": -2}, "restarts=-2 must be at least 1."),
    ({"max_steps": 2.5}, "max_steps=2.5 must be a whole number."),
    ({"max_steps": True}, "max_steps=True must be a whole number."),
    ({"max_steps": -1}, "max_steps=-1 leaves nothing to do"),
    ({"rows_per_device": "all"}, "rows_per_device='all' must be a whole number."),
    ({"rows_per_device": 0}, "rows_per_device=0 must be at least 1."),
    ({"search": "fast"}, "search='fast': choose one of quick, normal, thorough"),
    ({"search": ["quick"]}, "search=['quick']: choose one of"),
    ({"search": 3}, "search=3: choose one of"),
    ({"search": ml.MultiStart}, "search=MultiStart is a class"),
    ({"fast_path": "yes"}, "fast_path='yes': choose True, False or 'bfloat16'."),
    ({"fast_path": [1]}, "fast_path=[1]: choose True"),
    ({"reducer": "mean"}, "reducer: 'mean' is not a Reducer. Give reducer=MeanReducer()"),
    ({"reducer": ml.MeanReducer}, "reducer=MeanReducer is a class"),
    ({"reducer": 0}, "reducer: 0 is not a Reducer"),
    ({"regularizer": 0.1}, "regularizer: 0.1 is not a Regularizer. Give regularizer=TemporalSmoothness()"),
    ({"regularizer": ml.TemporalSmoothness}, "regularizer=TemporalSmoothness is a class"),
    ({"constraint": "norm"}, "constraint: 'norm' is not a Constraint"),
    ({"constraint": ml.FixedNorm}, "constraint=FixedNorm is a class"),
    ({"objective": None}, "objective=None is none that MEIs can be found for"),
    ({"objective": "NeuronObjective"}, "objective='NeuronObjective' is none"),
    ({"objective": [ml.NeuronObjective]}, "is none that MEIs can be found for"),
    ({"optimizer": torch.nn.ReLU}, "optimizer=ReLU made a ReLU, no optimizer. Give what makes one"),
    ({"optimizer": partial(torch.optim.SGD, learning_rate=1)}, "unexpected keyword argument 'learning_rate'"),
    ({"optimizer": partial(torch.optim.SGD, lr=-1)}, "makes none: Invalid learning rate: -1. Give"),
    ({"nrom": 5}, "There is no setting nrom. Do you mean norm?"),
    ({"neurons": "monday"}, "neurons='monday' names no neurons: give a list"),
    ({"neurons": None}, "neurons=None names no neurons"),
    ({"neurons": 1.5}, "neurons=1.5 names no neurons"),
    ({"neurons": {"monday": [0]}}, "neurons={'monday': [0]} names no neurons"),
    ({"neurons": []}, "neurons is empty: name at least one, as (session, index), or say 'all'. Model"),
    ({"neurons": ["monday"]}, "'monday' is not a neuron"),
    ({"neurons": ["monday", "tuesday"]}, "'monday' is not a neuron"),
    ({"neurons": [("monday", "0")]}, "('monday', '0') is not a neuron"),
    ({"neurons": [("monday", True)]}, "('monday', True) is not a neuron"),
    ({"neurons": [("monday", -1)]}, "has no neuron -1: its 4 neurons are 0 to 3"),
    ({"neurons": np.array([0.5])}, "0.5 names no neuron"),
    ({"neurons": 3}, "no session None. Its sessions: monday, tuesday"),
    ({"model": 3}, "model=3 is no model: give a name"),
    ({"model": None}, "model=None is no model"),
    ({"model": LinearNetwork}, "model=LinearNetwork is a class, where a model is needed: make it, LinearNetwork(...)"),
    ({"devices": "two"}, "devices='two': give how many, e.g. devices=2"),
    ({"devices": 0}, "devices=0: give at least 1"),
    ({"devices": 1.5}, "devices=1.5 must be a whole number."),
    ({"devices": None}, "devices=None must be a whole number."),
    ({"devices": []}, "devices=[]: give at least 1"),
    ({"accelerator": "gqu"}, "accelerator='gqu': choose one of auto, gpu, "),
    ({"accelerator": 0}, "accelerator=0: choose one of"),
    ({"directory": 3}, "directory=3 must be a path"),
    ({"log_directory": True}, "log_directory=True must be a path"),
    ({"progress_bar": "no"}, "progress_bar='no' must be True or False."),
    ({"callbacks": 3}, "callbacks: 3 is not a Callback. Give callbacks=[ModelCheckpoint()]"),
    ({"callbacks": [ml.RowConvergence]}, "callbacks=[RowConvergence] is a class"),
]
"""Arguments of ``find_meis``."""


@pytest.mark.parametrize(("arguments", "message"), SLIPS, ids=[in_short(slip) for slip, _ in SLIPS])
def test_a_slip_gives_one_clear_line(arguments, message):
    given = {"model": video_model(), "neurons": [("monday", 0)], "accelerator": "cpu", "progress_bar": False}
    with pytest.raises(ml.MEIError, match=re.escape(message)) as refused:
        ml.find_meis(**{**given, **arguments})
    assert isinstance(refused.value, ValueError | TypeError | IndexError)
    assert "\n" not in str(refused.value)


FACTS = {"channel_names": ("green", "UV"), "height": 6, "width": 5, "frame_rate": 30.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: facts(channel_names="green"), "is one text, where there has to be a name for each channel: give chan"),
        (lambda: facts(channel_names=2), "channel_names=2) must be names, one for each channel"),
        (lambda: facts(channel_names=()), "A stimulus needs channels"),
        (lambda: facts(height="6"), "StimulusFormat: height='6' must be a whole number."),
        (lambda: facts(width=5.5), "StimulusFormat: width=5.5 must be a whole number."),
        (lambda: facts(height=True), "StimulusFormat: height=True must be a whole number."),
        (lambda: facts(height=-6), "positive height and width"),
        (lambda: facts(frame_rate="30"), "StimulusFormat(frame_rate='30') must be positive"),
        (lambda: facts(frame_rate=np.inf), "StimulusFormat(frame_rate=inf) must be positive"),
        (lambda: facts(frame_rate=(30, 1)), "StimulusFormat(frame_rate=(30, 1)) must be positive"),
        (lambda: facts(pixel_size=-50), "StimulusFormat(pixel_size=-50) must be positive"),
        (lambda: facts(mean=37.4), "needs one value for each of the 2 channels"),
        (lambda: facts(sd=("1", "2")), "StimulusFormat: sd='1' must be a number."),
        (lambda: facts(frames_lost=2.0), "StimulusFormat: frames_lost=2.0 must be a whole number."),
        (lambda: ml.RetinaModel(StillNetwork, STILL_FORMAT, 5), "network=StillNetwork is a class"),
        (lambda: ml.RetinaModel(lambda x: x, STILL_FORMAT, 5), "network: a value of type function is not a Module"),
        (lambda: ml.RetinaModel(StillNetwork(), (7, 6), 5), "stimulus_format: a value of type tuple is not a Stim"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, "5"), "neurons_per_session='5' must be a whole number."),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, 0), "neurons_per_session=0 must be at least 1."),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, ["monday"]), "neurons_per_session=['monday'] must be"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {"monday": 2.5}), "neurons_per_session['monday']=2.5"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {1.5: 5}), "The name of session 1.5 must be a text or"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {True: 5}), "The name of session True must be a text or"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {"": 5}), "'' cannot be the name of a session"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {"a\0b": 5}), "cannot be the name of a session"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {1: 5, "1": 5}), "two sessions have one name"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, {}), "neurons_per_session is empty"),
        (lambda: ml.RetinaModel(StillNetwork(), STILL_FORMAT, 5, name=3), "RetinaModel(name=3) must be a text."),
        (lambda: ml.Ensemble(linear_model()), "is not a list of models: give Ensemble([model_1, model_2])"),
        (lambda: ml.NeuronSelection(sessions=1.5), "The name of session 1.5 must be a text or a whole number."),
        (lambda: ml.NeuronSelection(indices="0"), "indices='0' must be a whole number."),
        (lambda: ml.NeuronSelection(indices=[0.5]), "indices=0.5 must be a whole number."),
        (lambda: ml.NeuronSelection(where="on_off"), "where='on_off' must name columns of the neuron table"),
        (lambda: ml.NeuronSelection(where={3: 1}).of(video_model()), "The neuron table has no column 3"),
        (lambda: ml.NeuronSelection(where={"index": {"a": 1}}).of(video_model()), "must be a value, or a list of"),
        (lambda: ml.NeuronSelection(sample="2"), "sample='2' must be a whole number."),
        (lambda: ml.NeuronSelection(seed=0.5), "seed=0.5 must be a whole number."),
        (lambda: ml.NeuronSelection(together=3), "together=3 must be the name of a column."),
        (lambda: ml.NormAndRange(norm=[5, 10]), "norm=[5, 10] must be one positive, finite number, or None for"),
        (lambda: ml.FixedNorm("5"), "norm='5' must be one positive"),
        (lambda: ml.MeanReducer(axis="time"), "axis='time' must be a whole number."),
        (lambda: ml.SliceMeanReducer(0, 1.5, 2), "start=1.5 must be a whole number."),
        (lambda: ml.SliceMeanReducer(0, 1, "2"), "length='2' must be a whole number."),
        (lambda: ml.TemporalSmoothness("1"), "TemporalSmoothness(factor='1') must be a finite number."),
        (lambda: ml.MultiStart(starts="3"), "MultiStart: starts='3' must be a whole number."),
        (lambda: ml.MultiStart(shifts="ab"), "MultiStart: shifts='ab' must be a number."),
        (lambda: ml.MultiStart(frame_shifts=(0.5,)), "MultiStart: frame_shifts=0.5 must be a whole number."),
        (lambda: ml.RowConvergence(patience="5"), "RowConvergence(relative_gain=0.001, patience='5') needs"),
        (lambda: ml.IncreaseObjective("twin", 0, None, ml.MeanReducer()), "model='twin' is no model"),
        (lambda: ml.IncreaseObjective(video_model(), "0", "monday", ml.MeanReducer()), "neuron_indices='0' must be"),
        (lambda: ml.IncreaseObjective(video_model(), 0, "monday", ml.MeanReducer), "MeanReducer is a class"),
        (lambda: ml.NeuronObjective(video_model(), "monday", ml.MeanReducer()), "neurons='monday' names no neurons"),
        (lambda: ml.NeuronObjective(video_model(), [("monday", 0)], None), "response_reducer: a value of type None"),
        (lambda: ml.MEIModule(video_model(), [("monday", 0)], check_interval="4"), "check_interval='4' must be"),
        (lambda: ml.MEIModule(video_model(), [("monday", 0)], members="1"), "members='1' must be a whole number."),
        (lambda: ml.MEIModule("twin.ckpt", (), allow_unpickling="yes"), "allow_unpickling='yes' must be True or False"),
        (lambda: ml.StimulusModule(torch.sum, np.ones((1, 2, 8, 6, 5))), "initial_stimulus=ndarray of shape (1, 2, 8"),
        (lambda: ml.StimulusModule(torch.sum, torch.ones(1, 2, 8, 6, 5), max_steps="5"), "max_steps='5' must be"),
        (lambda: ml.StimulusModule(torch.sum, torch.ones(1, 2, 8, 6, 5), constraint=3), "constraint: 3 is not a"),
    ],
)
def test_a_slip_in_a_part_gives_one_clear_line(make, message):
    with pytest.raises(ml.MEIError, match=re.escape(message)) as refused:
        make()
    assert isinstance(refused.value, ValueError | TypeError)
    assert "\n" not in str(refused.value)


def facts(**changes):
    return ml.StimulusFormat(**{**FACTS, **changes})


VALUES = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers(-3, 3)
        | st.floats()
        | st.complex_numbers()
        | st.text(max_size=3)
        | st.binary(max_size=3)
        | st.sampled_from([object(), int, ml.MeanReducer, ml.Jitter, ml.Jitter(1), np.ones(2), np.ones((2, 2)), print])
        | st.sampled_from([torch.ones(2), torch.tensor(2), np.float32(2), np.bool_(True), np.int64(3), xr.Dataset()])
        | st.lists(VALUES, max_size=3)
        | st.tuples(VALUES, VALUES)
        | st.dictionaries(st.text(max_size=2), VALUES, max_size=2)
    )
)


SETTINGS = [field.name for field in fields(MEISettings) if field.name != "effort"]


@pytest.mark.slow
@of_hypothesis(max_examples=400, deadline=None)
@given(setting=st.sampled_from(["neurons", *SETTINGS]), value=VALUES)
def test_a_setting_of_any_kind_is_taken_or_refused_in_our_words(setting, value):
    with taken_or_refused_in_one_line():
        ml.MEIModule(**{"retina": video_model(), "neurons": [("monday", 0)], "time_steps": 8, setting: value})


@of_hypothesis(max_examples=200, deadline=None)
@given(name=st.sampled_from([field.name for field in fields(ml.StimulusFormat)]), value=VALUES)
def test_facts_of_any_kind_are_taken_or_refused_in_our_words(name, value):
    with taken_or_refused_in_one_line():
        facts(**{name: value})


@contextmanager
def taken_or_refused_in_one_line():
    try:
        yield
    except ml.MEIError as error:
        refused = error
    else:
        return
    # A text may be the path of a mask.
    assert isinstance(refused, ValueError | TypeError | IndexError | FileNotFoundError)
    assert "\n" not in str(refused)


@pytest.mark.parametrize(
    ("neurons", "labels"),
    [
        (2, ["2"]),
        (np.int64(2), ["2"]),
        (torch.tensor(2), ["2"]),
        (np.arange(2), ["0", "1"]),
        (torch.arange(2), ["0", "1"]),
        (range(2), ["0", "1"]),
        ([np.int32(1), torch.tensor(2)], ["1", "2"]),
        (np.array([[0, 2]]), ["0+2"]),
        ([np.array([0, 2])], ["0+2"]),
        (ml.Neuron(None, 1), ["1"]),
        (ml.NeuronSelection(indices=1), ["1"]),
        (ml.NeuronSelection(indices=np.arange(2)), ["0", "1"]),
        (ml.NeuronSelection(where={"index": np.array([0, 1])}, sample=np.int64(2), seed=np.int64(0)), ["0", "1"]),
    ],
)
def test_neurons_that_have_one_meaning_are_taken(neurons, labels):
    assert ml.MEIModule(linear_model(), neurons, time_steps=4).problem.labels == labels


@pytest.mark.parametrize("neurons", [("monday", 1), ("monday", np.int64(1)), ml.NeuronSelection("monday", [1])])
def test_a_neuron_of_a_session_needs_no_list(neurons):
    assert ml.MEIModule(video_model(), neurons, time_steps=4).problem.labels == ["monday/1"]


PAIR = (-1.0, 1.0)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ((-1, 1), (PAIR, PAIR)),
        ([-1, 1], (PAIR, PAIR)),
        (np.array([-1, 1]), (PAIR, PAIR)),
        (torch.tensor([-1.0, 1.0]), (PAIR, PAIR)),
        ((-1, None), ((-1.0, None), (-1.0, None))),
        (((-1, 1), None), (PAIR, None)),
        ([[-1, 1], (None, np.float32(2))], (PAIR, (None, 2.0))),
        (np.array([[-1, 1], [-1, 2]]), (PAIR, (-1.0, 2.0))),
        ([np.array([-1, 1]), torch.tensor([-1, 2])], (PAIR, (-1.0, 2.0))),
        ([None, None], (None, None)),
    ],
)
def test_ranges_that_have_one_meaning_are_taken(ranges, expected):
    problem = ml.MEIModule(linear_model(), 0, time_steps=4, ranges=ranges).problem
    assert problem.space.constraint.ranges == expected
    json.dumps(problem.configuration)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.array, torch.tensor])
def test_numbers_of_any_library_give_the_same_run(number):
    plain = {"time_steps": 4, "seed": 3, "restarts": 2, "max_steps": 3, "norm": 2, "rows_per_device": 4}
    given = {name: number(value) for name, value in plain.items()}
    expected, found = (
        find(linear_model(), [0], reducer=ml.SliceMeanReducer(0, zero, one), fast_path=fast, **settings)
        for settings, zero, one, fast in ((plain, 0, 1, True), (given, number(0), number(1), np.bool_(True)))
    )
    assert expected.attrs["configuration"] == found.attrs["configuration"]
    xr.testing.assert_identical(expected, found)


def test_facts_of_a_stimulus_may_be_of_any_library():
    written = ml.StimulusFormat(["a", "b"], np.int64(6), torch.tensor(5), np.float64(30), np.array(50.0), np.ones(2))
    assert written == ml.StimulusFormat(("a", "b"), 6, 5, 30.0, 50.0, (1.0, 1.0))
    assert ml.StimulusFormat(np.array(["green", "UV"]), 6, 5, 30, 50, frames_lost=np.int8(2)) == VIDEO_FORMAT


def test_a_callback_needs_no_list():
    assert find(linear_model(), 0, time_steps=4, callbacks=ml.RowConvergence(patience=np.int64(2))).sizes["neuron"] == 1
