"""Perturbations of the stimulus: translations and noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.acceleration.row_arithmetic import fill_rows
from mei_lightning.arguments import is_positive, is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives import Objective
from mei_lightning.perturbations.base import Perturbation
from mei_lightning.perturbations.draws import integers, normals


class Jitter(Perturbation):
    """Moves the whole stimulus by a few pixels and frames, each distance up to the largest being equally likely.

    What enters at the border is 0, the mean level; what leaves is lost (after Olah, Mordvintsev and Schubert 2017,
    Distill, "Feature visualization").

    Args:
        space: the most pixels, up, down, left or right.
        time: the most frames, to earlier or later times.

    Raises:
        ValueError: if one is negative or not a whole number, or both are 0.

    Example:
        >>> stimuli = torch.tensor([1.0, 2.0, 3.0]).expand(2, 1, 1, 3, 3)  # two that are the same
        >>> ml.Jitter(space=1)(stimuli, keys=torch.tensor([0, 1]))[:, 0, 0, 1].tolist()  # moved by their keys
        [[2.0, 3.0, 0.0], [0.0, 1.0, 2.0]]
        >>> cell = [("session_1", 0)]
        >>> usual = ml.find_meis("simulated", cell, max_steps=4, progress_bar=False)
        >>> robust = ml.find_meis(
        ...     "simulated", cell, robustness=[ml.Jitter(space=2, time=2)], max_steps=4, progress_bar=False
        ... )
        >>> bool(robust.score < usual.score)  # where it is not moved
        True
    """

    def __init__(self, space: int = 0, time: int = 0) -> None:
        if not is_whole(space, 0) or not is_whole(time, 0) or not (space or time):
            raise InvalidValueError(
                f"Jitter(space={space!r}, time={time!r}) needs whole numbers of pixels and frames, not both 0."
            )
        self.space = space
        self.time = time

    def check(self, objective: Objective, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if nothing would be left of the stimulus, or a still image were to move in time."""
        frames, height, width = stimulus_shape[-3:]
        if self.time and frames == 1:
            raise InvalidValueError(f"{self!r} moves in time, which a still image does not have: leave time out.")
        if self.time >= frames or self.space >= min(height, width):
            raise InvalidValueError(
                f"{self!r} can move a stimulus of {frames} frame(s) of {height} x {width} pixels out of sight. Choose "
                "less."
            )

    def __call__(self, stimulus: Tensor, keys: Tensor) -> Tensor:
        """Moved stimuli ``[rows, channels, time, height, width]``."""
        largest = self.time, self.space, self.space
        return translate(stimulus, integers(keys, [(-distance, distance) for distance in largest]))

    def __repr__(self) -> str:
        return f"Jitter(space={self.space}, time={self.time})"


def translate(stimulus: Tensor, distances: Tensor) -> Tensor:
    """Each row moved by its own distance; what enters is 0.

    Args:
        stimulus: ``[rows, channels, time, height, width]``.
        distances: ``[rows, 3]`` of integers: frames to later times, pixels to larger y and to larger x.
    """
    inside = torch.ones(1, dtype=torch.bool, device=stimulus.device)
    source = torch.zeros(1, dtype=torch.long, device=stimulus.device)
    for dim, size in enumerate(stimulus.shape[2:]):
        from_place = torch.arange(size, device=stimulus.device) - distances[:, dim, None]
        along = from_place.view(len(stimulus), *[size if dim == other else 1 for other in range(3)])
        inside = inside & (along >= 0) & (along < size)
        source = source * size + along.clamp(0, size - 1)
    source = source.flatten(1)[:, None].expand(-1, stimulus.shape[1], -1)
    return stimulus.flatten(2).gather(2, source).view(stimulus.shape) * inside[:, None]


class Noise(Perturbation):
    """Adds white Gaussian noise.

    Args:
        standard_deviation: of the noise of each value, in the model's units.

    Raises:
        ValueError: unless it is positive and finite.

    Example:
        >>> noise = ml.Noise(0.5)(torch.zeros(1, 2, 50, 18, 16), keys=torch.tensor([7]))
        >>> print(f"{noise.std():.2f}")
        0.50
        >>> meis = ml.find_meis(
        ...     "simulated", [("session_1", 0)], robustness=[ml.Noise(0.5)], max_steps=4, progress_bar=False
        ... )
    """

    def __init__(self, standard_deviation: float) -> None:
        if not is_positive(standard_deviation):
            raise InvalidValueError(f"Noise(standard_deviation={standard_deviation!r}) has to be positive and finite.")
        self.standard_deviation = standard_deviation

    def __call__(self, stimulus: Tensor, keys: Tensor) -> Tensor:
        """Noisy stimuli ``[rows, channels, time, height, width]``."""

        def draw(rows: slice) -> Tensor:
            values = normals(keys[rows], stimulus[0].numel(), stimulus.dtype)
            return self.standard_deviation * values.view(-1, *stimulus.shape[1:])

        return stimulus + fill_rows(torch.empty_like(stimulus, requires_grad=False), draw)

    def __repr__(self) -> str:
        return f"Noise(standard_deviation={self.standard_deviation:g})"
