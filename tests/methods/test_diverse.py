"""Several stimuli for each neuron, as different as possible."""

import numpy as np
import pytest
import torch
from conftest import find, linear_model, still_model, video_model

import mei_lightning as ml
from mei_lightning.objectives import DiverseObjective

QUIET = {"progress_bar": False, "search": "quick"}


def similarities(dataset):
    """The cosines between the different stimuli of each neuron, ``[neurons, pairs]``."""
    number = dataset.sizes["number"]
    return dataset["similarity"].values[:, *np.triu_indices(number, 1)]


@pytest.mark.parametrize("number", [2, 3, 5])
def test_stimuli_of_a_linear_neuron_are_as_far_apart_as_can_be(number):
    """All at the angle to the kernel that the response allows, and at equal angles around it: a simplex."""
    model = linear_model()
    diverse = ml.find_diverse_stimuli(model, [0, 2], number, time_steps=4, norm=2.0, **QUIET)
    response = torch.einsum(
        "nicthw,ncthw->ni", torch.from_numpy(diverse["stimulus"].values), model.network.kernels[[0, 2]]
    )
    np.testing.assert_allclose(diverse["score"], response.detach(), rtol=1e-4)
    best = 2.0 * model.network.kernels[[0, 2]].flatten(1).norm(dim=1).detach().numpy()
    np.testing.assert_allclose(diverse["share"], diverse["score"].values / best[:, None], rtol=1e-3)
    assert (diverse["share"] >= 0.85).all()
    farthest = 0.85**2 - (1 - 0.85**2) / (number - 1)
    assert (similarities(diverse).max(axis=1) > farthest - 1e-3).all()
    assert (similarities(diverse) < farthest + 0.05).all()
    np.testing.assert_allclose(np.linalg.norm(diverse["stimulus"].values.reshape(2, number, -1), axis=2), 2, rtol=1e-5)


@pytest.mark.slow
def test_stimuli_of_simulated_cells_differ_more_than_restarts_do(simulated):
    neurons = [("session_1", i) for i in range(8)]
    diverse = ml.find_diverse_stimuli(
        simulated, neurons, time_steps=24, ranges=[(-0.654, 6.269), (-0.913, 6.269)], max_steps=50, **QUIET
    )
    assert (diverse["share"] >= 0.85).all()
    meis = find(simulated, neurons, time_steps=24, ranges=[(-0.654, 6.269), (-0.913, 6.269)], restarts=4)
    mean = similarities(diverse).mean(axis=1)
    assert (mean < meis["restart_similarity"] - 0.1).all(), (mean, meis["restart_similarity"].values)
    stimuli = torch.from_numpy(diverse["stimulus"].values)
    for neuron, number in ((0, 1), (5, 3)):
        response = simulated(stimuli[neuron, number][None], "session_1")[0, :, neuron].mean()
        assert response.item() == pytest.approx(diverse["score"].values[neuron, number], rel=1e-4)
    assert stimuli[:, :, 0].min() >= -0.654 - 1e-5
    assert stimuli[:, :, 1].min() >= -0.913 - 1e-5


@pytest.mark.slow
def test_neurons_do_not_know_of_each_other():
    neurons = [("monday", 0), ("tuesday", 1), ("monday", 3)]
    options = {"number": 2, "time_steps": 8, "max_steps": 15, **QUIET}
    together = ml.find_diverse_stimuli(video_model(), neurons, **options)
    alone = ml.find_diverse_stimuli(video_model(), neurons[1:2], **options)
    another_order = ml.find_diverse_stimuli(video_model(), neurons[::-1], **options)
    np.testing.assert_allclose(alone["stimulus"], together["stimulus"][[1]], atol=1e-4)
    np.testing.assert_allclose(another_order["stimulus"][::-1], together["stimulus"], atol=1e-4)


def test_scores_against_a_loop():
    model = video_model()
    neurons = [("monday", 0), ("tuesday", 1)]
    stimulus = torch.randn(5, *model.stimulus_shape(8)[1:], generator=torch.Generator().manual_seed(0))
    of_row, best = [0, 1, 0, 1, 0], [4.0, 5.0, 4.0, 5.0, 4.0]
    plain = ml.NeuronObjective(model, [neurons[neuron] for neuron in of_row], ml.MeanReducer())
    response = plain(stimulus).numpy()
    least = float(np.median(response / best))
    objective = DiverseObjective(plain, of_row, best, least)
    expected = []
    for row in range(5):
        others = [i for i in range(5) if i != row and of_row[i] == of_row[row]]
        nearest = max(torch.cosine_similarity(stimulus[i].flatten(), stimulus[row].flatten(), 0) for i in others)
        share = response[row] / best[row]
        expected.append(1 - nearest - (3 * (least - share) + 10 if share < least else 0))
    np.testing.assert_allclose(objective(stimulus), expected, rtol=1e-4, atol=1e-4)
    some = [4, 1, 0, 3, 2]
    np.testing.assert_allclose(objective.for_rows(some)(stimulus[some]), np.array(expected)[some], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_reached_is_the_mei():
    """With the whole response asked for, and no step to get there, nothing but the MEI itself will do."""
    options = {"time_steps": 4, "norm": 2.0, "max_steps": 1, **QUIET}
    diverse = ml.find_diverse_stimuli(linear_model(), [1], 2, least=1.0, **options)
    np.testing.assert_allclose(diverse["share"], 1, rtol=1e-5)
    np.testing.assert_allclose(diverse["similarity"], 1, rtol=1e-5)


def test_still_images(tmp_path):
    diverse = ml.find_diverse_stimuli(still_model(), [0, 3], 3, max_steps=30, **QUIET)
    assert diverse["stimulus"].shape == (2, 3, 1, 1, 7, 6)
    assert (diverse["share"] >= 0.85).all()
    ml.save_dataset(diverse, tmp_path / "diverse.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 1}, "number=1: stimuli differ"),
        ({"least": 1.2}, "least=1.2 has to be"),
        ({"neurons": [("monday", 0)]}, "no session"),
        ({"model": ml.RetinaModel(torch.nn.Linear(3, 1), ml.StimulusFormat(("grey",), 1, 3), 1)}, "positive, not"),
    ],
)
def test_bad_input_is_refused(options, message):
    options = {"model": linear_model(), "neurons": [0], **QUIET, **options}
    if "positive" in message:
        network = options["model"].network
        network.bias.data.fill_(-100.0)
        options["model"].network = torch.nn.Sequential(torch.nn.Flatten(), network)
    with pytest.raises(ValueError, match=message):
        ml.find_diverse_stimuli(**options)
