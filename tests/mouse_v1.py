"""A real trained network as a user brings it: mouse V1, two colours, three sessions, still images."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import elu, grid_sample

from mei_lightning.models.base import RetinaModel, StimulusFormat


def _depthwise_separable(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.Conv2d(channels, channels, 7, padding=3, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
    )


class PointReadout(nn.Module):
    """Each neuron reads the feature map at one point: ``[batch, channels, y, x]`` to ``[batch, neurons]``."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        position = weights["source_grid"] @ weights["mu_transform.0.weight"].T + weights["mu_transform.0.bias"]
        self.register_buffer("position", position.clamp(-1, 1))
        self.register_buffer("features", weights["_features"][0, :, 0])
        self.register_buffer("bias", weights["bias"])

    def forward(self, feature_map: Tensor) -> Tensor:
        grid = self.position[None, :, None].expand(len(feature_map), -1, -1, -1)
        sampled = grid_sample(feature_map, grid, align_corners=True)[..., 0]
        return elu((sampled * self.features).sum(1) + self.bias) + 1


class MouseV1Network(nn.Module):
    """Responses ``[batch, neurons]`` of one session to images ``[batch, 2, 36, 64]``."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(2, 64, 9, bias=False), nn.BatchNorm2d(64), nn.ELU())
        hidden = [nn.Sequential(_depthwise_separable(64), nn.BatchNorm2d(64), nn.ELU()) for _ in range(3)]
        self.core = nn.Sequential(first, *hidden)
        core_weights = [value for name, value in weights.items() if name.startswith("core.features")]
        self.core.load_state_dict(dict(zip(self.core.state_dict(), core_weights, strict=True)))
        self.readouts = nn.ModuleDict()
        for session in sorted({name.split(".")[1] for name in weights if name.startswith("readout.")}):
            prefix = f"readout.{session}."
            self.readouts[session] = PointReadout(
                {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            )

    def forward(self, image: Tensor, data_key: str) -> Tensor:
        return self.readouts[data_key](self.core(image))


def load_mouse_v1() -> RetinaModel:
    folder = os.environ.get("MEI_LIGHTNING_TEST_DATA")
    if not folder:
        pytest.skip("MEI_LIGHTNING_TEST_DATA does not name the folder with mouse_v1_color.pt")
    weights = torch.load(Path(folder) / "mouse_v1_color.pt", weights_only=True, map_location="cpu")
    network = MouseV1Network(weights)
    neurons = {session: len(readout.bias) for session, readout in network.readouts.items()}
    return RetinaModel(network, StimulusFormat(("green", "UV"), height=36, width=64), neurons, name="mouse_v1")
