"""Networks that compute or answer in another precision than single: scores do not depend on it but for rounding."""

import pytest
import torch
from conftest import find, fit
from torch import nn
from torch.nn import functional as F

import mei_lightning as ml

FACTS = ml.StimulusFormat(("grey",), 3, 4)
MOVIES = ml.StimulusFormat(("grey",), 3, 4, 30.0)


def best_scores(neurons):
    """The responses to the filters of norm 2."""
    return pytest.approx(2.0 * Linear().filters.detach()[neurons].norm(dim=1).numpy(), rel=1e-2)


class Linear(nn.Module):
    """Neurons that are linear in an image, changed as a test wants it; the MEI is the filter."""

    def __init__(self, answer=lambda responses: responses, autocast=None):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.Parameter(torch.randn(3, 12, generator=generator))
        self.answer = answer
        self.autocast = autocast

    def forward(self, image):
        with torch.autocast("cpu", self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.answer(F.linear(image.flatten(1), self.filters))


class Convolution(nn.Module):
    """Neurons of a movie, whose convolution is one that is made faster; all under autocast."""

    def __init__(self, autocast=None):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(nn.Conv3d(1, 3, (3, 3, 4)), nn.ELU())
        self.autocast = autocast

    def forward(self, movie):
        with torch.autocast("cpu", self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            return self.parts(movie)[..., 0, 0].mT


@pytest.mark.parametrize(
    "network",
    [
        Linear(lambda responses: responses.half()),
        Linear(lambda responses: responses.bfloat16()),
        Linear(lambda responses: responses.double()),
        Linear(autocast=torch.float16),
        Linear(autocast=torch.bfloat16),
        Linear().half(),
        Linear().bfloat16(),
        Linear(lambda responses: responses.float()).half(),
        Linear(lambda responses: responses.float()).bfloat16(),
    ],
)
def test_scores_and_traces_are_in_single_precision(network):
    meis = find(ml.RetinaModel(network, FACTS, 3), [0, 1, 2], norm=2.0, max_steps=8)
    assert meis["stimulus"].dtype == meis["response"].dtype == "float32"
    assert meis["score"].values == best_scores([0, 1, 2])
    with torch.no_grad():
        shown = torch.from_numpy(meis["stimulus"].values[:, :, 0]).to(network.filters)
        assert meis["response"].values[:, 0] == pytest.approx(network(shown).diagonal().float().numpy(), rel=1e-6)


def test_a_network_in_double_precision_that_answers_in_single_is_scored_in_double():
    meis = find(ml.RetinaModel(Linear(lambda responses: responses.float()).double(), FACTS, 3), [0], norm=2.0)
    assert meis["stimulus"].dtype == meis["response"].dtype == "float64"
    assert meis["score"].values == best_scores([0])


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_convolution_under_autocast_stays_as_it_is(precision):
    options = {"time_steps": 6, "norm": 2.0, "max_steps": 6}
    expected = find(ml.RetinaModel(Convolution(), MOVIES), [0, 1, 2], **options)
    meis = find(ml.RetinaModel(Convolution(precision), MOVIES), [0, 1, 2], **options)
    assert meis["score"].values == pytest.approx(expected["score"].values, rel=2e-2)


@pytest.mark.slow
def test_a_model_with_a_read_out_of_its_own_may_be_in_half_precision():
    model, neuron = ml.load_model("digital_twin"), ("session_1", 5)
    meis = find(model.to(torch.bfloat16), [neuron], restarts=1, max_steps=1, time_steps=32)
    with torch.no_grad():
        expected = ml.load_model("digital_twin")(torch.from_numpy(meis["stimulus"].values), neuron[0])[0, :, neuron[1]]
    assert meis["response"].values[0] == pytest.approx(expected.numpy(), rel=3e-2)


def test_members_of_different_precisions():
    members = [ml.RetinaModel(network, FACTS, 3) for network in (Linear(), Linear().half(), Linear().bfloat16())]
    meis = find(ml.Ensemble(members), [1], norm=2.0, max_steps=6)
    assert meis["score"].values == best_scores([1])


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_score_of_ones_own_may_be_in_another_precision(kind):
    meis = find(ml.RetinaModel(Linear(), FACTS, 3), [0, 2], norm=2.0, objective=lambda traces: traces.to(kind).mean(1))
    assert meis["score"].values == best_scores([0, 2])


def test_a_stimulus_in_half_precision_and_a_function_that_answers_in_one():
    filters = Linear().filters.detach().view(3, 1, 1, 3, 4)
    start = torch.ones(3, 1, 1, 3, 4)
    for initial, kind in ((start.half(), torch.float16), (start, torch.bfloat16)):
        module = ml.StimulusModule(
            lambda stimuli, kind=kind: (stimuli.to(kind) * filters.to(kind)).flatten(1).sum(1),
            initial,
            constraint=ml.NormAndRange(2.0),
        )
        fit(module, 6)
        assert module.best_score.dtype == torch.float32
        assert module.best_score.numpy() == pytest.approx(2.0 * filters.flatten(1).norm(dim=1).numpy(), rel=1e-2)


def test_analyses_of_a_half_network():
    model = ml.RetinaModel(Linear().half(), FACTS, 3)
    fields = ml.find_receptive_fields(model, [0, 1, 2])
    assert fields["stimulus"].values.reshape(3, -1) == pytest.approx(model.network.filters.float().numpy(), rel=1e-3)
    table = ml.cross_responses(model, find(model, [0, 1, 2], norm=2.0, max_steps=6), progress_bar=False)
    cosines = F.normalize(Linear().filters.detach()) @ F.normalize(Linear().filters.detach()).T
    assert table.values == pytest.approx(2.0 * Linear().filters.detach().norm(dim=1)[:, None] * cosines, abs=5e-2)
