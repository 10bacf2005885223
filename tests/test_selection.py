"""Choosing neurons against a loop over the neuron table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mei_lightning import Neuron, NeuronSelection, RetinaModel, SimulatedRetina, StimulusFormat

RETINA = SimulatedRetina()
TABLE = RETINA.neurons
SESSIONS = sorted(set(TABLE["session"]))
TYPES = sorted(set(TABLE["type"]))


def subsets(values):
    return st.none() | st.lists(st.sampled_from(values), min_size=1, unique=True)


@given(subsets(SESSIONS), subsets(list(range(36))), subsets(TYPES))
def test_conditions_hold_together(sessions, indices, types):
    expected = [
        Neuron(row["session"], row["index"])
        for row in TABLE.to_dict("records")
        if (sessions is None or row["session"] in sessions)
        and (indices is None or row["index"] in indices)
        and (types is None or row["type"] in types)
    ]
    where = None if types is None else {"type": types}
    selection = NeuronSelection(sessions, indices, where)
    if expected:
        assert selection.of(RETINA) == expected
    else:
        with pytest.raises(ValueError, match="No neuron"):
            selection.of(RETINA)


@given(st.integers(1, 12), st.integers(0, 1000))
def test_sample_is_a_part_that_the_seed_determines(sample, seed):
    everything = NeuronSelection(where={"type": "on_off"}).of(RETINA)
    chosen = NeuronSelection(where={"type": "on_off"}, sample=sample, seed=seed).of(RETINA)
    assert len(set(chosen)) == sample
    assert chosen == [neuron for neuron in everything if neuron in chosen]
    assert chosen == NeuronSelection(where={"type": "on_off"}, sample=sample, seed=seed).of(RETINA)


def test_samples_of_different_seeds_differ():
    assert len({tuple(NeuronSelection(sample=5, seed=seed).of(RETINA)) for seed in range(10)}) > 5


def test_boolean_column_and_a_model_without_sessions():
    class Rated(RetinaModel):
        @property
        def neurons(self):
            return super().neurons.assign(good=[True, False, True])

    model = Rated(nn.Linear(1, 3), StimulusFormat(("grey",), 1, 1), 3)
    assert NeuronSelection(where={"good": True}).of(model) == [Neuron(None, 0), Neuron(None, 2)]


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        (
            NeuronSelection(sessions=["session_9"]),
            ValueError,
            "no session 'session_9'.*session_1, session_2, session_3",
        ),
        (NeuronSelection(indices=[36]), IndexError, "'session_1' has no neuron 36: its 36 neurons are 0 to 35"),
        (NeuronSelection(where={"kind": "x"}), ValueError, "no column 'kind'; it has session, index, type"),
        (NeuronSelection(where={"type": "x"}), ValueError, "No neuron has type = 'x'; there is on_sustained"),
        (NeuronSelection(sample=109), ValueError, "sample=109 is not between 1 and the 108 neurons"),
        (NeuronSelection(sample=0), ValueError, "sample=0 is not between 1 and the 108 neurons"),
    ],
)
def test_errors_list_what_exists(selection, error, message):
    with pytest.raises(error, match=message):
        selection.of(RETINA)


@pytest.mark.parametrize("column", ["type", "session"])
def test_neurons_with_the_same_value_together(simulated, column):
    groups = NeuronSelection(sessions=["session_1", "session_3"], together=column).of(simulated)
    table = simulated.neurons[simulated.neurons["session"] != "session_2"]
    expected = [
        [(session, index) for session, index in zip(part["session"], part["index"], strict=True)]
        for _, part in table.groupby(column, sort=False)
    ]
    assert [[(neuron.session, neuron.index) for neuron in group] for group in groups] == expected


def test_a_column_that_does_not_exist_puts_nothing_together(simulated):
    with pytest.raises(ValueError, match=r"no column 'depth'; it has session, index, type"):
        NeuronSelection(together="depth").of(simulated)
