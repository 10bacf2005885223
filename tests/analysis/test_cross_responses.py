"""Every neuron's response to every MEI, and the selectivity of MEIs."""

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import find, linear_model, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mei_lightning as ml
from mei_lightning.acceleration.frozen_core import FrozenCore
from mei_lightning.acceleration.prepare import prepare

TARGETS = [("tuesday", 2), [("monday", 1), ("tuesday", 0)], ("monday", 3), ("monday", 0)]


def cross(model, meis, **options):
    return ml.cross_responses(model, meis, accelerator="cpu", progress_bar=False, **options)


def one_by_one(model, stimuli, targets, reduce):
    """Responses ``[targets, stimuli]``, each from a call of the model for one stimulus and one session."""
    responses = np.empty((len(targets), len(stimuli)))
    for row, target in enumerate(targets):
        members = [target] if isinstance(target, tuple) else target
        for column, stimulus in enumerate(torch.from_numpy(stimuli)):
            traces = [model(stimulus[None], data_key=session)[0, :, index] for session, index in members]
            responses[row, column] = reduce(torch.stack(traces).mean(0))
    return responses


@pytest.mark.parametrize(
    ("reducer", "reduce"),
    [
        (ml.MeanReducer(), torch.mean),
        (ml.MaxReducer(), torch.max),
        (ml.SliceMeanReducer(axis=0, start=1, length=2), lambda trace: trace[1:3].mean()),
    ],
)
def test_responses_are_those_of_single_calls(reducer, reduce):
    meis = find(video_model(), TARGETS, time_steps=6, max_steps=4, restarts=1, reducer=reducer)
    responses = cross(video_model(), meis)
    assert responses.dims == ("neuron", "mei")
    assert responses["neuron"].values.tolist() == meis["neuron"].values.tolist() == responses["mei"].values.tolist()
    np.testing.assert_allclose(responses, one_by_one(video_model(), meis.stimulus.values, TARGETS, reduce), rtol=1e-5)
    grey = one_by_one(video_model(), np.zeros((1, 2, 6, 6, 5), np.float32), TARGETS, reduce)
    np.testing.assert_allclose(responses.grey_response, grey[:, 0], rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(responses), meis.score, rtol=1e-5)
    # Another model of the same neurons.
    other = one_by_one(video_model(7), meis.stimulus.values, TARGETS, reduce)
    np.testing.assert_allclose(cross(video_model(7), meis), other, rtol=1e-5)


def test_linear_neurons_respond_with_inner_products():
    # More stimuli than are computed at a time.
    model = linear_model(neurons=40)
    meis = find(model, range(40), time_steps=4, norm=3.0, max_steps=20, restarts=1)
    kernels = model.network.kernels.flatten(1).double().numpy()
    # The MEI of a linear neuron is its kernel at the norm.
    expected = 3 * kernels @ (kernels / np.linalg.norm(kernels, axis=1, keepdims=True)).T
    np.testing.assert_allclose(cross(model, meis), expected, rtol=1e-4, atol=1e-4 * expected.max())


def test_linear_cells_of_the_simulated_retina_respond_to_the_drive_of_their_filter(simulated):
    chosen = ml.NeuronSelection(sessions=["session_1", "session_3"], where={"type": ["on_sustained", "off_transient"]})
    meis = find(simulated, chosen, time_steps=21, max_steps=3, restarts=1)
    responses = cross(simulated, meis)
    for neuron, session, index in zip(meis["neuron"].values, meis["session"].values, meis["index"].values, strict=True):
        kernel = simulated.linear_filter(session, int(index)).numpy().astype(float)
        drive = torch.from_numpy((meis.stimulus.values * kernel).sum(axis=(1, 2, 3, 4)))
        expected = simulated.linear_response(session, int(index), drive)
        np.testing.assert_allclose(responses.sel(neuron=neuron), expected, rtol=1e-4)
    assert set(responses["type"].values) == {"on_sustained", "off_transient"}
    assert responses["type"].values.tolist() == responses["mei_type"].values.tolist()


