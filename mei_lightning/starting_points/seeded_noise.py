"""Initial stimuli: noise that depends on the run's seed, the neuron and the restart, and on nothing else."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.models.base import StimulusFormat

RESPONSE_FRAMES = 20
"""Response frames of a default stimulus, as in Höfling et al. 2024 (eLife 86860)."""


def default_time_steps(stimulus_format: StimulusFormat) -> int:
    """Frames of a stimulus that gives 20 response frames; 1 for a model of still images."""
    return 1 if stimulus_format.is_still else stimulus_format.frames_lost + RESPONSE_FRAMES


def default_norm(stimulus_shape: Sequence[int]) -> float:
    """L2 norm of a stimulus with the root mean square of the paper's: 30 for 2 x 50 x 18 x 16 values.

    Args:
        stimulus_shape: ``[rows, channels, time, height, width]``.
    """
    return 30.0 * math.sqrt(math.prod(stimulus_shape[1:]) / (2 * 50 * 18 * 16))


def initial_stimulus(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """White noise, N(0, 1), each row from a generator of its own on the CPU.

    Args:
        seeds: one seed for each row.
        shape: ``[channels, time, height, width]`` of a row.

    Returns:
        ``[rows, channels, time, height, width]``.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(tuple(shape), generator=generator, device="cpu") for generator in generators])
