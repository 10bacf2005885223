"""Noise to start from, each row from a generator of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.arguments import is_positive
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.starting_points.base import InitialStimuli, NeuronStart
from mei_lightning.starting_points.seeded_noise import initial_stimulus


class WhiteNoise(InitialStimuli):
    """White Gaussian noise.

    A constraint with a fixed norm scales it, so that the amplitude is of no matter. With ``MaximalNorm``, or ranges
    alone, a small amplitude is a start from 0, and a little noise for what has no gradient there.

    Args:
        amplitude: standard deviation, in the model's units.

    Raises:
        ValueError: unless it is positive and finite.

    Example:
        >>> settings = ml.MEISettings(initial=ml.WhiteNoise(0.01), constraint=ml.MaximalNorm(30.0), restarts=3)
        >>> starts = ml.MEIProblem("simulated", [("session_1", 0)], settings).starts(0)
        >>> print(tuple(starts.shape), f"{starts.std():.2f}")
        (3, 2, 40, 18, 16) 0.01
    """

    def __init__(self, amplitude: float = 1.0) -> None:
        self.amplitude = _checked(amplitude, self)

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """Noise ``[restarts, channels, time, height, width]``."""
        return self.amplitude * initial_stimulus(seeds, neuron.shape)

    def __repr__(self) -> str:
        return f"WhiteNoise(amplitude={self.amplitude:g})"


class PinkNoise(InitialStimuli):
    """Noise whose amplitude falls as 1/f with the frequency in space, and as 1/f with the frequency in time.

    So do natural scenes, about (Dong and Atick 1995, Network 6, "Statistics of natural time-varying images"). Channels
    are independent. Where one border ends the opposite one begins: the noise is periodic.

    Args:
        amplitude: root mean square of each stimulus, in the model's units; a fixed norm scales it.

    Raises:
        ValueError: unless it is positive and finite.

    Example:
        >>> settings = ml.MEISettings(initial=ml.PinkNoise(amplitude=2.0), restarts=3)
        >>> starts = ml.MEIProblem("simulated", [("session_1", 0)], settings).starts(0)
        >>> print(tuple(starts.shape), f"{starts.square().mean().sqrt():.2f}")
        (3, 2, 40, 18, 16) 2.00
        >>> neighbours = (starts[..., 1:] * starts[..., :-1]).mean()
        >>> print(f"{neighbours / starts.square().mean():.1f}")  # their correlation, which white noise does not have
        0.6
    """

    def __init__(self, amplitude: float = 1.0) -> None:
        self.amplitude = _checked(amplitude, self)

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """Noise ``[restarts, channels, time, height, width]``."""
        noise = pink_noise(initial_stimulus(seeds, neuron.shape))
        size = noise.flatten(1).square().mean(dim=1).sqrt()
        return noise * (self.amplitude / size).view(-1, 1, 1, 1, 1)

    def __repr__(self) -> str:
        return f"PinkNoise(amplitude={self.amplitude:g})"


def pink_noise(white: Tensor) -> Tensor:
    """White noise ``[..., time, height, width]`` with each frequency divided by its size in space and in time.

    The mean is treated as the lowest frequency.
    """
    time, height, width = (torch.fft.fftfreq(size, dtype=white.dtype) for size in white.shape[-3:])
    in_space = torch.hypot(height[:, None], width).clamp(min=1 / max(white.shape[-2:]))
    in_time = time.abs().clamp(min=1 / white.shape[-3])
    spectrum = torch.fft.fftn(white, dim=(-3, -2, -1)) / (in_time[:, None, None] * in_space)
    return torch.fft.ifftn(spectrum, dim=(-3, -2, -1)).real


def _checked(amplitude: float, noise: InitialStimuli) -> float:
    if not is_positive(amplitude):
        raise InvalidValueError(f"{type(noise).__name__}(amplitude={amplitude!r}) has to be positive and finite.")
    return amplitude
