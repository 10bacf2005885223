"""Neurons clustered by most discriminative stimuli."""

import numpy as np
import pytest
import torch
from conftest import linear_model
from scipy.special import comb

import mei_lightning as ml
from mei_lightning.methods.clusters import _Search


def adjusted_rand_index(one, other):
    """Agreement of two clusterings: 1 if they are the same, 0 on average if they have nothing to do with each other."""
    counts = np.zeros((len(set(one)), len(set(other))))
    np.add.at(counts, tuple(np.unique(labels, return_inverse=True)[1] for labels in (one, other)), 1)
    pairs, of_one, of_other = (comb(part, 2).sum() for part in (counts, counts.sum(1), counts.sum(0)))
    by_chance = of_one * of_other / comb(len(one), 2)
    return (pairs - by_chance) / ((of_one + of_other) / 2 - by_chance)


@pytest.fixture(scope="module")
def centred():
    return ml.SimulatedRetina(centred=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_cell_types_are_recovered_from_random_groups(centred, seed):
    found = ml.cluster_by_stimulus(centred, "all", clusters=8, time_steps=30, norm=20.0, seed=seed)
    table = centred.neurons
    types = table["type"].to_numpy()
    kinds = [f"{cell} {direction}" for cell, direction in zip(types, table["direction"], strict=True)]
    # Direction-selective cells of different directions are told apart, as they should be.
    assert adjusted_rand_index(kinds, found["cluster"].values) > 0.95
    assert adjusted_rand_index(types, found["cluster"].values) >= 0.8

    number = found.sizes["cluster_number"]
    assert sorted(set(found["cluster"].values)) == list(range(number))
    np.testing.assert_array_equal(found["response"].argmax("cluster_number"), found["cluster"])
    confusion = found["confusion"].values
    for cluster in range(number):
        own = found["response"].values[found["cluster"].values == cluster]
        np.testing.assert_allclose(confusion[:, cluster], own.mean(axis=0), rtol=1e-5)
    assert (confusion.argmax(axis=0) == np.arange(number)).all()
    norms = np.linalg.norm(found["stimulus"].values.reshape(number, -1), axis=1)
    np.testing.assert_allclose(norms, 20, rtol=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_clusters(centred):
    options = {"clusters": 3, "time_steps": 22, "norm": 20.0, "steps": 5}
    neurons = ml.NeuronSelection(sessions=["session_1"], indices=list(range(12)))
    one, other = (ml.cluster_by_stimulus(centred, neurons, **options, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one["cluster"], other["cluster"])
    np.testing.assert_array_equal(one["stimulus"], other["stimulus"])


@pytest.mark.parametrize("clusters", [2, 6])
def test_nearly_equal_neurons_are_merged_and_different_ones_split(clusters):
    """Two kinds of neurons that hardly differ among each other, from more groups than kinds, and from as many."""
    model = linear_model(neurons=8, gain=3.0)
    kernels = model.network.kernels.data
    kinds = kernels[:2].clone()
    noise = torch.randn(kernels.shape, generator=torch.Generator().manual_seed(1))
    kernels[:] = kinds.repeat(4, 1, 1, 1, 1) + 0.01 * noise
    found = ml.cluster_by_stimulus(model, "all", clusters=clusters, time_steps=4, norm=2.0)
    assert adjusted_rand_index(found["cluster"].values, [0, 1] * 4) == 1


def test_clusters_of_a_single_neuron_are_not_split():
    model = linear_model(neurons=3, gain=3.0)
    found = ml.cluster_by_stimulus(model, "all", clusters=3, time_steps=4, norm=2.0)
    assert sorted(found["cluster"].values) == [0, 1, 2]
    expected = torch.stack([model(x[None])[0, 0] for x in torch.from_numpy(found["stimulus"].values)], dim=1)
    np.testing.assert_allclose(found["response"], expected.detach(), rtol=1e-4)


def test_the_two_least_distinct_groups_are_merged():
    """Neurons 0, 2, 4, 6 are copies of one linear kernel and the others of another; the first kind is in two groups."""
    model = linear_model(neurons=8)
    kernels = model.network.kernels.data
    kernels[:] = kernels[:2].repeat(4, 1, 1, 1, 1)
    module = ml.MEIModule(model, "all", time_steps=4, norm=2.0)
    search = _Search(module.problem, temperature=1.6, steps=1, generator=np.random.default_rng(0))
    groups = [np.array([0, 4]), np.arange(1, 8, 2), np.array([2, 6])]
    stimuli = module.constraint(kernels[:3])
    merged, kept = search.merge(groups, stimuli, distinct=0.5)
    assert sorted(sorted(group.tolist()) for group in merged) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert search.merge(merged, kept, distinct=0.5) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 1}, "clusters=1 has to be between 2 and the 3 neurons"),
        ({"clusters": 4}, "clusters=4 has"),
        ({"clusters": 2, "distinct": 1.0}, "distinct=1.0"),
        ({"clusters": 2, "temperature": 0.0}, "temperature=0.0"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ml.cluster_by_stimulus(linear_model(), "all", time_steps=4, **options)
