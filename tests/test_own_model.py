"""A model of the user's own, as the README brings it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mei_lightning as ml

README = (Path(__file__).parents[1] / "README.md").read_text()
OWN_MODEL = next(block for block in README.split("```") if "class LinearNonlinear" in block).removeprefix("python")


def test_a_module_of_a_dozen_lines():
    torch.manual_seed(0)
    names = {}
    exec(OWN_MODEL, names)
    meis, model = names["meis"], names["model"]
    assert meis["neuron"].values.tolist() == ["0", "3", "5"]
    assert dict(meis.sizes) == {"neuron": 3, "channel": 2, "time": 34, "y": 12, "x": 10, "response_time": 20}
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
