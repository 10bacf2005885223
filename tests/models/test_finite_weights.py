"""A neuron whose weights are not finite is told as such, and takes no other neuron along."""

import numpy as np
import pytest
import torch
from conftest import SESSIONS, STILL_FORMAT, VIDEO_FORMAT, StillNetwork, VideoNetwork, find
from torch import nn

import mei_lightning as ml

OPTIONS = {"norm": 3.0, "restarts": 1, "max_steps": 12}
BAD = 1


def still(weights=None):
    """A network of five neurons; those weights of the second are all the same."""
    network = StillNetwork()
    if weights is not None:
        network.readout.data[BAD] = weights
    return ml.RetinaModel(network, STILL_FORMAT, 5)


def video(weights=None):
    network = VideoNetwork()
    if weights is not None:
        network.readout["monday"].data[BAD] = weights
    return ml.RetinaModel(network, VIDEO_FORMAT, SESSIONS)


def ensemble(weights=None):
    return ml.Ensemble([still(), still(weights)])


class Normalised(nn.Module):
    """Responses divided by standard deviations that were measured, of which one is missing."""

    def __init__(self, deviation):
        super().__init__()
        self.network = StillNetwork()
        deviations = torch.ones(5)
        if deviation is not None:
            deviations[BAD] = deviation
        self.register_buffer("deviations", deviations)

    def forward(self, image):
        return self.network(image) / self.deviations


def normalised(weights=None):
    return ml.RetinaModel(Normalised(weights), STILL_FORMAT, 5)


@pytest.mark.filterwarnings("ignore:The responses of model", "ignore:.*not finite")
@pytest.mark.parametrize(
    ("model", "weights", "fast_path"),
    [
        (still, torch.nan, True),
        (still, torch.nan, False),
        (still, torch.inf, True),
        (video, torch.nan, True),
        (ensemble, torch.nan, True),
        (normalised, torch.nan, True),
    ],
)
def test_that_neuron_alone_is_not_finite(model, weights, fast_path):
    neurons = [("monday", index) for index in range(4)] if model is video else list(range(5))
    options = {**OPTIONS, "fast_path": fast_path, **({"time_steps": 9} if model is video else {})}
    others = [place for place in range(len(neurons)) if place != BAD]
    expected = find(model(), [neurons[place] for place in others], **options)
    found = find(model(weights), neurons, **options)
    assert found.status.values[BAD] == "not finite"
    for name in ("stimulus", "score", "response"):
        np.testing.assert_allclose(found[name].values[others], expected[name], atol=1e-4, err_msg=name)
    assert found.status.values[others].tolist() == expected.status.values.tolist()


class Gated(StillNetwork):
    """A neuron that is switched off by a bias of minus infinity answers 0."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(5))
        self.bias.data[BAD] = bias

    def forward(self, image):
        return nn.functional.softplus(super().forward(image) + self.bias)


def test_a_response_that_is_finite_is_the_networks_own():
    switched_off = ml.RetinaModel(Gated(-torch.inf), STILL_FORMAT, 5)
    images = torch.randn(2, 1, 1, 7, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    read_out = switched_off.read_out([0, 1], [ml.Neuron(None, BAD), ml.Neuron(None, 3)])
    responses = read_out(images)
    with torch.no_grad():
        assert torch.equal(responses, read_out(images))
    assert responses[0].item() == 0.0
    responses.sum().backward()
    usual = images.detach().clone().requires_grad_()
    ml.RetinaModel(Gated(), STILL_FORMAT, 5).read_out([1], [ml.Neuron(None, 3)])(usual).sum().backward()
    torch.testing.assert_close(images.grad[1], usual.grad[1])


def test_weights_that_are_repaired_count_as_they_are():
    model = still(torch.nan)
    image = torch.randn(1, 1, 1, 7, 6, generator=torch.Generator().manual_seed(0))

    def gradient(of):
        shown = image.clone().requires_grad_()
        of.read_out([0], [ml.Neuron(None, BAD)])(shown).sum().backward()
        return shown.grad

    gradient(model)
    model.network.readout.data[BAD] = still().network.readout[BAD]
    torch.testing.assert_close(gradient(model), gradient(still()))


def test_a_core_that_is_not_finite_leaves_no_neuron():
    network = StillNetwork()
    network.kernel.data[0, 0, 0, 0] = torch.nan
    with pytest.warns(UserWarning, match="not finite"):
        found = find(ml.RetinaModel(network, STILL_FORMAT, 5), [0, 1], **OPTIONS)
    assert found.status.values.tolist() == ["not finite"] * 2
