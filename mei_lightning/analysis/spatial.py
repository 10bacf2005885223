"""Place, size and surround: a difference of Gaussians fitted to the spatial part of an MEI."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from mei_lightning.analysis.decomposition import Array
from mei_lightning.exceptions import InvalidValueError

_SMALLEST_SD = 0.3
_SD_RATIOS = (1.5, 10.0)
_STRONGEST = 10.0
_AT_A_LIMIT = 1.001
_NO_SURROUND = 0.02
_PIXELS_OUTSIDE = 0.5
_EVALUATIONS = 200


@dataclass(frozen=True)
class DifferenceOfGaussians:
    """A round centre minus a round surround, ``exp(-r^2 / 2 c^2) - k (c / s)^2 exp(-r^2 / 2 s^2)``, fitted to an image.

    ``r`` is the distance from the centre; the fit is up to a factor.

    Args:
        y: row of the centre, in pixels.
        x: column of the centre, in pixels.
        centre_sd: standard deviation c of the centre, in pixels.
        surround_sd: standard deviation s of the surround, in pixels; NaN if the strength is below 0.02, or the image
            does not tell (the best fit is at a limit of what is allowed).
        surround_strength: volume k of the surround as a share of the centre's.
        r2: share of the image's variance that the fit explains, at most 1.
    """

    y: float
    x: float
    centre_sd: float
    surround_sd: float
    surround_strength: float
    r2: float


_UNKNOWN = DifferenceOfGaussians(*[float("nan")] * 6)


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
        raise InvalidValueError(
            f"The spatial part of a stimulus is [height, width], but this has shape {values.shape}."
        )
    if not np.isfinite(values).all() or values.size == 0 or values.max() <= 0 or np.ptp(values) == 0:
        return _UNKNOWN
    image = values / values.max()
    height, width = image.shape
    rows, columns = np.arange(height, dtype=np.float64)[:, None], np.arange(width, dtype=np.float64)

    # The parameters: row, column, log of the centre's sd, log of the ratio of sds, strength, amplitude.
    def parts(p: Array) -> tuple[Array, Array, float]:
        """Squared distance in centre sds, the centre, and the surround's share of its height."""
        distance = ((rows - p[0]) ** 2 + (columns - p[1]) ** 2) * np.exp(-2 * p[2])
        return distance, np.exp(-distance / 2), np.exp(-2 * p[3])

    def residuals(p: Array) -> Array:
        distance, centre, height_share = parts(p)
        surround = height_share * np.exp(-height_share * distance / 2)
        return (p[5] * (centre - p[4] * surround) - image).ravel()

    def jacobian(p: Array) -> Array:
        distance, centre, height_share = parts(p)
        surround = height_share * np.exp(-height_share * distance / 2)
        slope = p[5] * (centre - p[4] * height_share * surround)
        derivatives = [
            slope * (rows - p[0]) * np.exp(-2 * p[2]),
            slope * (columns - p[1]) * np.exp(-2 * p[2]),
            slope * distance,
            p[5] * p[4] * surround * (2 - height_share * distance),
            -p[5] * surround,
            centre - p[4] * surround,
        ]
        return np.stack([derivative.ravel() for derivative in derivatives], axis=1)

    largest_sd = float(max(height, width, 2))
    low = [-_PIXELS_OUTSIDE, -_PIXELS_OUTSIDE, np.log(_SMALLEST_SD), np.log(_SD_RATIOS[0]), 0.0, 0.0]
    high = [height - 1, width - 1, np.log(largest_sd), np.log(_SD_RATIOS[1]), _STRONGEST, np.inf]
    high[0] += _PIXELS_OUTSIDE
    high[1] += _PIXELS_OUTSIDE
    row, column = np.unravel_index(image.argmax(), image.shape)
    # The area above half of the maximum of a Gaussian is 2 pi ln(2) sd^2.
    start_sd = np.clip(np.sqrt((image > 0.5).sum() / (2 * np.pi * np.log(2))), 2 * _SMALLEST_SD, largest_sd / 2)
    start = [float(row), float(column), np.log(start_sd), np.log(2.0), 0.3, 1.0]
    p = least_squares(residuals, start, jac=jacobian, bounds=(low, high), x_scale="jac", max_nfev=_EVALUATIONS).x
    residual = residuals(p)
    centre_sd = float(np.exp(p[2]))
    surround_ratio = float(np.exp(p[3]))
    is_told = p[4] > _NO_SURROUND and _SD_RATIOS[0] * _AT_A_LIMIT < surround_ratio < _SD_RATIOS[1] / _AT_A_LIMIT
    return DifferenceOfGaussians(
        y=float(p[0]),
        x=float(p[1]),
        centre_sd=centre_sd,
        surround_sd=centre_sd * surround_ratio if is_told else float("nan"),
        surround_strength=float(p[4]),
        r2=float(1 - residual @ residual / np.sum((image - image.mean()) ** 2)),
    )
