"""Given responses, windows and directions in place of the largest response."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import find, linear_model, video_model

import mei_lightning as ml

VIDEO = video_model()
NEURONS = [("monday", 0), ("tuesday", 1), [("monday", 1), ("tuesday", 2)]]


def stimuli(rows, seed=0):
    return torch.randn(VIDEO.stimulus_shape(8, rows), generator=torch.Generator().manual_seed(seed))


def traces():
    return ml.NeuronObjective(VIDEO, NEURONS, ml.MeanReducer()).traces(stimuli(3)).numpy()


WINDOW = ml.SliceMeanReducer(axis=0, start=1, length=3)
TRACES = np.random.default_rng(0).uniform(0, 2, (3, 6))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (
            partial(ml.TargetLevelObjective, response_reducer=WINDOW, level=0.8),
            -((traces()[:, 1:4].mean(axis=1) - 0.8) ** 2),
        ),
        (
            partial(ml.TargetLevelObjective, response_reducer=ml.MeanReducer(), level=[0.1, 0.5, 0.7]),
            -((traces().mean(axis=1) - [0.1, 0.5, 0.7]) ** 2),
        ),
        (
            partial(ml.TargetTraceObjective, response_reducer=ml.MeanReducer(), trace=TRACES[0].tolist()),
            -((traces() - TRACES[0]) ** 2).mean(axis=1),
        ),
        (
            partial(ml.TargetTraceObjective, response_reducer=WINDOW, trace=TRACES.tolist()),
            -((traces() - TRACES) ** 2)[:, 1:4].mean(axis=1),
        ),
        (
            partial(ml.NeuronObjective, response_reducer=ml.WindowContrastReducer(0, 0, 2, 3, 3)),
            traces()[:, :2].mean(axis=1) - traces()[:, 3:].mean(axis=1),
        ),
    ],
    ids=["level", "levels", "trace", "traces", "windows"],
)
def test_scores_against_numpy_in_any_order_of_rows(objective, expected):
    objective = objective(VIDEO, NEURONS)
    np.testing.assert_allclose(objective(stimuli(3)), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(objective.for_rows([2, 0])(stimuli(3)[[2, 0]]), expected[[2, 0]], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(objective.on(video_model())(stimuli(3)), expected, rtol=1e-4, atol=1e-6)


def test_directions_against_numpy():
    groups = [[("monday", 0), ("monday", 2), ("tuesday", 1)], [("tuesday", 0), ("monday", 1), ("monday", 3)]]
    directions = [[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]]
    stimulus = stimuli(2)
    expected = []
    for row, (group, direction) in enumerate(zip(groups, directions, strict=True)):
        z = np.array([VIDEO(stimulus[[row]], session)[0, 1:4, i].mean().item() for session, i in group])
        expected.append(z @ direction / np.linalg.norm(z) / np.linalg.norm(direction))
    objective = ml.DirectionObjective(VIDEO, groups, WINDOW, directions)
    np.testing.assert_allclose(objective(stimulus), expected, rtol=1e-4)
    np.testing.assert_allclose(objective.for_rows([1])(stimulus[1:]), expected[1:], rtol=1e-4)
    of_groups = ml.NeuronObjective(VIDEO, groups, WINDOW).traces(stimulus)
    torch.testing.assert_close(objective.traces(stimulus), of_groups)


def test_a_direction_in_the_space_of_linear_neurons_is_reached():
    # Linear neurons with independent kernels can respond in any direction.
    model = linear_model(neurons=3)
    direction = [0.5, -1.0, 2.0]
    meis = find(model, [[0, 1, 2]], time_steps=4, objective=partial(ml.DirectionObjective, direction=direction))
    assert meis["score"].item() > 0.999
    response = model(torch.from_numpy(meis["stimulus"].values))[0, 0].numpy()
    np.testing.assert_allclose(response / np.linalg.norm(response), direction / np.linalg.norm(direction), atol=0.05)


@pytest.mark.slow
def test_a_level_and_a_trace_are_hit(simulated):
    neurons = [("session_1", 0), ("session_1", 3)]
    best = find(simulated, neurons, search="quick", time_steps=30)["score"].values
    level = (0.4 * best).tolist()
    meis = find(
        simulated,
        neurons,
        objective=partial(ml.TargetLevelObjective, level=level),
        search="quick",
        time_steps=30,
        constraint=ml.MaximalNorm(23.0),
    )
    np.testing.assert_allclose(meis["response"].mean("response_time"), level, rtol=0.02)

    trace = (1 + 0.5 * np.sin(2 * np.pi * np.arange(10) / 10)).tolist()
    meis = find(
        simulated,
        neurons,
        objective=partial(ml.TargetTraceObjective, trace=trace),
        time_steps=30,
        constraint=ml.MaximalNorm(23.0),
        optimizer=partial(ml.AdaptivePowerMethod, smallest=1e-4),
    )
    error = ((meis["response"] - np.array(trace)) ** 2).mean("response_time")
    np.testing.assert_allclose(-error, meis["score"], rtol=1e-4, atol=1e-6)
    assert (error < 0.01 * np.var(trace)).all(), error.values


def test_a_contrast_of_windows_tells_transient_from_sustained_cells(simulated):
    """What a stimulus early in the response gains over one that lasts is more for transient cells."""
    table = simulated.neurons
    reducer = ml.WindowContrastReducer(axis=0, start=0, length=5, against_start=10, against_length=10)
    meis = find(simulated, [("session_1", 0), ("session_1", 1)], reducer=reducer, search="quick", time_steps=40)
    assert table["type"][:2].tolist() == ["on_sustained", "on_transient"]
    early = meis["response"][:, :5].mean("response_time")
    late = meis["response"][:, 10:].mean("response_time")
    np.testing.assert_allclose(meis["score"], early - late, rtol=1e-4)
    resting = [simulated(torch.zeros(1, 2, 21, 18, 16), "session_1")[0, 0, i].item() for i in range(2)]
    assert (late < resting).all()
    assert (early > 10 * np.array(resting)).all()


def test_a_single_neuron_is_one_row():
    alone, in_a_list = (ml.TargetLevelObjective(VIDEO, these, WINDOW, 0.8) for these in (NEURONS[0], NEURONS[:1]))
    assert alone(stimuli(1)).tolist() == in_a_list(stimuli(1)).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ml.TargetLevelObjective(VIDEO, NEURONS, WINDOW, [1.0, 2.0]), "one for each of the 3 rows"),
        (lambda: ml.TargetLevelObjective(VIDEO, NEURONS, WINDOW, float("nan")), "level has values that are not finite"),
        (lambda: ml.TargetTraceObjective(VIDEO, NEURONS, WINDOW, 1.0), "trace of shape"),
        (lambda: ml.TargetTraceObjective(VIDEO, NEURONS, WINDOW, [0.0] * 5)(stimuli(3)), "has 5 frames.* has 6"),
        (
            lambda: ml.DirectionObjective(VIDEO, [NEURONS[:2]], WINDOW, [1.0, 0.0, 0.0]),
            "2 neurons needs as many",
        ),
        (lambda: ml.DirectionObjective(VIDEO, [NEURONS[:2]], WINDOW, [0.0, 0.0]), "not all of them 0"),
        (lambda: ml.WindowContrastReducer(0, 0, 2, 3, 0), "length >= 1"),
    ],
)
def test_bad_targets_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
