"""Orientation and motion of a stimulus, from where the power of its spectrum in space and time lies."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike

from mei_lightning.exceptions import InvalidValueError


@dataclass(frozen=True)
class Motion:
    """How a stimulus is oriented and where it moves.

    Args:
        orientation: of its bars or its long axis, 0 to 180 degrees: 0 along x, 90 along y; NaN without an orientation.
        orientation_index: 0 for a round stimulus, 1 for a grating.
        direction: where it moves, 0 to 360 degrees: 0 towards growing x, 90 towards growing y; NaN without motion.
        direction_index: 0 for a stimulus that flickers on the spot (any separable one), 1 for one that drifts.
    """

    orientation: float
    orientation_index: float
    direction: float
    direction_index: float


_NEGLIGIBLE = 1e-6


def motion(stimulus: ArrayLike) -> Motion:
    """Orientation and direction of motion of a stimulus.

    What drifts in a direction has its spectral power at spatial frequencies along it and temporal frequencies of the
    matching sign (Adelson and Bergen 1985). Both indices are lengths of the power-weighted mean of unit vectors:
    of ``exp(2i angle)`` of the spatial frequency for orientation, of ``exp(i angle)`` for direction, where
    the power that does not vary in space (or, for direction, in time) is left out. Power is summed over channels.

    Args:
        stimulus: ``[channel, time, height, width]``; pixels are square.

    Raises:
        ValueError: if the stimulus does not have four dimensions, or has values that are not finite.
    """
    values = np.asarray(stimulus, dtype=np.float64)
    if values.ndim != 4 or values.size == 0:
        raise InvalidValueError(f"A stimulus is [channel, time, height, width], but this has shape {values.shape}.")
    if not np.isfinite(values).all():
        raise InvalidValueError(
            f"The stimulus has {np.count_nonzero(~np.isfinite(values))} values that are not finite."
        )
    # A square of padded pixels samples all orientations alike.
    side = scipy.fft.next_fast_len(2 * max(values.shape[2:]))
    frames = scipy.fft.next_fast_len(values.shape[1], real=True)
    # Half of the spectrum, without negative temporal frequencies, says all: the other half is its mirror image.
    in_time = scipy.fft.rfft(values, frames, axis=1)
    spectrum = scipy.fft.fft2(in_time, (side, side), axes=(2, 3))
    power = np.sum(spectrum.real**2 + spectrum.imag**2, axis=0)
    frequency = scipy.fft.fftfreq(side)
    along_y, along_x = frequency[:, None], frequency
    radius = np.hypot(along_y, along_x)
    # The highest frequencies have no direction: theirs and the opposite one are the same sample.
    counted = (radius > 0) & (radius < 0.5)
    # What grows in phase with time as with space moves against that spatial frequency.
    angle = np.arctan2(-along_y, -along_x)
    weight = np.full(len(power), 2.0)
    weight[0] = 1.0
    if frames % 2 == 0:
        weight[-1] = 1.0
    total = np.tensordot(weight, power, axes=1)[counted]
    # Neither does a standstill or the highest temporal frequency have a direction.
    moving = np.sum(power[1 : (frames + 1) // 2], axis=0)[counted]
    axis = _mean_vector(total, 2 * angle[counted])
    direction = _mean_vector(moving, angle[counted])
    return Motion(
        orientation=_degrees(axis, 2, 90.0),
        orientation_index=abs(axis),
        direction=_degrees(direction, 1, 0.0),
        direction_index=abs(direction),
    )


def _mean_vector(power: np.ndarray, angle: np.ndarray) -> complex:
    total = power.sum()
    return complex(power @ np.exp(1j * angle) / total) if total > 0 else 0j


def _degrees(vector: complex, symmetry: int, offset: float) -> float:
    """Direction of a mean vector of ``symmetry`` times the angle; NaN where it is rounding."""
    if abs(vector) < _NEGLIGIBLE:
        return float("nan")
    period = 360.0 / symmetry
    degrees = float((np.degrees(np.angle(vector)) / symmetry + offset) % period)
    # Rounding turns the least below 0 into the period itself.
    return 0.0 if degrees == period else degrees
