"""A digital twin: a convolutional network trained to answer as the simulated retina does."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mei_lightning.exceptions import InvalidValueError, NothingThereError
from mei_lightning.models.read_out import MaskReadOut, gather_neurons
from mei_lightning.models.sessions import SessionsModel
from mei_lightning.models.simulated import STIMULUS_FORMAT, SimulatedRetina
from mei_lightning.neurons import Neuron
from mei_lightning.paths import local_path

SHIPPED_WEIGHTS = Path(__file__).with_suffix(".safetensors")


class GaussianReadout(nn.Module):
    """Responses of neurons that each look at the core's features through a Gaussian mask.

    Args:
        num_neurons: the number of neurons.
        num_features: the number of feature maps.
        height: rows of the feature maps.
        width: columns of the feature maps.
        centers: where the masks start from, ``[num_neurons, 2]`` as (row, column) of the feature maps; the middle by
            default.
    """

    def __init__(
        self, num_neurons: int, num_features: int, height: int, width: int, centers: Tensor | None = None
    ) -> None:
        super().__init__()
        if centers is None:
            centers = torch.tensor([(height - 1) / 2, (width - 1) / 2]).expand(num_neurons, 2)
        self.height, self.width = height, width
        self.center = nn.Parameter(centers.float().clone())
        self.log_sd = nn.Parameter(torch.zeros(num_neurons))
        self.weight = nn.Parameter(torch.zeros(num_neurons, num_features))
        self.bias = nn.Parameter(torch.zeros(num_neurons))

    def masks(self) -> Tensor:
        """The masks ``[num_neurons, height, width]``, each of unit sum."""
        return gaussian_masks(self.center, self.log_sd, self.height, self.width)

    def forward(self, features: Tensor) -> Tensor:
        """Responses ``[batch, time, neurons]`` to features ``[batch, features, time, height, width]``."""
        seen = features.flatten(3) @ self.masks().flatten(1).T
        return F.softplus(torch.einsum("bftn,nf->btn", seen, self.weight) + self.bias)


def gaussian_masks(center: Tensor, log_sd: Tensor, height: int, width: int) -> Tensor:
    """Gaussian masks ``[neurons, height, width]``, each of unit sum.

    Args:
        center: their places ``[neurons, 2]`` as (row, column).
        log_sd: the logarithm of their standard deviations in pixels, ``[neurons]``.
        height: rows of pixels.
        width: columns of pixels.
    """
    rows = torch.arange(height, device=center.device) - center[:, :1]
    columns = torch.arange(width, device=center.device) - center[:, 1:]
    squared_distance = rows[:, :, None] ** 2 + columns[:, None, :] ** 2
    return (
        (-0.5 * squared_distance / (2 * log_sd).exp()[:, None, None])
        .flatten(1)
        .softmax(1)
        .unflatten(1, (height, width))
    )


class SpaceTimeConvolution(nn.Sequential):
    """A convolution over space, padded, and one over time, unpadded; then batch norm and ELU.

    Args:
        channels_in: channels of the input ``[batch, channels, time, height, width]``.
        channels_between: channels between the two convolutions.
        channels_out: channels of the output, which is ``time_size - 1`` frames shorter than the input.
        space_size: side of the spatial kernel in pixels, odd.
        time_size: length of the temporal kernel in frames.
        stride: the output has every ``stride``-th row and column.
    """

    def __init__(
        self,
        channels_in: int,
        channels_between: int,
        channels_out: int,
        space_size: int,
        time_size: int,
        stride: int = 1,
    ) -> None:
        super().__init__(
            nn.Conv3d(
                channels_in,
                channels_between,
                (1, space_size, space_size),
                stride=(1, stride, stride),
                padding=(0, space_size // 2, space_size // 2),
                bias=False,
            ),
            nn.Conv3d(channels_between, channels_out, (time_size, 1, 1), bias=False),
            nn.BatchNorm3d(channels_out),
            nn.ELU(),
        )


class StackedCore(nn.Sequential):
    """Layers after one another, whose features are all put out, one layer's after the other's."""

    puts_out_each_part = True
    """For what rewrites cores to be faster."""

    def forward(self, stimulus: Tensor) -> Tensor:
        """Features ``[batch, features, time', height', width']`` of stimuli ``[batch, channels, time, height, width]``.

        All layers but the first keep time, height and width.
        """
        features = []
        for layer in self:
            stimulus = layer(stimulus)
            features.append(stimulus)
        return torch.cat(features, dim=1)


class DigitalTwinNetwork(nn.Module):
    """A core that all sessions share, and a readout for each session.

    The core turns a stimulus into feature maps at every second pixel: a space-time convolution over 21 frames
    and a spatial one, each with batch norm and ELU. A neuron's response is the softplus of both layers' features
    under its Gaussian mask, weighed and added up.

    Args:
        neurons_per_session: the number of neurons of each session.
        centers: for each session, where the neurons' masks start from, ``[neurons, 2]`` as (row, column) in pixels
            of the stimulus; the middle by default.
    """

    def __init__(self, neurons_per_session: Mapping[str, int], centers: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        channels, height, width = len(STIMULUS_FORMAT.channel_names), STIMULUS_FORMAT.height, STIMULUS_FORMAT.width
        time_size = STIMULUS_FORMAT.frames_lost + 1
        first = SpaceTimeConvolution(channels, 24, 48, space_size=9, time_size=time_size, stride=2)
        start_from_moving_gabors(first)
        self.core = StackedCore(first, SpaceTimeConvolution(48, 16, 32, space_size=3, time_size=1))
        self.readout = nn.ModuleDict(
            {
                session: GaussianReadout(
                    count, 48 + 32, height // 2, width // 2, None if centers is None else centers[session] / 2
                )
                for session, count in neurons_per_session.items()
            }
        )

    def forward(self, stimulus: Tensor, data_key: str) -> Tensor:
        """Responses ``[batch, time - 20, neurons]`` to stimuli ``[batch, channels, time, height, width]``."""
        return self.readout[data_key](self.core(stimulus))


@torch.no_grad()
def start_from_moving_gabors(layer: SpaceTimeConvolution) -> None:
    """Add Gabor patterns that move in twelve directions to a first layer's random weights.

    So features that tell a direction of motion from its opposite are there from the start.

    Args:
        layer: at least 12 channels between its convolutions, and 48 out.
    """
    space, time = layer.get_parameter("0.weight"), layer.get_parameter("1.weight")
    pixel = torch.arange(space.shape[-1]) - space.shape[-1] // 2
    envelope = torch.exp(-(pixel[:, None] ** 2 + pixel**2) / (2 * 2.0**2))
    lag = torch.arange(time.shape[2], 0, -1)
    time_course = 0.5 * ((lag / 6) * torch.exp(1 - lag / 6)) ** 4
    for i in range(6):
        angle = math.pi * i / 6
        phase = 2 * math.pi / 7 * (pixel * math.cos(angle) + pixel[:, None] * math.sin(angle))
        for j, pattern in enumerate((phase.cos() * envelope, phase.sin() * envelope)):
            space[2 * i + j, :, 0] += pattern / pattern.norm()
        for j in range(8):
            turn = 2 * math.pi * lag / 10 + math.pi / 2 * (j % 4)
            time[8 * i + j, 2 * i, :, 0, 0] += time_course * turn.cos()
            time[8 * i + j, 2 * i + 1, :, 0, 0] += time_course * turn.sin() * (1 if j < 4 else -1)


class DigitalTwin(SessionsModel):
    """A trained model of the simulated retina's neurons, made as such models are made of recorded neurons.

    Its sessions and neurons are those of ``SimulatedRetina``, so that what is found on the twin can be tried out on the
    cells themselves. Its stimuli are as those of Höfling et al. 2024 (eLife 86860) at low resolution: green and UV,
    18 x 16 pixels of 50 micrometres, 30 frames per second; a response is 20 frames shorter. The network is, as in that
    paper, a core that all sessions share and a Gaussian readout of each neuron. ``scripts/train_digital_twin.py``
    trains it.

    Args:
        weights: a safetensors file written by the training script; the weights that come with the package by default.
        centred_readouts: let every neuron look at the middle of the image, so that they differ in what they see only.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not hold weights of a digital twin.

    Example:
        >>> twin = ml.DigitalTwin()
        >>> twin.neurons.loc[5, "type"]
        'direction_selective'
        >>> stimulus = torch.zeros(twin.stimulus_shape(time_steps=40))
        >>> twin(stimulus, data_key="session_1").shape  # 20 frames fewer, of 36 neurons
        torch.Size([1, 20, 36])
    """

    def __init__(self, weights: str | Path | None = None, centred_readouts: bool = False) -> None:
        path = local_path("weights", weights or SHIPPED_WEIGHTS)
        retina = SimulatedRetina(centred=centred_readouts)
        network = DigitalTwinNetwork(retina.neurons_per_session)
        load_weights(network, path)
        if centred_readouts:
            for readout in network.readout.values():
                assert isinstance(readout, GaussianReadout)
                nn.init.constant_(readout.center[:, 0], (readout.height - 1) / 2)
                nn.init.constant_(readout.center[:, 1], (readout.width - 1) / 2)
        super().__init__(
            network,
            STIMULUS_FORMAT,
            retina.neurons_per_session,
            name="digital_twin, centred" if centred_readouts else "digital_twin",
        )
        self._neurons = retina.neurons

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron, with the columns of ``SimulatedRetina.neurons``."""
        return self._neurons.copy()

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        network = self.network
        assert isinstance(network, DigitalTwinNetwork)

        def of_session(session: str | None, indices: Tensor) -> tuple[Tensor, ...]:
            readout: GaussianReadout = network.readout[session or ""]  # type: ignore[assignment]
            indices = indices.to(readout.bias.device)
            masks = gaussian_masks(readout.center[indices], readout.log_sd[indices], readout.height, readout.width)
            return masks, readout.weight[indices], readout.bias[indices]

        masks, weights, bias = gather_neurons(neurons, of_session)
        return nn.Sequential(network.core, MaskReadOut(rows, masks, weights, bias, F.softplus))


def load_weights(network: DigitalTwinNetwork, path: Path) -> None:
    """Load a safetensors file into a network, in the network's precision.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not hold exactly the network's weights.
    """
    if not path.is_file():
        raise NothingThereError(
            f"There are no digital twin weights at {path}. Leave `weights` out for those that come with the package, "
            "or write some with scripts/train_digital_twin.py."
        )
    try:
        network.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise InvalidValueError(
            f"{path} does not hold the weights of a digital twin: scripts/train_digital_twin.py writes them. ({error})"
        ) from error


def save_weights(network: DigitalTwinNetwork, path: Path) -> None:
    """Write a network's weights to a safetensors file."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
