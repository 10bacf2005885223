"""Place, size and surround: a difference of Gaussians fitted to the spatial part of an MEI."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from mei_lightning.analysis.decomposition import Array

_SMALLEST_SD = 0.3
_SD_RATIOS = (1.5, 10.0)
_STRONGEST = 10.0
_NO_SURROUND = 1e-3
_PIXELS_OUTSIDE = 0.5


@dataclass(frozen=True)
class DifferenceOfGaussians:
    """A round centre minus a round surround, ``A (exp(-r^2 / 2 c^2) - k (c / s)^2 exp(-r^2 / 2 s^2))``.

    Args:
        y: row of the centre, in pixels.
        x: column of the centre, in pixels.
        centre_sd: standard deviation c of the centre, in pixels.
        surround_sd: standard deviation s of the surround, in pixels; NaN if there is no surround.
        surround_strength: volume k of the surround as a share of the centre's.
        amplitude: A, the largest value of the centre alone.
        r2: share of the image's variance that the fit explains, at most 1.
    """

    y: float
    x: float
    centre_sd: float
    surround_sd: float
    surround_strength: float
    amplitude: float
    r2: float


_UNKNOWN = DifferenceOfGaussians(*[float("nan")] * 7)


def difference_of_gaussians(y: Array, x: Array, parameters: ArrayLike) -> Array:
    """Values ``[height, width]`` of a difference of Gaussians on a grid of pixels; see ``DifferenceOfGaussians``.

    Args:
        y: rows, ``[height]``.
        x: columns, ``[width]``.
        parameters: row, column, centre sd, surround sd, surround strength, amplitude.
    """
    row, column, centre_sd, surround_sd, strength, amplitude = np.asarray(parameters, dtype=np.float64)
    squared_distance = (y[:, None] - row) ** 2 + (x - column) ** 2
    centre = np.exp(-squared_distance / (2 * centre_sd**2))
    surround = np.exp(-squared_distance / (2 * surround_sd**2))
    return amplitude * (centre - strength * (centre_sd / surround_sd) ** 2 * surround)


def fit_difference_of_gaussians(spatial: ArrayLike) -> DifferenceOfGaussians:
    """Fit a difference of Gaussians to the spatial part of a stimulus by least squares.

    The centre is positive and may lie up to half a pixel outside the image; its sd is at least 0.3 pixels, and the
    surround's 1.5 to 10 times as large.

    Args:
        spatial: ``[height, width]``, positive in the centre.

    Returns:
        The fit; all NaN if the image is uniform, has no positive value, or has values that are not finite.

    Raises:
        ValueError: if ``spatial`` does not have two dimensions.
    """
    values = np.asarray(spatial, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"The spatial part of a stimulus is [height, width], but this has shape {values.shape}.")
    if not np.isfinite(values).all() or values.size == 0 or values.max() <= 0 or np.ptp(values) == 0:
        return _UNKNOWN
    scale = values.max()
    image = values / scale
    height, width = image.shape
    y, x = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
    largest_sd = float(max(height, width, 2))
    row, column = np.unravel_index(image.argmax(), image.shape)
    # The area above half of the maximum of a Gaussian is 2 pi ln(2) sd^2.
    start_sd = np.clip(np.sqrt((image > 0.5).sum() / (2 * np.pi * np.log(2))), 2 * _SMALLEST_SD, largest_sd / 2)
    low = [-_PIXELS_OUTSIDE, -_PIXELS_OUTSIDE, np.log(_SMALLEST_SD), np.log(_SD_RATIOS[0]), 0.0, 0.0]
    high = [
        height - 1 + _PIXELS_OUTSIDE,
        width - 1 + _PIXELS_OUTSIDE,
        np.log(largest_sd),
        np.log(_SD_RATIOS[1]),
        _STRONGEST,
        np.inf,
    ]

    def gaussians(p: Array) -> tuple[Array, Array, Array, Array, Array, float]:
        from_row, from_column = y[:, None] - p[0], x - p[1]
        squared_distance = from_row**2 + from_column**2
        squared_sd, ratio = np.exp(2 * p[2]), np.exp(-2 * p[3])
        centre = np.exp(-squared_distance / (2 * squared_sd))
        surround = ratio * np.exp(-squared_distance * ratio / (2 * squared_sd))
        return from_row, from_column, squared_distance / squared_sd, centre, surround, ratio

    def residuals(p: Array) -> Array:
        *_, centre, surround, _ = gaussians(p)
        return (p[5] * (centre - p[4] * surround) - image).ravel()

    def jacobian(p: Array) -> Array:
        from_row, from_column, distance, centre, surround, ratio = gaussians(p)
        strength, amplitude = p[4], p[5]
        towards = amplitude * (centre - strength * ratio * surround) / np.exp(2 * p[2])
        columns = [
            towards * from_row,
            towards * from_column,
            amplitude * (centre - strength * ratio * surround) * distance,
            amplitude * strength * surround * (2 - distance * ratio),
            -amplitude * surround,
            centre - strength * surround,
        ]
        return np.stack([column.ravel() for column in columns], axis=1)

    start = [float(row), float(column), np.log(start_sd), np.log(2.0), 0.3, 1.0]
    p = least_squares(residuals, start, jac=jacobian, bounds=(low, high), x_scale="jac", max_nfev=200).x
    residual = residuals(p)
    r2 = 1 - residual @ residual / np.sum((image - image.mean()) ** 2)
    centre_sd = np.exp(p[2])
    surround_sd = centre_sd * np.exp(p[3]) if p[4] > _NO_SURROUND else np.nan
    return DifferenceOfGaussians(*(float(v) for v in (p[0], p[1], centre_sd, surround_sd, p[4], p[5] * scale, r2)))
