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


class MouseV1Network(nn.Module):
    """Responses ``[batch, neurons]`` of one session to images ``[batch, 2, 36, 64]``."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(2, 64, 9, bias=False), nn.BatchNorm2d(64), nn.ELU())
        hidden = [nn.Sequential(_depthwise_separable(64), nn.BatchNorm2d(64), nn.ELU()) for _ in range(3)]
        self.core = nn.Sequential(first, *hidden)
        core_weights = [value for name, value in weights.items() if name.startswith("core.features")]
        self.core.load_state_dict(dict(zip(self.core.state_dict(), core_weights, strict=True)))
        self.readouts = {}
        for session in sorted({name.split(".")[1] for name in weights if name.startswith("readout.")}):
            readout = {
                name.removeprefix(f"readout.{session}."): value
                for name, value in weights.items()
                if name.startswith(f"readout.{session}.")
            }
            position = (
                readout["source_grid"] @ readout["mu_transform.0.weight"].T + readout["mu_transform.0.bias"]
            ).clamp(-1, 1)
            self.readouts[session] = (position, readout["_features"][0, :, 0], readout["bias"])

    def forward(self, image: Tensor, data_key: str) -> Tensor:
        position, features, bias = self.readouts[data_key]
        grid = position[None, :, None].expand(len(image), -1, -1, -1)
        sampled = grid_sample(self.core(image), grid, align_corners=True)[..., 0]
        return elu((sampled * features).sum(1) + bias) + 1


def load_mouse_v1() -> RetinaModel:
    folder = os.environ.get("MEI_LIGHTNING_TEST_DATA")
    if not folder:
        pytest.skip("MEI_LIGHTNING_TEST_DATA does not name the folder with mouse_v1_color.pt")
    weights = torch.load(Path(folder) / "mouse_v1_color.pt", weights_only=True, map_location="cpu")
    network = MouseV1Network(weights)
    neurons = {session: len(bias) for session, (_, _, bias) in network.readouts.items()}
    return RetinaModel(network, StimulusFormat(("green", "UV"), height=36, width=64), neurons, name="mouse_v1")