def test_still_images():
    meis = find(still_model(), range(5), max_steps=3, restarts=1)
    expected = still_model().network(torch.from_numpy(meis.stimulus.values[:, :, 0])).T
    np.testing.assert_allclose(cross(still_model(), meis), expected, rtol=1e-4, atol=1e-5)


def test_neurons_without_an_mei_respond_to_those_of_others():
    meis = find(video_model(), TARGETS, time_steps=6, max_steps=2, restarts=1)
    complete = cross(video_model(), meis)
    meis["stimulus"][1], meis["score"][1], meis["status"][1] = np.nan, np.nan, "pending"
    responses = cross(video_model(), meis)
    assert responses[:, 1].isnull().all()
    others = [0, 2, 3]
    np.testing.assert_allclose(responses[:, others], complete[:, others], rtol=1e-6)
    index = ml.selectivity_index(responses)
    assert np.isnan(index[1])
    assert np.isfinite(index[others]).all()
    nothing = meis.assign(score=np.nan * meis["score"])
    assert cross(video_model(), nothing).isnull().all()


def test_the_core_runs_once_for_each_stimulus():
    twin, batches = ml.DigitalTwin(), []
    neurons = [(session, index) for session in ("session_1", "session_2", "session_3") for index in range(2)]
    meis = find(twin, neurons, time_steps=22, max_steps=1, restarts=1)
    (core,) = (
        part for part in prepare(twin, (1, *meis.stimulus.shape[1:]), "cpu").modules() if isinstance(part, FrozenCore)
    )
    core.register_forward_pre_hook(
        lambda _, inputs: None if torch.is_grad_enabled() else batches.append(len(inputs[0]))
    )
    cross(twin, meis)
    assert sum(batches) == 7


def test_the_model_and_its_weights_stay_as_they_were():
    model = video_model().train()
    meis = find(video_model(), TARGETS, time_steps=6, max_steps=2, restarts=1)
    expected = cross(video_model(), meis)
    np.testing.assert_allclose(cross(model, meis), expected, rtol=1e-6)


def test_what_does_not_fit_is_refused_before_any_work():
    meis = find(video_model(), TARGETS, time_steps=6, max_steps=1, restarts=1)
    with pytest.raises(ValueError, match=r"takes stimuli of shape \(1, 6, 7, 6\).*have \(2, 6, 6, 5\)"):
        cross(still_model(), meis)
    fewer = ml.RetinaModel(video_model().network, video_model().stimulus_format, {"monday": 4, "wednesday": 3})
    with pytest.raises(ValueError, match="no session 'tuesday'"):
        cross(fewer, meis)
    fewer = ml.RetinaModel(video_model().network, video_model().stimulus_format, {"monday": 2, "tuesday": 3})
    with pytest.raises(IndexError, match="has no neuron 3"):
        cross(fewer, meis)
    without_sessions = ml.RetinaModel(video_model().network, video_model().stimulus_format, 4)
    with pytest.raises(ValueError, match="has no sessions, but the MEIs are of neurons like 'tuesday/2'"):
        cross(without_sessions, meis)
    meis.attrs["score"] = "MyReducer()"
    with pytest.raises(ValueError, match=r"MyReducer\(\), which is not known here"):
        cross(video_model(), meis)
    assert np.isfinite(cross(video_model(), meis, reducer=ml.MeanReducer())).all()


# Selectivity


def table(responses, grey=0.0, types=None):
    responses = np.asarray(responses, dtype=float)
    labels = [str(number) for number in range(len(responses))]
    grey = np.broadcast_to(grey, len(responses))
    coords = {"neuron": labels, "mei": labels, "grey_response": ("neuron", grey)}
    if types is not None:
        coords |= {"type": ("neuron", list(types)), "mei_type": ("mei", list(types))}
    return xr.DataArray(responses, dims=("neuron", "mei"), coords=coords)


