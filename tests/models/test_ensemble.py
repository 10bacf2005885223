from dataclasses import replace

import pytest
import torch
from torch import nn

from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.models.ensemble import Ensemble

FORMAT = StimulusFormat(("green", "UV"), height=4, width=3, frame_rate=30.0)


class Linear(nn.Module):
    """Each neuron sums each frame with its own weights."""

    def __init__(self, seed, counts, channels=2):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterDict(
            {name: torch.randn(channels, 4, 3, count, generator=generator) for name, count in counts.items()}
        )

    def forward(self, stimulus, data_key="only"):
        return torch.einsum("b c ... h w, c h w n -> b ... n", stimulus, self.weights[data_key])


def member(seed=0, sessions=(("monday", 3), ("tuesday", 5)), stimulus_format=FORMAT):
    return RetinaModel(Linear(seed, dict(sessions)), stimulus_format, dict(sessions), name=f"seed {seed}")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_response_is_the_mean_of_the_members(count):
    members = [member(seed) for seed in range(count)]
    ensemble = Ensemble(members)
    stimulus = torch.randn(4, 2, 7, 4, 3)
    for session in ("monday", "tuesday"):
        expected = sum(model(stimulus, data_key=session) for model in members) / count
        torch.testing.assert_close(ensemble(stimulus, data_key=session), expected)


def test_an_ensemble_is_a_frozen_model_of_the_same_neurons():
    networks = [member(seed) for seed in range(3)]
    networks[1].requires_grad_(True).train()
    ensemble = Ensemble(networks, name="five CNNs")
    assert ensemble.name == "five CNNs"
    assert ensemble.members == networks
    assert ensemble.stimulus_format == replace(FORMAT, frames_lost=0)
    assert ensemble.neurons_per_session == {"monday": 3, "tuesday": 5}
    assert ensemble.neurons.equals(networks[0].neurons)
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())
    assert not any(module.training for module in ensemble.modules())
    with pytest.raises(ValueError, match="no session 'sunday'"):
        ensemble(torch.randn(1, 2, 7, 4, 3), data_key="sunday")


def test_members_without_sessions_and_still_images():
    still = StimulusFormat(("luminance",), height=4, width=3)
    members = [RetinaModel(Linear(seed, {"only": 6}, channels=1), still, 6) for seed in range(2)]
    ensemble = Ensemble(members)
    image = torch.randn(5, 1, 1, 4, 3)
    assert not ensemble.has_sessions
    assert ensemble(image).shape == (5, 1, 6)
    torch.testing.assert_close(ensemble(image), (members[0](image) + members[1](image)) / 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (member(1, stimulus_format=replace(FORMAT, frame_rate=60.0)), r"frame_rate is 60\.0, not 30\.0"),
        (member(1, stimulus_format=replace(FORMAT, mean=(1.0, 2.0))), r"mean is \(1\.0, 2\.0\), not None"),
        (member(1, sessions=[("monday", 3)]), "'tuesday' is missing there, member 0 has 5"),
        (member(1, sessions=[("monday", 4), ("tuesday", 5)]), "'monday' has 4 neurons there, member 0 has 3"),
        (
            member(1, sessions=[("monday", 3), ("tuesday", 5), ("friday", 1)]),
            "'friday' has 1 neurons there, member 0 does not have",
        ),
        (RetinaModel(Linear(1, {"only": 8}), FORMAT, 8), "'monday' is missing there"),
    ],
)
def test_members_must_agree(other, message):
    with pytest.raises(ValueError, match=message) as caught:
        Ensemble([member(0), member(2), other])
    assert "Member 2" in str(caught.value)
    assert f"'{other.name}'" in str(caught.value)


def test_a_plain_module_is_refused_with_how_to_wrap_it():
    with pytest.raises(TypeError, match=r"Member 1 .*Linear, not a RetinaModel.*RetinaModel\(network, StimulusFormat"):
        Ensemble([member(0), Linear(1, {"monday": 3})])


def test_an_ensemble_needs_members():
    with pytest.raises(ValueError, match="no members"):
        Ensemble([])
