"""Some neurons up and others down, against openretina, against loops, and on the simulated retina."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import SESSIONS, find, still_model, video_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

import mei_lightning as ml

VIDEO = video_model()
NEURONS = [(session, index) for session, count in SESSIONS.items() for index in range(count)]


def stimuli(rows, seed=0):
    return torch.randn(VIDEO.stimulus_shape(8, rows), generator=torch.Generator().manual_seed(seed))


def responses(stimulus):
    """Mean responses over time ``[rows, neurons]``, neurons as in ``NEURONS``."""
    return torch.cat([VIDEO(stimulus, session).mean(dim=1) for session in SESSIONS], dim=1).detach().numpy()


def contrast_by_hand(scores, temperature):
    """The score of the first of some numbers, from scipy's softmax."""
    return log_softmax(np.array(scores, dtype=float) / temperature)[0] + np.log(len(scores))


@pytest.mark.parametrize("reducer", ["MeanReducer", "SliceMeanReducer"])
@pytest.mark.parametrize("off", [[[1]], [[1, 2], [3], [0, 3]]])
def test_the_same_arguments_give_the_score_of_openretina(reducer, off):
    theirs = pytest.importorskip("openretina.insilico.stimulus_optimization.objective")
    arguments = {} if reducer == "MeanReducer" else {"axis": 0, "start": 1, "length": 3}
    groups = {"on_cluster_idc": [0, 2], "off_cluster_idc_list": off, "data_key": "monday", "temperature": 0.7}
    own = ml.ContrastiveNeuronObjective(VIDEO, response_reducer=getattr(ml, reducer)(**arguments), **groups)
    their = theirs.ContrastiveNeuronObjective(VIDEO, response_reducer=getattr(theirs, reducer)(**arguments), **groups)
    stimulus = stimuli(3).requires_grad_()
    # openretina takes a batch for time, so it sees one stimulus at a time.
    expected = torch.stack([their.forward(row) for row in stimulus.split(1)])
    found = own(stimulus)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(score.sum(), stimulus)[0] for score in (found, expected)))


groups_of_neurons = st.lists(st.sampled_from(range(len(NEURONS))), min_size=1, max_size=3)


@given(groups=st.lists(groups_of_neurons, min_size=2, max_size=4), temperature=st.floats(0.05, 5), data=st.data())
@settings(max_examples=25)
def test_groups_across_sessions_against_a_loop(groups, temperature, data):
    stimulus = stimuli(len(groups), seed=len(groups))
    of_neurons = responses(stimulus)
    means = np.stack([of_neurons[:, group].mean(axis=1) for group in groups], axis=1)
    expected = [
        contrast_by_hand([means[row, row], *np.delete(means[row], row)], temperature) for row in range(len(groups))
    ]
    objective = ml.DiscriminativeObjective(
        VIDEO, [[NEURONS[number] for number in group] for group in groups], ml.MeanReducer(), temperature
    )
    np.testing.assert_allclose(objective(stimulus), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objective.traces(stimulus).mean(dim=1), means.diagonal(), rtol=1e-4, atol=1e-6)
    some = data.draw(st.permutations(range(len(groups))))[: data.draw(st.integers(1, len(groups)))]
    np.testing.assert_allclose(objective.for_rows(some)(stimulus[some]), np.array(expected)[some], rtol=1e-4, atol=1e-5)


