from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SESSIONS, find, linear_model, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st

import mei_lightning as ml
from mei_lightning.objectives import as_objective

VIDEO = video_model()
STILL = still_model()

REDUCERS = [
    (ml.MeanReducer(), lambda trace: trace.mean(axis=0)),
    (ml.MaxReducer(), lambda trace: trace.max(axis=0)),
    (ml.SliceMeanReducer(axis=0, start=1, length=3), lambda trace: trace[1:4].mean(axis=0)),
]


def stimuli(rows, model=VIDEO, seed=0):
    time_steps = 1 if model.stimulus_format.is_still else 8
    shape = model.stimulus_shape(time_steps, num_batches=rows)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def traces_by_hand(model, stimulus, groups):
    """Responses ``[time', rows]``, indexed one row and one neuron at a time."""
    columns = []
    for row, group in zip(stimulus, groups, strict=True):
        members = [model(row[None], data_key=session)[0, :, index].detach().numpy() for session, index in group]
        columns.append(np.mean(members, axis=0))
    return np.stack(columns, axis=1)


neurons = st.sampled_from([(session, index) for session, count in SESSIONS.items() for index in range(count)])


@given(
    targets=st.lists(st.one_of(neurons, st.lists(neurons, min_size=1, max_size=3)), min_size=1, max_size=5),
    reducer=st.sampled_from(REDUCERS),
    data=st.data(),
)
@settings(max_examples=30)
def test_rows_of_several_sessions_and_groups_against_a_loop(targets, reducer, data):
    reduce, reduce_by_hand = reducer
    stimulus = stimuli(len(targets), seed=len(targets))
    groups = [target if isinstance(target, list) else [target] for target in targets]
    traces = traces_by_hand(VIDEO, stimulus, groups)
    objective = ml.NeuronObjective(VIDEO, targets, reduce)
    np.testing.assert_allclose(objective.traces(stimulus).T, traces, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(objective(stimulus), reduce_by_hand(traces), rtol=1e-4, atol=1e-6)
    some = data.draw(st.permutations(range(len(targets))))[: data.draw(st.integers(1, len(targets)))]
    np.testing.assert_allclose(
        objective.for_rows(some)(stimulus[some]), reduce_by_hand(traces[:, some]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("reduce", "reduce_by_hand"), REDUCERS)
@pytest.mark.parametrize("indices", [2, [0], [0, 3, 1], np.array([1, 2]), torch.tensor([3]), (1, 1)])
def test_the_same_neurons_for_every_row(reduce, reduce_by_hand, indices):
    stimulus = stimuli(3)
    group = [("monday", int(index)) for index in np.atleast_1d(indices)]
    expected = reduce_by_hand(traces_by_hand(VIDEO, stimulus, [group] * 3))
    increase = ml.IncreaseObjective(VIDEO, indices, "monday", reduce)
    np.testing.assert_allclose(increase(stimulus), expected, rtol=1e-5)
    np.testing.assert_allclose(ml.DecreaseObjective(VIDEO, indices, "monday", reduce)(stimulus), -expected, rtol=1e-5)


def test_a_still_image_model_has_one_response_frame():
    stimulus = stimuli(4, STILL)
    expected = STILL.network(stimulus[:, :, 0])
    for objective in (
        ml.NeuronObjective(STILL, [0, 4, 2, 2], ml.MeanReducer()),
        ml.NeuronObjective(STILL, [0, 4, 2, 2], ml.SliceMeanReducer(0, start=0, length=1)),
    ):
        torch.testing.assert_close(objective(stimulus), expected[range(4), [0, 4, 2, 2]])
    torch.testing.assert_close(ml.IncreaseObjective(STILL, 3, None, ml.MaxReducer())(stimulus), expected[:, 3])


def test_a_plain_network_without_time_axis_or_sessions():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 3))
    stimulus = torch.randn(2, 1, 2, 4, 3)
    score = ml.IncreaseObjective(network, [0, 2], None, ml.MeanReducer())(stimulus)
    torch.testing.assert_close(score, network(stimulus)[:, [0, 2]].mean(dim=1))


@given(axis=st.integers(0, 2), seed=st.integers(0, 1000), start=st.integers(0, 5), length=st.integers(1, 6))
@settings(max_examples=40)
def test_reducers_against_numpy(axis, seed, start, length):
    responses = np.random.default_rng(seed).normal(size=(6, 5, 4))
    tensor = torch.from_numpy(responses)
    np.testing.assert_allclose(ml.MeanReducer(axis).forward(tensor), responses.mean(axis), atol=1e-12)
    np.testing.assert_allclose(ml.MaxReducer(axis).forward(tensor), responses.max(axis), atol=1e-12)
    window = ml.SliceMeanReducer(axis, start, length)
    if start + length <= responses.shape[axis]:
        expected = responses.take(range(start, start + length), axis).mean(axis)
        np.testing.assert_allclose(window.forward(tensor), expected, atol=1e-12)
    else:
        with pytest.raises(ValueError, match=f"the response has {responses.shape[axis]} frames"):
            window.forward(tensor)


