"""A model of the user's own, as the documentation brings it."""

import sys

import numpy as np
import pytest
import torch
from conftest import STILL_FORMAT, LinearNetwork, StillNetwork, find
from documentation import HOW_TO, blocks
from torch import nn

import mei_lightning as ml

PAGE = blocks(HOW_TO / "own_model.md")
NETWORK = next(block.text for block in PAGE if block.file == "my_model.py")
FINDS_MEIS = next(block.text for block in PAGE if "RetinaModel(network" in block.text)


@pytest.mark.slow
def test_a_module_of_a_dozen_lines(tmp_path, monkeypatch):
    torch.manual_seed(0)
    (tmp_path / "my_model.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    names = {}
    exec(FINDS_MEIS, names)
    monkeypatch.delitem(sys.modules, "my_model")
    meis, model = names["meis"], names["model"]
    assert meis["neuron"].values.tolist() == ["0", "3", "5"]
    assert dict(meis.sizes) == {
        "neuron": 3,
        "channel": 2,
        "time": 34,
        "y": 12,
        "x": 10,
        "response_time": 20,
        "restart": 3,
    }
    noise = torch.randn(500, *meis["stimulus"].shape[1:])
    noise *= 10.0 / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        of_noise = model(noise).mean(1).amax(0)[[0, 3, 5]]
    assert (meis["score"].values > of_noise.numpy()).all()

    meis = ml.find_meis(model, [0, 3, 5], time_steps=15, norm=10.0, progress_bar=False)
    filters = model.network.filters.weight.detach()[[0, 3, 5]].flatten(1).numpy()
    found = meis["stimulus"].values.reshape(3, -1)
    cosine = (found * filters).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(filters, axis=1)
    assert (cosine > 0.999).all()


def test_a_model_in_double_precision_has_its_meis_in_double_precision():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    meis = ml.find_meis(
        ml.RetinaModel(network, ml.StimulusFormat(("grey",), 3, 4), 3), [0, 2], norm=2.0, progress_bar=False
    )
    weights, bias = (parameter.detach()[[0, 2]] for parameter in network[1].parameters())
    assert meis.stimulus.dtype == "float64"
    assert meis.score.values == pytest.approx(2.0 * weights.norm(dim=1) + bias)


class Wrong(nn.Module):
    """A network of 3 neurons that loses 2 frames, as it is or with neurons and time exchanged."""

    def __init__(self, transposed=False):
        super().__init__()
        self.transposed = transposed

    def forward(self, stimulus):
        responses = stimulus.mean((1, 3, 4))[:, 2:, None].repeat(1, 1, 3)
        return responses.mT if self.transposed else responses


@pytest.mark.parametrize(
    ("network", "neurons", "frames_lost", "message"),
    [
        (Wrong(), 3, 0, r"responses of shape \(1, 18, 3\).*should be \(1, 20, 3\)"),
        (Wrong(), 5, 2, r"responses of shape \(1, 20, 3\).*should be \(1, 20, 5\)"),
        (Wrong(transposed=True), 3, 2, r"responses of shape \(1, 3, 20\).*order of the network's output"),
    ],
)
def test_a_network_that_is_not_as_described_is_refused(network, neurons, frames_lost, message):
    model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), 4, 5, 30.0, frames_lost=frames_lost), neurons)
    with pytest.raises(ValueError, match=message):
        ml.find_meis(model, [0], progress_bar=False)


def test_a_reducer_of_the_wrong_axis_is_refused():
    with pytest.raises(ValueError, match=r"MeanReducer\(axis=1\) turned responses.*time axis, which is axis 0"):
        ml.find_meis("simulated", [("session_1", 0)], reducer=ml.MeanReducer(axis=1), progress_bar=False)


def test_counts_and_indices_may_be_numpy_integers():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), 3, 4), np.int64(3))
    stimulus = torch.zeros(1, 1, 1, 3, 4)
    score = ml.IncreaseObjective(model, np.int64(2), None, ml.MeanReducer())(stimulus)
    assert score.item() == pytest.approx(network[1].bias[2].item())


class SessionsByDate(StillNetwork):
    """Asked for a session as it was named: 20240501 and not "20240501"."""

    def forward(self, image, data_key):
        return super().forward(image) * {20240501: 1.0, "other": 2.0}[data_key]


def test_a_session_can_be_named_by_a_number(tmp_path):
    model = ml.RetinaModel(SessionsByDate(), STILL_FORMAT, {20240501: 5, "other": 5})
    group = [(np.int64(20240501), 1), ("other", 2)]
    found = find(model, [(20240501, 0), group], max_steps=2, restarts=1, directory=tmp_path)
    assert found["neuron"].values.tolist() == ["20240501/0", "20240501/1+other/2"]
    again = find(model, [("20240501", 0), group], max_steps=2, restarts=1, directory=tmp_path)
    assert again.identical(found)
    chosen = ml.NeuronSelection(sessions=[20240501], indices=[0])
    assert find(ml.Ensemble([model]), chosen, max_steps=2, restarts=1)["neuron"].values.tolist() == ["20240501/0"]
    image = torch.ones(1, 1, 1, 7, 6)
    torch.testing.assert_close(model(image, 20240501), model(image, "20240501"))
    assert ml.most_similar_meis(found, (20240501, 0), n=1)["neuron"].values.tolist() == ["20240501/1+other/2"]


class OneAnswerForAllSessions(LinearNetwork):
    def forward(self, stimulus, data_key):
        return super().forward(stimulus)


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("name", ["mon\nday", "a/0+b <i>über 50 %</i> $x_1$"])
def test_a_session_can_have_any_name(name, tmp_path):
    facts = ml.StimulusFormat(("green", "UV"), 6, 5, frame_rate=30.0, mean=(99, 99), sd=(5, 5), frames_lost=3)
    model = ml.RetinaModel(OneAnswerForAllSessions(), facts, {name: 3})
    found = find(model, [(name, 0), [(name, 1), (name, 2)]], time_steps=4, max_steps=2, restarts=1, directory=tmp_path)
    assert found["session"].values.tolist() == [name] * 2
    assert all((tmp_path / drawn).exists() for drawn in ("meis.png", "mei.png", "meis.mp4"))
    analysis = ml.analyze_meis(tmp_path / "meis.zarr", model, progress_bar=False)
    assert analysis["neuron"].values.tolist() == [f"{name}/0", f"{name}/1+{name}/2"]
    ml.write_report(tmp_path / "meis.zarr")
    shown = ml.export_for_experiment(found, tmp_path / "shown", [f"{name}/0"], clip=True)
    assert shown.presentations["neuron"].tolist() == [f"{name}/0"]