def test_selectivity_of_known_tables():
    assert ml.selectivity_index(table(np.eye(4))).values.tolist() == [1, 1, 1, 1]
    assert ml.selectivity_index(table(np.ones((3, 3)))).values.tolist() == [0, 0, 0]
    # The first MEI excites the others half and a tenth as much as their own do; the last one suppresses them.
    responses = [[2.0, 1.0, 0.0], [2.0, 4.0, 0.0], [1.1, 2.0, 2.0]]
    expected = [(1 - 0.3) / (1 + 0.3), (1 - 0.75) / (1 + 0.75), 1.0]
    np.testing.assert_allclose(ml.selectivity_index(table(responses, grey=[0.0, 0.0, 1.0])), expected)
    np.testing.assert_allclose(ml.relative_responses(table(responses, grey=[0.0, 0.0, 1.0]))[2], [0.1, 1.0, 1.0])


def test_a_neuron_that_its_mei_does_not_excite_has_no_selectivity():
    index = ml.selectivity_index(table([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 1.0]], grey=[0.5, 0.0, 0.0]))
    np.testing.assert_allclose(index, [np.nan, 1 / 3, 1.0])
    assert np.isnan(ml.selectivity_index(table([[1.0]]))).all()


responses_of_any_size = st.integers(2, 8).flatmap(
    lambda size: arrays(float, (size, size), elements=st.floats(-5, 5, width=16)).map(
        lambda values: values + np.diag(np.full(size, 6.0))
    )
)


@pytest.mark.slow
@given(responses=responses_of_any_size, data=st.data())
@settings(max_examples=60)
def test_selectivity_does_not_depend_on_gain_baseline_or_order(responses, data):
    size = len(responses)
    index = ml.selectivity_index(table(responses)).values
    assert ((index >= -1) & (index <= 1)).all()
    gain = data.draw(arrays(float, size, elements=st.floats(0.1, 10)))
    grey = data.draw(arrays(float, size, elements=st.floats(-3, 3)))
    changed = gain[:, None] * responses + grey[:, None]
    np.testing.assert_allclose(ml.selectivity_index(table(changed, grey)), index, atol=1e-9)
    order = np.array(data.draw(st.permutations(range(size))))
    shuffled = ml.selectivity_index(table(responses[np.ix_(order, order)]))
    np.testing.assert_allclose(shuffled, index[order], atol=1e-12)
    # By a loop over its definition.
    for number in range(size):
        others = [max(responses[j, number], 0) / responses[j, j] for j in range(size) if j != number]
        assert index[number] == pytest.approx((1 - np.mean(others)) / (1 + np.mean(others)))


def test_types_by_their_best_placed_neurons():
    responses = [
        [1.0, 0.2, 0.4, 0.0],
        [0.1, 1.0, 0.1, 0.6],
        [0.3, 0.0, 1.0, 0.0],
        [0.2, 0.7, 0.0, 1.0],
    ]
    responses = table(responses, types=["on", "on", "off", "off"])
    found = ml.type_responses(responses)
    assert found["cell_type"].values.tolist() == found["mei_cell_type"].values.tolist() == ["off", "on"]
    # Of "off" neurons, the MEIs of "on" neurons excite best 0.3 and 0.7; and the other way round 0.4 and 0.6.
    np.testing.assert_allclose(found, [[1.0, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(ml.type_selectivity_index(responses), [1 / 3, 1 / 3])
    with pytest.raises(ValueError, match="no column 'type'"):
        ml.type_responses(responses.drop_vars("type"))


@pytest.mark.slow
def test_a_user_finds_which_types_the_meis_of_the_twin_are_selective_for(twin):
    chosen = ml.NeuronSelection(sessions=["session_1"], where={"type": ["color_opponent", "on_off", "on_transient"]})
    meis = find(twin, chosen, search="quick")

    responses = cross(twin, meis)
    selectivity = ml.type_selectivity_index(responses).to_series()

    assert selectivity.idxmax() == "color_opponent"
    assert selectivity["color_opponent"] > 0.9
    confusion = ml.type_responses(responses)
    assert confusion.sel(cell_type="on_off", mei_cell_type="on_transient") > 5 * confusion.sel(
        cell_type="color_opponent", mei_cell_type="on_transient"
    )
