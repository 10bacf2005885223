import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mei_lightning.neurons import Neuron, as_neuron, group_label, group_of, group_of_label, groups_of, seed_of_row

neurons = st.builds(Neuron, st.sampled_from([None, "monday", "tuesday"]), st.integers(0, 999))


@pytest.mark.parametrize(
    ("written", "neuron"),
    [
        (("monday", 3), Neuron("monday", 3)),
        (["monday", 3], Neuron("monday", 3)),
        (("monday", np.int64(3)), Neuron("monday", 3)),
        ((None, 3), Neuron(None, 3)),
        (("", 3), Neuron(None, 3)),
        (3, Neuron(None, 3)),
        (np.int32(3), Neuron(None, 3)),
        (Neuron("monday", 3), Neuron("monday", 3)),
        (Neuron(20240501, 3), Neuron("20240501", 3)),
    ],
)
def test_ways_to_write_a_neuron(written, neuron):
    assert as_neuron(written) == neuron
    assert group_of(written) == (neuron,)
    assert group_of([written, written]) == (neuron, neuron)
    assert type(as_neuron(written).index) is int


@pytest.mark.parametrize("wrong", ["monday", ("monday",), ("monday", "3"), ("monday", 1.5), (3.0, 1), True, None, 2.5])
def test_what_is_not_a_neuron_is_named(wrong):
    with pytest.raises(ValueError, match="give") as caught:
        as_neuron(wrong)
    assert repr(wrong) in str(caught.value)
    with pytest.raises(ValueError, match="give"):
        group_of(wrong)


def test_a_whole_number_names_a_session_that_the_model_has():
    assert groups_of((20240501, 3), ["20240501"]) == [(Neuron("20240501", 3),)]
    assert groups_of([(np.int64(20240501), 3), [(20240501, 1), ("a", 0)]], ["a", "20240501"]) == [
        (Neuron("20240501", 3),),
        (Neuron("20240501", 1), Neuron("a", 0)),
    ]
    assert groups_of([(20240501, 3)]) == [(Neuron(None, 20240501), Neuron(None, 3))]


@pytest.mark.parametrize("name", ["mon\nday", "a/0+b", "a/0+a", "1", "ä %20", "+", "/0", "x/1\n"])
def test_a_label_names_its_neurons_whatever_characters_a_session_has(name):
    group = (Neuron(name, 12), Neuron("other", 3), Neuron(name, 0))
    assert group_of_label(group_label(group), [name, "other"]) == group


@pytest.mark.parametrize("label", ["monday", "monday/", "monday/x", "monday/3+", "/3"])
def test_what_is_no_label_is_refused(label):
    with pytest.raises(ValueError, match=r"is no label of neurons, such as session/index\."):
        group_of_label(label, ["monday", "tuesday"])


def test_an_empty_group_is_refused():
    with pytest.raises(ValueError, match=r"\[\] names no neuron"):
        group_of([])


def test_labels():
    assert Neuron("monday", 3).label == "monday/3"
    assert Neuron(None, 3).label == "3"
    assert group_label([Neuron("monday", 3), Neuron("tuesday", 0)]) == "monday/3+tuesday/0"


@given(st.sets(st.tuples(st.integers(0, 5), st.lists(neurons, min_size=1, max_size=3).map(tuple), st.integers(0, 3))))
@settings(max_examples=50)
def test_different_rows_have_different_seeds_that_fit_into_64_bits(rows):
    seeds = [seed_of_row(seed, group, restart) for seed, group, restart in rows]
    assert len(set(seeds)) == len(rows)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_on_every_machine():
    # From coreutils' sha256sum: a change would silently change every published initial stimulus.
    assert seed_of_row(0, [Neuron("session_1", 3)], 2) == 1459965931632618479
