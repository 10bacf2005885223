"""Stimuli as functions of time and place: a small network for each row."""

import hashlib
import math

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from mei_lightning.arguments import is_positive, is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.parameterizations.base import Parameterization

_ROWS_AT_A_TIME = 16
"""Rows whose activations, many times the size of their stimuli, are kept at a time, except on a CPU."""


class ImplicitNetwork(Parameterization):
    """A network from coordinates to values for each row, with two hidden layers of sines.

    ``x[:, t, h, w] = W_3 sin(W_2 sin(W_1 (t, h, w) + b_1) + b_2) + b_3`` with coordinates from -1 to 1 (Sitzmann et al.
    2020, NeurIPS, "Implicit neural representations with periodic activation functions").

    It needs Adam: with ``torch.optim.Adam`` and a learning rate of 0.03, cells of the simulated retina (40 frames, norm
    10, one of each type) respond to what is found in 100 steps with 96 to 99 % of their response to an MEI of free
    pixels; with the adaptive power method, whose steps are as long as a row's weights, with 22 to 98 %.

    Parameters are ``[rows, weights of a network]``, in units of the range in which the paper draws them: they begin
    uniformly between -1 and 1. W_1 and b_1 are in units of ``frequency / 3``, the others of ``sqrt(6 / hidden)``.

    No weights are known for a given stimulus. Each row's are drawn from a generator whose seed is a digest of the row's
    initial stimulus, so that they depend on nothing else; optimised stimuli are not shifted in time and optimised
    again.

    Args:
        hidden: the units of each hidden layer.
        frequency: the highest frequency of the first layer along each coordinate, in radians per half of a side.

    Raises:
        ValueError: if a number is not positive, or the number of units not whole.

    Example:
        >>> network = ml.ImplicitNetwork(hidden=16).for_stimuli((1, 2, 40, 18, 16))
        >>> weights = network.parameters_of(torch.randn(1, 2, 40, 18, 16))
        >>> weights.shape  # (3 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 2
        torch.Size([1, 370])
        >>> network(weights).shape  # 23040 values made of them
        torch.Size([1, 2, 40, 18, 16])
    """

    finds_parameters = False
    coordinates: Tensor

    def __init__(self, hidden: int = 32, frequency: float = 10.0) -> None:
        super().__init__()
        if not is_whole(hidden, 1):
            raise InvalidValueError(f"ImplicitNetwork(hidden={hidden!r}) must be a whole number, at least 1.")
        if not is_positive(frequency):
            raise InvalidValueError(f"ImplicitNetwork(frequency={frequency!r}) must be positive and finite.")
        self.hidden = hidden
        self.frequency = frequency

    def prepare(self, shape: torch.Size, stimulus_format: StimulusFormat | None) -> None:
        """Make the coordinates of all pixels."""
        channels, *sides = shape
        axes = [(torch.arange(side) * 2 + 1) / side - 1 for side in sides]
        self.register_buffer("coordinates", torch.cartesian_prod(*axes), persistent=False)
        self._layers = [(3, self.hidden), (self.hidden, self.hidden), (self.hidden, channels)]
        later = math.sqrt(6 / self.hidden)
        self._units = [self.frequency / 3, later, later]

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Warn of the adaptive power method."""
        if isinstance(optimizer, AdaptivePowerMethod):
            rank_zero_warn(
                f"{self!r} with the default optimizer finds poor stimuli: its steps are too long for the weights of a "
                "network. Give optimizer=functools.partial(torch.optim.Adam, lr=0.03)."
            )

    def forward(self, parameters: Tensor) -> Tensor:
        """Stimuli ``[rows, channels, time, height, width]``."""
        parts = parameters.split(1 if parameters.device.type == "cpu" else _ROWS_AT_A_TIME)
        # Computed anew for the gradient: kept for all rows, the activations would take more memory than the model. A
        # row at a time is faster on a CPU, and has the same rounding in any batch.
        return torch.cat(
            [checkpoint(self._stimuli, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
        )

    def _stimuli(self, parameters: Tensor) -> Tensor:
        assert self.shape is not None
        values = self.coordinates.to(parameters)
        place = 0
        for number, ((inputs, outputs), unit) in enumerate(zip(self._layers, self._units, strict=True)):
            layer = unit * parameters[:, place : place + (inputs + 1) * outputs].unflatten(1, (inputs + 1, outputs))
            values = values.sin() if number else values
            values = values @ layer[:, :inputs] + layer[:, inputs:]
            place += (inputs + 1) * outputs
        return values.mT.unflatten(2, self.shape[1:])

    def parameters_of(self, stimulus: Tensor) -> Tensor:
        """Weights for a beginning, drawn from generators that are seeded by the stimuli."""
        count = sum((inputs + 1) * outputs for inputs, outputs in self._layers)
        drawn = []
        for row in stimulus.detach().cpu():
            digest = hashlib.sha256(row.double().contiguous().numpy().tobytes()).digest()
            generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
            drawn.append(2 * torch.rand(count, generator=generator) - 1)
        return torch.stack(drawn).to(stimulus)

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"hidden={self.hidden}, frequency={self.frequency:g}"
