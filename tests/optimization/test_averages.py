"""The average of two of a neuron's best stimuli, optimised again."""

import math

import numpy as np
import pytest
import torch
from conftest import LinearNetwork, find, fit, read
from lightning.pytorch import Callback
from torch import nn

import mei_lightning as ml
from mei_lightning.optimization.search import pairs_of_ranks, worth_averaging

NORM, THRESHOLD = 4.0, 0.5
ONE_FEATURE = math.log1p(NORM - THRESHOLD)
BOTH_FEATURES = 2 * math.log1p(NORM / math.sqrt(2) - THRESHOLD)
NEURONS = list(range(24))


class TwoFeatures(nn.Module):
    """``log(1 + drive)`` of each of two pixels above a threshold, added: either pixel alone is a local optimum."""

    def __init__(self, neurons):
        super().__init__()
        self.gains = nn.Parameter(torch.ones(neurons))

    def forward(self, image):
        drive = (image[:, 0, 1, 1:3] - THRESHOLD).clamp(min=0).log1p()
        return drive.sum(dim=1, keepdim=True) * self.gains


def two_features():
    return ml.RetinaModel(TwoFeatures(len(NEURONS)), ml.StimulusFormat(("grey",), 3, 4), len(NEURONS))


def linear_images():
    network = LinearNetwork(neurons=5, shape=(1, 1, 5, 4))

    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = network

        def forward(self, image):
            return self.linear(image[:, :, None])[:, 0]

    return ml.RetinaModel(Still(), ml.StimulusFormat(("grey",), 5, 4), 5)


@pytest.mark.slow
def test_an_average_has_what_two_optima_have_each():
    plain = find(two_features(), NEURONS, norm=NORM, restarts=4)
    meis = find(two_features(), NEURONS, norm=NORM)
    optima = [0.0, ONE_FEATURE, BOTH_FEATURES]
    for scores in (plain["score"].values, meis["score"].values):
        assert (np.abs(scores[:, None] - optima).min(axis=1) < 0.01).all()
    both = [np.isclose(found["score"].values, BOTH_FEATURES, atol=0.01) for found in (plain, meis)]
    # Nothing is lost, and what had one feature from some starts, and the other one from others, has both.
    assert (both[1] >= both[0]).all()
    assert both[1].sum() > both[0].sum()


class Generations(Callback):
    """Notes how many generations of averages began, and in how many rows."""

    def __init__(self):
        self.begun, self.rows = [], []

    def on_train_batch_end(self, trainer, module, *_):
        taken = module.neuron_in_slot >= 0
        self.begun.append(module.rows.generations[taken].tolist())
        self.rows.append(int(module.rows.by_slot(module.active)[taken][:, module.rows.starts :].sum()))


def module_of(model, directory, **options):
    module = ml.MEIModule(model, NEURONS[:5], norm=NORM, **options)
    seen = Generations()
    fit(module, -1, seen, ml.RowConvergence(), directory=directory)
    return seen


def test_nothing_is_spent_on_a_neuron_whose_starts_meet(tmp_path):
    seen = module_of(linear_images(), tmp_path)
    assert max(seen.rows) == 0
    assert read(tmp_path)["status"].values.tolist() == ["converged"] * 5


def test_averages_begin_in_as_many_generations_as_the_search_says(tmp_path):
    search = ml.MultiStart(starts=4, keep=2, trial_steps=8, shifts=(), averages=3, generations=3)
    seen = module_of(two_features(), tmp_path, search=search)
    assert 0 < max(seen.rows) <= 5 * 3
    # The last one is the best stimulus itself, once more.
    assert max(max(begun, default=0) for begun in seen.begun) <= 4
    assert read(tmp_path)["status"].values.tolist() == ["converged"] * 5


@pytest.mark.slow
def test_movies_can_have_shifts_and_averages():
    search = ml.MultiStart(starts=3, keep=2, averages=1, generations=1, max_steps=30)
    neurons = [("session_1", 0), ("session_1", 4)]
    plain = find("simulated", neurons, search=ml.MultiStart(starts=3, keep=2, max_steps=30))
    meis = find("simulated", neurons, search=search)
    assert (meis["score"] >= plain["score"] * (1 - 1e-5)).all()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"averages": 4}, "3 starts have 3 pairs to average"),
        ({"averages": -1}, "3 starts have 3 pairs to average"),
        ({"generations": 0}, "generations=0 has to be at least 1"),
        ({"averages": 0.5}, "averages=0.5 must be a whole number"),
    ],
)
def test_numbers_that_cannot_be(wrong, complaint):
    with pytest.raises((ValueError, TypeError), match=complaint):
        ml.MultiStart(**wrong)


def test_averages_need_rows_that_begin_one_by_one():
    search = ml.MultiStart(starts=2, shifts=(), averages=1)
    with pytest.raises(ValueError, match=r"Give averages=0\."):
        ml.MEIModule(two_features(), [0], norm=NORM, search=search, optimizer=torch.optim.LBFGS)


@pytest.mark.parametrize(
    ("search", "starts", "keep", "averages"), [("quick", 2, 1, 0), ("normal", 6, 2, 2), ("thorough", 16, 8, 7)]
)
def test_still_images_are_searched_by_averages_unless_starts_are_given(search, starts, keep, averages):
    chosen = ml.MEIModule(two_features(), [0], norm=NORM, search=search).problem.search
    assert (chosen.starts, chosen.keep, chosen.averages, chosen.shifts) == (starts, keep, averages, ())
    of_starts = ml.MEIModule(two_features(), [0], norm=NORM, search=search, restarts=3).problem.search
    assert (of_starts.starts, of_starts.averages) == (3, 0)


def test_the_best_are_averaged_first():
    assert pairs_of_ranks(4, 6) == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert pairs_of_ranks(3, 2) == [(0, 1), (0, 2)]
    assert pairs_of_ranks(1, 0) == []


def test_stimuli_that_are_alike_or_opposite_or_unknown_are_not_averaged():
    similarity = torch.tensor([1.0, 0.96, 0.94, 0.0, -0.5, -1.0, torch.nan])
    assert worth_averaging(similarity).tolist() == [False, False, True, True, True, False, False]
