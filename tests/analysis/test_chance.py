"""The chance of a better optimum: against its assumptions simulated, and on neurons whose optima are known."""

import numpy as np
import pytest
import torch
from torch import nn

import mei_lightning as ml
from mei_lightning.analysis.chance import chance_of_better


def test_chance_is_that_of_its_assumptions():
    """Neurons of all hardnesses, whose runs find the first, second or third optimum and so on by chance."""
    generator = np.random.default_rng(0)
    neurons, runs = 400_000, 4
    p = generator.beta(2, 2, size=neurons)
    rank = generator.geometric(p, size=(runs, neurons))
    scores = 0.5 ** np.minimum(rank, 500.0)
    chance = chance_of_better(scores)
    missed = rank.min(axis=0) > 1
    found = (scores == scores.max(axis=0)).sum(axis=0)
    for count in range(1, runs + 1):
        which = found == count
        assert chance[which].mean() == pytest.approx(missed[which].mean(), abs=0.01)


def test_nearly_equal_scores_are_one_optimum():
    together, apart = chance_of_better(np.array([[1.0, 1.0], [0.996, 0.994], [0.997, 0.994]]))
    assert together < 0.1 < apart


def test_what_is_not_known_is_nan():
    scores = np.array([[1.0, -1.0, np.nan, np.nan], [np.nan, -2.0, 1.0, np.nan], [np.nan, -1.0, 1.0, np.nan]])
    np.testing.assert_array_equal(np.isnan(chance_of_better(scores)), [True, True, False, True])


class BestOfFilters(nn.Module):
    """Each neuron responds to the one of its filters that the image drives most; its optimum is the longest filter."""

    def __init__(self, filters):
        super().__init__()
        self.filters = nn.Parameter(torch.cat(filters))
        self.sizes = [len(one) for one in filters]

    def forward(self, image):
        drive = image.flatten(1) @ self.filters.T
        return torch.stack([one.amax(dim=1) for one in drive.split(self.sizes, dim=1)], dim=1)


def neurons_of_known_optimum(count, seed):
    """Neurons of 1 to 60 filters whose lengths differ little or much, and the lengths of their longest."""
    generator = np.random.default_rng(seed)
    filters = []
    for _ in range(count):
        number = int(np.exp(generator.uniform(0, np.log(60))))
        lengths = 1 + np.exp(generator.uniform(np.log(0.02), np.log(0.6))) * generator.uniform(size=number)
        directions = generator.standard_normal((number, 256))
        directions *= (lengths / np.linalg.norm(directions, axis=1))[:, None]
        filters.append(torch.tensor(directions, dtype=torch.float32))
    return filters, np.array([float(one.norm(dim=1).max()) for one in filters])


@pytest.mark.slow
def test_chance_is_calibrated_on_300_neurons_of_known_optimum():
    filters, optima = neurons_of_known_optimum(300, 0)
    chances, missed = [], []
    for first in range(0, len(filters), 25):
        model = ml.RetinaModel(
            BestOfFilters(filters[first : first + 25]), ml.StimulusFormat(("grey",), height=16, width=16)
        )
        meis = ml.find_meis(model, "all", norm=1.0, search="quick", repeats=3, progress_bar=False)
        best = np.maximum(meis["score"], meis["repeat_score"].max("repeat")).values
        chances += meis["chance_of_better"].values.tolist()
        missed += (best < 0.99 * optima[first : first + 25]).tolist()
    chances, missed = np.array(chances), np.array(missed)
    assert chances.mean() == pytest.approx(missed.mean(), abs=0.1)
    for low, high in ((0, 0.03), (0.03, 0.1), (0.1, 0.2), (0.2, 1)):
        which = (chances >= low) & (chances < high)
        assert which.sum() > 20
        assert chances[which].mean() == pytest.approx(missed[which].mean(), abs=0.1)