def test_objectives_add_subtract_and_scale():
    stimulus = stimuli(3)
    one = ml.IncreaseObjective(VIDEO, 0, "monday", ml.MeanReducer())
    other = ml.NeuronObjective(VIDEO, [("tuesday", 0), ("monday", 1), ("tuesday", 2)], ml.MaxReducer())
    a, b = one(stimulus), other(stimulus)
    for objective, expected in [
        (one + other, a + b),
        (one - other, a - b),
        (2 * one, 2 * a),
        (one * -0.5, -0.5 * a),
        (-other, -b),
        (3 * (one - 0.5 * other) + other, 3 * (a - 0.5 * b) + b),
    ]:
        torch.testing.assert_close(objective(stimulus), expected)
        # Rows that leave take their own targets with them.
        torch.testing.assert_close(objective.for_rows([2, 0])(stimulus[[2, 0]]), expected[[2, 0]])


def test_an_objective_of_five_lines():
    class Contrast(ml.Objective):
        def forward(self, stimulus):
            green, uv = stimulus.abs().mean(dim=(2, 3, 4)).T
            return uv - green

    stimulus = stimuli(4)
    expected = [(row[1].abs().mean() - row[0].abs().mean()).item() for row in stimulus]
    np.testing.assert_allclose(Contrast()(stimulus), expected, rtol=1e-5)
    contrast = Contrast()
    assert as_objective(contrast) is contrast
    response = ml.IncreaseObjective(VIDEO, 0, "monday", ml.MeanReducer())
    torch.testing.assert_close((response - 2 * contrast)(stimulus), response(stimulus) - 2 * contrast(stimulus))


def test_a_plain_function_sees_all_rows_at_once():
    shapes = []

    def score(stimulus):
        shapes.append(tuple(stimulus.shape))
        return stimulus.flatten(1).sum(dim=1)

    stimulus = stimuli(3)
    torch.testing.assert_close(as_objective(score)(stimulus), stimulus.flatten(1).sum(dim=1))
    assert shapes == [tuple(stimulus.shape)]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_openretina_like_objects_see_one_row_at_a_time(shape):
    def forward(stimulus):
        # As openretina's do: a batch would be taken for time.
        return VIDEO(stimulus, data_key="monday").squeeze(0)[:, 1].mean(dim=0).reshape(shape)

    stimulus = stimuli(3)
    score = as_objective(SimpleNamespace(forward=forward))(stimulus)
    torch.testing.assert_close(score, VIDEO(stimulus, data_key="monday")[:, :, 1].mean(dim=1))


def test_what_is_not_an_objective_is_refused():
    with pytest.raises(TypeError, match=r"'loss' is not an objective: give an Objective, or a function"):
        as_objective("loss")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.IncreaseObjective(VIDEO.network, 4, "monday", ml.MeanReducer()), "'monday' has no neuron 4"),
        (lambda: ml.NeuronObjective(VIDEO.network, [("tuesday", 3)], ml.MeanReducer()), "'tuesday' has no neuron 3"),
        (lambda: ml.IncreaseObjective(VIDEO, 4, "monday", ml.MeanReducer()), "'monday' has no neuron 4: its 4 neurons"),
        (lambda: ml.IncreaseObjective(VIDEO, [0, -1], "monday", ml.MeanReducer()), "no neuron -1"),
    ],
)
def test_unknown_neurons_are_named(make, message):
    objective = make()
    with pytest.raises(IndexError, match=message):
        objective(stimuli(1))


