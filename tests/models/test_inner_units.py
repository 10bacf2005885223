"""Units inside a model as neurons."""

import numpy as np
import pytest
import torch
from conftest import find, still_model, video_model
from torch import nn

import mei_lightning as ml
from mei_lightning.models.base import weights_digest


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


class Layered(nn.Module):
    """Two convolutions and a readout for each session; one session does without the second."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Conv3d(2, 5, 3, bias=False)
        self.second = nn.Conv3d(5, 4, (2, 1, 1))
        self.readout = nn.ModuleDict({"monday": nn.Linear(4, 3), "tuesday": nn.Linear(5, 2)})
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, stimulus, data_key):
        features = nn.functional.elu(self.first(stimulus))
        if data_key == "monday":
            features = self.second(features)
        return self.readout[data_key](features.mean(dim=(3, 4)).mT)


FORMAT = ml.StimulusFormat(("green", "UV"), height=6, width=5, frame_rate=30.0, frames_lost=3)


@pytest.fixture
def layered():
    return ml.RetinaModel(Layered(), FORMAT, {"monday": 3, "tuesday": 2})


def test_the_mei_of_a_unit_of_a_linear_first_layer_is_its_kernel(layered):
    units = ml.InnerUnits(layered, "first")
    assert units.neurons_per_session == {"": 5}
    assert units.stimulus_format.frames_lost == 2 - 1 + 1
    meis = find(units, "all", time_steps=3, norm=2.0)
    kernels = layered.network.first.weight.detach().numpy()
    # The centre of the 4 x 3 map is row 2 and column 1; its kernel begins there.
    expected = np.zeros((5, 2, 3, 6, 5))
    expected[:, :, :, 2:5, 1:4] = 2 * kernels / np.linalg.norm(kernels.reshape(5, -1), axis=1).reshape(5, 1, 1, 1, 1)
    np.testing.assert_allclose(meis["stimulus"], expected, atol=5e-3)


@pytest.mark.parametrize("fast_path", [True, False])
def test_the_mei_of_a_unit_of_the_twins_first_convolution_is_its_kernel(twin, fast_path):
    units = ml.InnerUnits(twin, "core.0.0", position=(4, 3))
    meis = find(units, [0, 7, 23], time_steps=1, norm=3.0, fast_path=fast_path)
    kernels = twin.network.core[0][0].weight.detach()[[0, 7, 23], :, 0]
    # Stride 2, padding 4: the kernel's centre is at row 8 and column 6.
    expected = 3 * kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None]
    np.testing.assert_allclose(meis["stimulus"][:, :, 0, 4:13, 2:11], expected, atol=5e-3)
    assert hooks(twin) == 0


@pytest.mark.parametrize(
    ("layer", "position", "session", "expected"),
    [
        ("first", (3, 0), None, lambda net, x: net.first(x)[..., 3, 0].mT),
        ("second", "centre", None, lambda net, x: net.second(nn.functional.elu(net.first(x)))[..., 2, 1].mT),
        ("second", "mean", "monday", lambda net, x: net.second(nn.functional.elu(net.first(x))).mean((3, 4)).mT),
        ("readout.tuesday", "centre", "tuesday", lambda net, x: net(x, "tuesday")),
    ],
)
def test_responses_are_the_layers_features(layered, layer, position, session, expected):
    before = weights_digest(layered)
    units = ml.InnerUnits(layered, layer, position, session)
    stimulus = torch.randn(4, 2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(units(stimulus), expected(layered.network, stimulus))
    assert units.neurons_per_session == {"": units(stimulus).shape[2]}
    assert units(stimulus).shape[1] == 8 - units.stimulus_format.frames_lost
    assert hooks(layered) == 0
    assert weights_digest(layered) == before


def test_a_pass_ends_at_the_layer(layered):
    units = ml.InnerUnits(layered, "first")
    layered.network.second.forward = lambda *_: pytest.fail("computed what nobody needs")
    units(torch.zeros(1, 2, 4, 6, 5))


def test_layers_of_still_images():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ELU(), nn.Flatten(), nn.Linear(3 * 5 * 4, 6))
    model = ml.RetinaModel(network, still_model().stimulus_format, 6)
    stimulus = torch.randn(2, 1, 1, 7, 6)
    torch.testing.assert_close(
        ml.InnerUnits(model, "0", (1, 2))(stimulus)[:, 0], network[0](stimulus[:, 0])[:, :, 1, 2]
    )
    torch.testing.assert_close(ml.InnerUnits(model, "3")(stimulus)[:, 0], network(stimulus[:, :, 0]))
    meis = find(ml.InnerUnits(model, "0"), [2], norm=1.0)
    kernel = network[0].weight.detach()[2, 0] / network[0].weight[2].norm().item()
    np.testing.assert_allclose(meis["stimulus"][0, 0, 0, 2:5, 2:5], kernel, atol=5e-3)


def test_objectives_of_neurons_work_with_units(twin):
    """As on the page about objectives: a feature of the digital twin against the others of its layer."""
    units = ml.InnerUnits(twin, "core.0", position="centre")
    meis = find(units, [3], objective=ml.OneHotObjective, search="quick", time_steps=30)
    responses = units(torch.from_numpy(meis["stimulus"].values))[0].mean(dim=0)
    plain = find(units, [3], search="quick", time_steps=30)
    of_plain = units(torch.from_numpy(plain["stimulus"].values))[0].mean(dim=0)
    rank, rank_of_plain = ((values > values[3]).sum().item() for values in (responses, of_plain))
    assert rank <= rank_of_plain
    assert torch.log_softmax(responses, 0)[3] > torch.log_softmax(of_plain, 0)[3] + 0.5


def test_hooks_are_removed_when_the_model_fails(layered):
    units = ml.InnerUnits(layered, "second")
    with pytest.raises(RuntimeError):
        units(torch.zeros(1, 3, 8, 6, 5))
    assert hooks(layered) == 0


@pytest.mark.parametrize(
    ("layer", "position", "session", "message"),
    [
        ("third", "centre", None, r"no layer 'third'. Its layers: first, second, readout"),
        ("first", (4, 0), None, r"position=\(4, 0\) is outside the 4 x 3 map"),
        ("first", "centre", "sunday", "no session 'sunday'"),
        ("second", "centre", "tuesday", "for session 'tuesday' does not use 'second'"),
    ],
)
def test_units_that_do_not_exist_are_refused(layered, layer, position, session, message):
    with pytest.raises(ValueError, match=message):
        ml.InnerUnits(layered, layer, position, session)


@pytest.mark.slow
def test_the_prepared_model_of_units_inside_a_core_computes_the_same(twin):
    neurons = {"core.0.1": [0, 5], "core.0": [0, 5], "core.1.0": [0, 5], "core": [0, 60]}
    for layer, some in neurons.items():
        units = ml.InnerUnits(twin, layer)
        fast, plain = (
            find(units, some, max_steps=4, restarts=1, fast_path=way, time_steps=24) for way in (True, False)
        )
        np.testing.assert_allclose(fast["stimulus"], plain["stimulus"], atol=1e-3)


def test_a_video_model_has_no_layer_that_is_only_a_parameter():
    with pytest.raises(ValueError, match="no layer 'kernel'"):
        ml.InnerUnits(video_model(), "kernel")
