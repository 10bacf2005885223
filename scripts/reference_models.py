"""The two architectures of the paper's models, and such models with random weights, made without openretina."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mei_lightning as ml
from mei_lightning.models.digital_twin import GaussianReadout
from mei_lightning.models.read_out import MaskReadOut, gather_neurons

# In openretina's words, which its core-readout models take as they are.
LOW_RES: dict[str, Any] = {
    "in_shape": (2, 50, 18, 16),
    "hidden_channels": (16, 16),
    "temporal_kernel_sizes": (21, 11),
    "spatial_kernel_sizes": (11, 5),
    "core_hidden_padding": (0, 2, 2),
}
HIGH_RES: dict[str, Any] = {
    "in_shape": (2, 50, 72, 64),
    "hidden_channels": (16, 16, 16, 16),
    "temporal_kernel_sizes": (13, 11, 5, 5),
    "spatial_kernel_sizes": (15, 15, 7, 7),
    "core_hidden_padding": (0, 5, 5),
    "maxpool_every_n_layers": 2,
}
FRAMES_CONSUMED = 30


class RandomCoreReadout(ml.RetinaModel):
    """A model of one of the architectures with random weights: something to time, and to compare devices on.

    Args:
        architecture: ``LOW_RES`` or ``HIGH_RES``.
        seed: determines the weights.
        name: what to call it.
        sessions: the number of recording sessions.
        neurons: the number of neurons of each.
    """

    def __init__(self, architecture: Mapping[str, Any], seed: int, name: str, sessions: int = 60, neurons: int = 50):
        counts = {f"session_{number}": neurons for number in range(1, sessions + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = RandomNetwork(architecture, counts)
        _, _, height, width = architecture["in_shape"]
        stimulus = ml.StimulusFormat(
            ("green", "UV"), height, width, frame_rate=30.0, pixel_size=900.0 / height, frames_lost=FRAMES_CONSUMED
        )
        super().__init__(network, stimulus, counts, name)

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[ml.Neuron]) -> nn.Module:
        def of_session(session: str | None, indices: Tensor) -> tuple[Tensor, ...]:
            readout = self.network.readout[session]
            indices = indices.to(readout.bias.device)
            return readout.masks()[indices], readout.weight[indices], readout.bias[indices]

        masks, weights, bias = gather_neurons(neurons, of_session)
        return nn.Sequential(self.network.core, MaskReadOut(rows, masks, weights, bias, F.softplus))


class RandomNetwork(nn.Module):
    """The core that all sessions share, and a readout for each, from the global random generator.

    Args:
        architecture: ``LOW_RES`` or ``HIGH_RES``.
        neurons_per_session: the number of neurons of each session.
    """

    @torch.no_grad()
    def __init__(self, architecture: Mapping[str, Any], neurons_per_session: Mapping[str, int]) -> None:
        super().__init__()
        self.core = random_core(architecture)
        # Every layer's output is of unit size then.
        features = self.core.train()(torch.randn(2, *architecture["in_shape"]))
        _, channels, _, height, width = features.shape
        self.readout = nn.ModuleDict()
        for session, count in neurons_per_session.items():
            centers = torch.rand(count, 2) * torch.tensor([height - 1.0, width - 1.0])
            self.readout[session] = GaussianReadout(count, channels, height, width, centers)
            nn.init.uniform_(self.readout[session].weight)

    def forward(self, stimulus: Tensor, data_key: str) -> Tensor:
        """Responses ``[batch, time - 30, neurons]`` to stimuli ``[batch, channels, time, height, width]``."""
        return self.readout[data_key](self.core(stimulus))


@torch.no_grad()
def random_core(architecture: Mapping[str, Any]) -> nn.Sequential:
    """Convolutions with kernels separable in space and time, each with batch norm and ELU, and max-pooling if any.

    openretina's further bias of each channel is one with batch norm's.
    """
    channels = (architecture["in_shape"][0], *architecture["hidden_channels"])
    pool_every = architecture.get("maxpool_every_n_layers")
    core = nn.Sequential()
    for layer, (frames, size) in enumerate(
        zip(architecture["temporal_kernel_sizes"], architecture["spatial_kernel_sizes"], strict=True)
    ):
        convolution = nn.Conv3d(
            channels[layer],
            channels[layer + 1],
            (frames, size, size),
            padding=architecture["core_hidden_padding"] if layer else 0,
            bias=False,
        )
        pair = channels[layer + 1], channels[layer]
        convolution.weight.copy_(torch.randn(*pair, frames, 1, 1) * torch.randn(*pair, 1, size, size))
        core.extend([convolution, nn.BatchNorm3d(channels[layer + 1], momentum=None), nn.ELU()])
        if pool_every is not None and layer % pool_every == 0:
            core.append(nn.MaxPool3d((1, 2, 2)))
    return core
