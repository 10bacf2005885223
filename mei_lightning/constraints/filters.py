"""Gaussian low-pass filters."""

from typing import Literal

import torch
from torch import Tensor

from mei_lightning.arguments import is_positive
from mei_lightning.constraints.base import Constraint
from mei_lightning.exceptions import InvalidValueError


def gaussian_filter(
    stimulus: Tensor, sigma: float, dim: int, border: Literal["nearest", "reflect"] = "nearest"
) -> Tensor:
    """Smooth along one dimension with a Gaussian, truncated at 4 sigma and normalised so that constants stay.

    Args:
        stimulus: of any shape.
        sigma: standard deviation in entries of that dimension (frames or pixels).
        dim: the dimension.
        border: how a stimulus continues beyond its borders, as the ``mode`` of ``scipy.ndimage.gaussian_filter1d``:
            with its border values, or with its mirror image.

    Returns:
        A tensor of the same shape.
    """
    length, radius = stimulus.shape[dim], int(4 * sigma + 0.5)
    entries = torch.arange(length, device=stimulus.device)
    padded = torch.arange(-radius, length + radius, device=stimulus.device)
    distances = (padded[:, None] - entries).to(stimulus.dtype)
    weights = (-0.5 * (distances / sigma) ** 2).exp() * (distances.abs() <= radius)
    if border == "nearest":
        inside = padded.clamp(0, length - 1)
    else:
        inside = padded.remainder(2 * length)
        inside = torch.minimum(inside, 2 * length - 1 - inside)
    sources = inside == entries[:, None]
    # One matrix product is faster than many short convolutions.
    matrix = sources.to(stimulus.dtype) @ (weights / weights.sum(0))
    return (stimulus.movedim(dim, -1) @ matrix).movedim(-1, dim)


class _LowPass(Constraint):
    dims: tuple[int, ...]

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not is_positive(sigma):
            raise InvalidValueError(f"{type(self).__name__}(sigma={sigma}) must be positive and finite.")
        self.sigma = sigma

    def forward(self, stimulus: Tensor) -> Tensor:
        """The smoothed stimuli, as a new tensor."""
        for dim in self.dims:
            stimulus = gaussian_filter(stimulus, self.sigma, dim)
        return stimulus

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"sigma={self.sigma:g}"


class TemporalLowPass(_LowPass):
    """Gaussian smoothing over time.

    The Gaussian is truncated at 4 sigma and has unit sum, so that what is steady stays as it is; before the first and
    after the last frame these go on. Not a projection: applied after each step, it smooths again what earlier steps
    have left.

    Args:
        sigma: standard deviation in frames.

    Raises:
        ValueError: if sigma is not positive and finite.

    Example:
        >>> flash = torch.zeros(1, 1, 21, 4, 4)
        >>> flash[:, :, 10] = 1.0
        >>> smoothed = ml.TemporalLowPass(sigma=2.0)(flash)[0, 0, :, 0, 0]
        >>> smoothed[10]  # of a Gaussian of 2 frames, 1 / (2 sqrt(2 pi))
        tensor(0.1995)
        >>> smoothed.sum().round(decimals=3)
        tensor(1.)
    """

    dims = (2,)


class SpatialLowPass(_LowPass):
    """Gaussian smoothing over height and width.

    The Gaussian is truncated at 4 sigma and has unit sum, so that what is uniform stays as it is; the pixels at the
    borders go on beyond them. Not a projection: applied after each step, it smooths again what earlier steps have left.

    Args:
        sigma: standard deviation in pixels.

    Raises:
        ValueError: if sigma is not positive and finite.

    Example:
        >>> spot = torch.zeros(1, 1, 1, 21, 21)
        >>> spot[..., 10, 10] = 1.0
        >>> smoothed = ml.SpatialLowPass(sigma=1.0)(spot)
        >>> smoothed.max()  # of a Gaussian of 1 pixel, 1 / (2 pi)
        tensor(0.1592)
        >>> smoothed.sum().round(decimals=3)
        tensor(1.)
    """

    dims = (3, 4)