@pytest.mark.parametrize(
    ("model", "neurons", "error", "message"),
    [
        (VIDEO, [("monday", 0), ("tuesday", 3)], IndexError, "'tuesday' has no neuron 3: its 3 neurons are 0 to 2"),
        (VIDEO, [("monday", -1), ("monday", 3)], IndexError, "no neuron -1"),
        (STILL, [5, 0], IndexError, "The model has no neuron 5: its 5 neurons are 0 to 4"),
        (VIDEO, [("sunday", 0)], ValueError, "no session 'sunday'. Its sessions: monday, tuesday"),
        (VIDEO, [("monday", 0), 0], ValueError, "no session None. Its sessions: monday, tuesday"),
        (STILL, [("monday", 0)], ValueError, "has no sessions, but session 'monday'"),
    ],
)
def test_a_retina_model_names_unknown_neurons_at_once(model, neurons, error, message):
    with pytest.raises(error, match=message):
        ml.NeuronObjective(model, neurons, ml.MeanReducer())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.IncreaseObjective(VIDEO, [], "monday", ml.MeanReducer()), "neuron_indices is empty"),
        (lambda: ml.NeuronObjective(VIDEO, [], ml.MeanReducer()), "neurons is empty"),
        (lambda: ml.NeuronObjective(VIDEO, [("monday", 0), []], ml.MeanReducer()), "names no neuron"),
        (lambda: ml.SliceMeanReducer(0, start=-1, length=2), r"SliceMeanReducer\(start=-1, length=2\) needs"),
        (lambda: ml.SliceMeanReducer(0, start=0, length=0), "length >= 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_responses_of_a_wrong_shape_are_shown():
    objective = ml.IncreaseObjective(torch.nn.Identity(), 0, None, ml.MeanReducer())
    with pytest.raises(ValueError, match=r"responses of shape \(1, 2, 8, 6, 5\) .*expected \[batch, time', neurons\]"):
        objective(stimuli(1))


@pytest.mark.parametrize(
    ("neurons", "options", "error", "message"),
    [
        ([("monday", 4)], {}, IndexError, "Session 'monday' has no neuron 4: its 4 neurons are 0 to 3"),
        ([("monday", -1)], {}, IndexError, "no neuron -1"),
        ([("sunday", 0)], {}, ValueError, "no session 'sunday'. Its sessions: monday, tuesday"),
        ([0], {}, ValueError, "no session None. Its sessions: monday, tuesday"),
        ([], {}, ValueError, "neurons is empty"),
        ([("monday", 0), []], {}, ValueError, "names no neuron"),
        ([("monday", 0), ("monday", 1), ("monday", 0)], {}, ValueError, "monday/0 is named twice"),
        ([[("monday", 0), ("sunday", 1)]], {}, ValueError, "no session 'sunday'"),
        ([("monday", 0)], {"restarts": 0}, ValueError, "restarts=0"),
        ([("monday", 0)], {"time_steps": 2}, ValueError, "time_steps=2 leaves no response"),
        ([("monday", 0)], {"norm": -1.0}, ValueError, "norm=-1.0"),
        ([("monday", 0)], {"norm": 100.0, "ranges": [(-1, 1)] * 2}, ValueError, "norm=100 cannot be reached"),
        ([("monday", 0)], {"ranges": [(-1, 1)] * 3}, ValueError, r"3 channel range\(s\) .* 2 channel"),
        ([("monday", 0)], {"norm": 1.0, "constraint": ml.FixedNorm(1.0)}, ValueError, "either constraint, or norm"),
        (
            [("monday", 0)],
            {"time_steps": 9, "reducer": ml.SliceMeanReducer(axis=0, start=4, length=5)},
            ValueError,
            r"needs response frames 4 to 8, but the response has 7 frames",
        ),
    ],
)
def test_find_meis_refuses_bad_input_before_any_step(neurons, options, error, message):
    model, calls = video_model(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(error, match=message):
        find(model, neurons, **options)
    # At most one response, to learn its length.
    assert len(calls) <= 1


def test_a_still_image_has_one_frame_and_no_session():
    with pytest.raises(ValueError, match=r"time_steps=3: .* still images"):
        find(still_model(), [0], time_steps=3)
    with pytest.raises(ValueError, match="has no sessions, but session 'monday'"):
        find(still_model(), [("monday", 0)])


def test_the_mei_of_a_group_across_sessions_is_that_of_their_mean():
    """For linear neurons the best stimulus of a group is the normalised sum of the kernels."""
    model = linear_model(neurons=3)
    meis = find(model, [[0, 2], 1], time_steps=4, norm=2.0, restarts=1)
    kernel = (model.network.kernels[0] + model.network.kernels[2]).numpy()
    np.testing.assert_allclose(meis["stimulus"].values[0], 2 * kernel / np.linalg.norm(kernel), atol=5e-3)
    assert meis["neuron"].values.tolist() == ["0+2", "1"]

    group = [("monday", 0), ("tuesday", 1), ("tuesday", 2)]
    meis = find(VIDEO, [group], max_steps=10, restarts=2)
    assert meis["neuron"].values.tolist() == ["monday/0+tuesday/1+tuesday/2"]
    best = torch.from_numpy(meis["stimulus"].values)
    np.testing.assert_allclose(meis["response"].values[0], traces_by_hand(VIDEO, best, [group])[:, 0], rtol=1e-5)
