"""Stimuli that form from coarse to fine."""

import torch
from torch import Tensor

from mei_lightning.arguments import is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.parameterizations.base import Parameterization


class Pyramid(Parameterization):
    """Sums of stimuli of several resolutions, of which coarse ones weigh more: ``x = sum_l w_l U_l z_l``.

    Level l has a sample for every 2^l frames and every 2^l x 2^l pixels. U_l interpolates between them linearly, scaled
    so that a sample has norm 1 at any level, and ``w_l = 2^(l/2)``. As a weight counts twice, in the gradient and in
    the stimulus, a step of gradient ascent changes a level twice as much as the next finer one: details follow as the
    coarse parts settle. After the Laplacian pyramid (Burt and Adelson 1983, IEEE Transactions on Communications
    31:532-540, "The Laplacian pyramid as a compact image code").

    This is coarse-to-fine without a schedule: any stimulus can be reached from the first step on, and a row that is
    interrupted has nothing to remember but its parameters.

    Parameters are ``[rows, channels, samples of all levels]``, the finest level first. Of a given stimulus each level
    takes what the coarser ones cannot show.

    Args:
        levels: the number of resolutions, the finest included.

    Raises:
        ValueError: unless the number of levels is whole and positive, or in ``for_stimuli`` so many that the
            coarsest have one sample each.

    Example:
        >>> pyramid = ml.Pyramid(levels=2).for_stimuli((1, 1, 8, 8, 8))
        >>> stimulus = torch.randn(1, 1, 8, 8, 8)
        >>> parameters = pyramid.parameters_of(stimulus)
        >>> parameters.shape  # 8 * 8 * 8 fine samples, and 4 * 4 * 4 coarse ones
        torch.Size([1, 1, 576])
        >>> torch.allclose(pyramid(parameters), stimulus, atol=1e-4)
        True
    """

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        if not is_whole(levels, 1):
            raise InvalidValueError(f"Pyramid(levels={levels!r}) must be a whole number, at least 1.")
        self.levels = levels

    def prepare(self, shape: torch.Size, stimulus_format: StimulusFormat | None) -> None:
        """Make the interpolations of all levels."""
        _, *sides = shape
        if self.levels > 1 and 2 ** (self.levels - 2) >= max(sides):
            raise InvalidValueError(
                f"Pyramid(levels={self.levels}) is too many for {sides[0]} frames of {sides[1]} x {sides[2]} pixels: "
                "the coarsest two would be the same single sample."
            )
        self._weights = [2 ** (level / 2) for level in range(self.levels)]
        self._sizes = [torch.Size(-(-side // 2**level) for side in sides) for level in range(self.levels)]
        for level, sizes in enumerate(self._sizes):
            for dim, (side, size) in enumerate(zip(sides, sizes, strict=True)):
                matrix = _interpolation(size, side)
                # In the mean: samples at the borders weigh more.
                matrix = matrix / matrix.square().sum(dim=0).mean().sqrt()
                for name, values in (("up", matrix), ("down", torch.linalg.pinv(matrix))):
                    buffer = values.to(torch.get_default_dtype())
                    self.register_buffer(f"{name}_{level}_{dim}", buffer, persistent=False)

    def _resampled(self, values: Tensor, direction: str, level: int) -> Tensor:
        for dim in range(3):
            matrix = self.get_buffer(f"{direction}_{level}_{dim}").to(values.dtype)
            values = (values.movedim(2 + dim, -1) @ matrix.T).movedim(-1, 2 + dim)
        return values

    def forward(self, parameters: Tensor) -> Tensor:
        """Stimuli ``[rows, channels, time, height, width]``."""
        parts = parameters.split([sizes.numel() for sizes in self._sizes], dim=2)
        stimulus = parts[0].unflatten(2, self._sizes[0])
        for level in range(1, self.levels):
            part = parts[level].unflatten(2, self._sizes[level])
            stimulus = stimulus + self._weights[level] * self._resampled(part, "up", level)
        return stimulus

    def parameters_of(self, stimulus: Tensor) -> Tensor:
        """The parameters of exactly these stimuli."""
        parts = []
        for level in reversed(range(1, self.levels)):
            part = self._resampled(stimulus, "down", level)
            stimulus = stimulus - self._resampled(part, "up", level)
            parts.append(part.flatten(2) / self._weights[level])
        return torch.cat([stimulus.flatten(2), *reversed(parts)], dim=2)

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"levels={self.levels}"


def _interpolation(size: int, side: int) -> Tensor:
    """The matrix ``[side, size]`` of linear interpolation from samples spread evenly over a side; its ends are flat."""
    places = ((torch.arange(side, dtype=torch.float64) + 0.5) * size / side - 0.5).clamp(0, size - 1)
    return (1 - (places[:, None] - torch.arange(size, dtype=torch.float64)).abs()).clamp(min=0)
