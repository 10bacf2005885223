"""Colour in time: the contrast that each channel of an MEI ends with, and whether the channels oppose each other."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import find_peaks

from mei_lightning.analysis.decomposition import Array
from mei_lightning.exceptions import InvalidValueError

OPPONENCY_BOUNDARY = np.pi / 4
"""Opponency angle (radians) beyond which two channels change in opposite directions."""

_FRAMES_BETWEEN_PEAKS = 5
_BELOW_THE_LARGEST = 0.05


def last_peaks(temporal: ArrayLike) -> tuple[int, int]:
    """Frames of the last positive and the last negative peak of a course in time.

    A peak is as in Höfling et al. 2024 (eLife 86860): at least as high as one standard deviation above the mean, or as
    0.05 below the largest value, whichever is lower, and at least 5 frames from a higher one. Those 0.05 are
    of the largest magnitude, so that the peaks do not depend on the unit. Where there is no peak, as in a course that
    rises up to its last frame, the largest value counts.

    Args:
        temporal: ``[time]``.

    Returns:
        The frame of the last positive and that of the last negative peak.

    Raises:
        ValueError: if ``temporal`` is not one-dimensional or empty.
    """
    values = np.asarray(temporal, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidValueError(f"A temporal course is [time], but this has shape {values.shape}.")
    return _last_peak(values), _last_peak(-values)


def _last_peak(values: Array) -> int:
    lowest = min(values.mean() + values.std(), values.max() - _BELOW_THE_LARGEST * np.abs(values).max())
    peaks, _ = find_peaks(values, height=lowest, distance=_FRAMES_BETWEEN_PEAKS)
    return int(peaks[-1] if len(peaks) else values.argmax())


def temporal_contrast(temporal: ArrayLike, reference: int) -> Array:
    """How far each channel changes between the last two opposite peaks of one of them.

    The measure of Höfling et al. 2024 (eLife 86860), who take the peaks from UV: the value at the later peak minus the
    value at the earlier one. Of a single frame it is the value itself, the change from the background.

    Args:
        temporal: the channels' courses in time ``[channel, time]``.
        reference: the channel whose peaks (see ``last_peaks``) count.

    Returns:
        ``[channel]``, in the unit of ``temporal``; NaN if the reference channel does not change.

    Raises:
        ValueError: if ``temporal`` does not have two dimensions or is empty.
        IndexError: if there is no such channel.
    """
    values = np.asarray(temporal, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise InvalidValueError(f"Temporal courses are [channel, time], but these have shape {values.shape}.")
    if values.shape[1] == 1:
        return values[:, 0].copy()
    if np.ptp(values[reference]) == 0:
        return np.full(len(values), np.nan)
    earlier, later = sorted(last_peaks(values[reference]))
    return values[:, later] - values[:, earlier]


def opponency_angle(contrast: ArrayLike) -> float:
    """Angle between the contrasts of two channels and the line on which they are equal.

    ``|atan((b - a) / (b + a))|``, after Höfling et al. 2024 (eLife 86860). 0 for equal contrasts, pi/4
    (``OPPONENCY_BOUNDARY``) if only one channel changes, more if they change in opposite directions, pi/2 if equally.

    Args:
        contrast: the temporal contrasts of two channels.

    Returns:
        Between 0 and pi/2 (radians); NaN if neither channel changes, or a contrast is NaN.

    Raises:
        ValueError: if there are not two contrasts.
    """
    values = np.asarray(contrast, dtype=np.float64)
    if values.shape != (2,):
        raise InvalidValueError(f"Opponency is between two channels, but the contrasts have shape {values.shape}.")
    if not values.any():
        return float("nan")
    return float(np.arctan2(abs(values[1] - values[0]), abs(values[1] + values[0])))