def test_one_neuron_against_all_others_of_its_sessions():
    targets = [("monday", 1), ("tuesday", 2), [("monday", 0), ("monday", 2)], [("monday", 3), ("tuesday", 0)]]
    neighbours = [[0, 2, 3], [4, 5], [1, 3], [0, 1, 2, 5, 6]]
    stimulus = stimuli(len(targets))
    of_neurons = responses(stimulus)
    own = [of_neurons[0, 1], of_neurons[1, 6], of_neurons[2, [0, 2]].mean(), of_neurons[3, [3, 4]].mean()]
    expected = [contrast_by_hand([own[row], *of_neurons[row, others]], 0.5) for row, others in enumerate(neighbours)]
    objective = ml.OneHotObjective(VIDEO, targets, ml.MeanReducer(), temperature=0.5)
    np.testing.assert_allclose(objective(stimulus), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(objective.for_rows([3, 1])(stimulus[[3, 1]]), [expected[3], expected[1]], rtol=1e-4)


def test_the_neighbours_are_the_nearest_neurons(simulated):
    objective = ml.OneHotObjective(simulated, [("session_2", 4)], ml.MeanReducer(), neighbours=3)
    places = simulated.neurons.set_index(["session", "index"]).loc["session_2"][["y", "x"]].to_numpy()
    order = np.argsort(((places - places[4]) ** 2).sum(axis=1))
    assert [group[0].index for group in objective.others[0]] == order[1:4].tolist()


@pytest.mark.slow
def test_a_discriminative_stimulus_drives_its_type_above_all_others_where_the_plain_mei_does_not(simulated):
    types = ml.NeuronSelection(together="type")
    groups = types.of(simulated)

    def wins(objective):
        """For each type whether its stimulus drives it more than any other type."""
        meis = find(simulated, types, objective=objective, search="quick", time_steps=30)
        stimulus = torch.from_numpy(meis["stimulus"].values)
        means = [ml.NeuronObjective(simulated, [group] * len(groups), ml.MeanReducer())(stimulus) for group in groups]
        return (torch.stack(means).argmax(dim=0) == torch.arange(len(groups))).tolist()

    assert wins(ml.NeuronObjective) == [False, True, True, True, True, True, True, True]
    assert all(wins(partial(ml.DiscriminativeObjective, temperature=0.3)))


def test_one_hot_keeps_the_neighbours_down_and_its_neuron_up(simulated):
    neuron = ("session_1", 0)
    (neighbours,) = ml.OneHotObjective(simulated, [neuron], ml.MeanReducer(), neighbours=6).others
    found = []
    for objective in (ml.NeuronObjective, partial(ml.OneHotObjective, neighbours=6, temperature=0.3)):
        meis = find(simulated, [neuron], objective=objective, search="quick", time_steps=30, norm=10.0)
        mean = simulated(torch.from_numpy(meis["stimulus"].values), "session_1")[0].mean(dim=0)
        found.append((mean[0].item(), mean[[group[0].index for group in neighbours]].max().item()))
    (own_of_plain, loudest_of_plain), (own, loudest) = found
    assert own > 0.8 * own_of_plain
    assert loudest < 0.8 * loudest_of_plain
    assert own - loudest > 1.3 * (own_of_plain - loudest_of_plain)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ml.DiscriminativeObjective(VIDEO, NEURONS[:1], ml.MeanReducer()), ValueError, "only one group"),
        (lambda: ml.DiscriminativeObjective(VIDEO, NEURONS, ml.MeanReducer(), 0.0), ValueError, "temperature=0.0 must"),
        (
            lambda: ml.ContrastObjective(VIDEO, NEURONS[:2], ml.MeanReducer(), [[("monday", 1)]]),
            ml.MEIError,
            r"others has 1 list\(s\) of groups for 2 row\(s\)",
        ),
        (lambda: ml.ContrastiveNeuronObjective(VIDEO, [0], [], "monday", ml.MeanReducer()), ValueError, "only one"),
        (lambda: ml.ContrastiveNeuronObjective(VIDEO, [0], [[]], "monday", ml.MeanReducer()), ValueError, "no neurons"),
        (
            lambda: ml.ContrastiveNeuronObjective(VIDEO, [0], [[9]], "monday", ml.MeanReducer())(stimuli(1)),
            IndexError,
            "'monday' has no neuron 9",
        ),
        (lambda: ml.OneHotObjective(VIDEO.network, NEURONS, ml.MeanReducer()), TypeError, "wrap it in RetinaModel"),
        (
            lambda: ml.OneHotObjective(still_model(), [0], ml.MeanReducer(), 2),
            ValueError,
            "neighbours=2: model .* where",
        ),
        (lambda: ml.OneHotObjective(VIDEO, [("sunday", 0)], ml.MeanReducer()), ValueError, "no session 'sunday'"),
        (lambda: ml.OneHotObjective(VIDEO, [("monday", 7)], ml.MeanReducer()), IndexError, "no neuron 7"),
    ],
)
def test_bad_contrasts_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_more_neighbours_than_there_are_are_refused(simulated):
    with pytest.raises(ValueError, match=r"neighbours=36 of session_1/0 is not between 1 and 35"):
        ml.OneHotObjective(simulated, [("session_1", 0)], ml.MeanReducer(), neighbours=36)
