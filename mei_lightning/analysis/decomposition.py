"""What an MEI tells: its course in time, its shape in space, and its temporal frequency."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mei_lightning.exceptions import InvalidValueError

Array = NDArray[np.floating[Any]]

_MOST_ALTERNATIONS = 300
_SETTLED = 1e-5


def decompose(stimulus: ArrayLike) -> tuple[Array, Array, float]:
    """Split one channel of a stimulus into its best separable part, temporal course times spatial shape.

    ``temporal[:, None, None] * spatial`` is the separable stimulus nearest to ``stimulus`` (the first component of
    its singular value decomposition). The spatial part is scaled to a largest magnitude of 1 and signed so that its
    centre, the pixel of largest magnitude, is +1; the temporal part carries the unit of the stimulus.

    Args:
        stimulus: ``[time, height, width]``.

    Returns:
        The temporal part ``[time]``, the spatial part ``[height, width]``, and the explained share: the part of the
        stimulus' squared norm that the product accounts for, between 0 and 1. All are zero for a stimulus of zeros.

    Raises:
        ValueError: if the stimulus does not have three dimensions, is empty, or has values that are not finite.
    """
    values = np.asarray(stimulus, dtype=np.float64)
    if values.ndim != 3 or values.size == 0:
        raise InvalidValueError(
            f"One channel of a stimulus is [time, height, width], but this has shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise InvalidValueError(
            f"The stimulus has {np.count_nonzero(~np.isfinite(values))} values that are not finite."
        )
    time_steps, height, width = values.shape
    scale = np.abs(values).max()
    if scale == 0:
        return np.zeros(time_steps), np.zeros((height, width)), 0.0
    matrix = (values / scale).reshape(time_steps, height * width)
    # The first singular vectors, from the smaller of the two Gram matrices: several times faster than a full SVD.
    if time_steps <= height * width:
        in_time = np.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
        in_space = in_time @ matrix
    else:
        in_space = np.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -1]
        in_time = matrix @ in_space
    centre = in_space[np.abs(in_space).argmax()]
    temporal = in_time * (centre * scale)
    spatial = (in_space / centre).reshape(height, width)
    share = np.sum(in_time**2) * np.sum(in_space**2) / np.sum(matrix**2)
    return temporal, spatial, min(1.0, float(share))


def decompose_channels(stimulus: ArrayLike, dominant: int | None = None) -> tuple[Array, Array, Array]:
    """``decompose`` of each channel, with signs that make all of them positive in the same place.

    Args:
        stimulus: ``[channels, time, height, width]``.
        dominant: the channel whose centre that is; by default the one of largest norm.

    Returns:
        Temporal parts ``[channels, time]``, spatial parts ``[channels, height, width]`` and explained shares
        ``[channels]``.
    """
    values = np.asarray(stimulus, dtype=np.float64)
    if dominant is None:
        dominant = int(np.square(values).sum(axis=(1, 2, 3)).argmax())
    temporal, spatial, explained = (np.stack(parts) for parts in zip(*map(decompose, values), strict=True))
    centre = np.maximum(spatial[dominant], 0)
    # Where a channel is strongest beside the centre, its own sign would be that of its surround.
    sign = np.where(np.tensordot(spatial, centre, axes=2) < 0, -1.0, 1.0)
    return temporal * sign[:, None], spatial * sign[:, None, None], explained


def unclipped_shape(stimulus: ArrayLike, is_clipped: ArrayLike) -> Array:
    """Spatial shape of one channel of a stimulus as it would be without the limits of its range.

    The spatial part of ``decompose`` is flat where values are held at a limit, so that a centre looks wider. Here the
    separable stimulus is the one nearest to the values that are not at a limit (a weighted low-rank
    approximation, Srebro and Jaakkola 2003, by alternating least squares): frames of little contrast show the shape
    of the clipped ones. A pixel that is at a limit in all frames keeps the value of ``decompose``.

    Args:
        stimulus: ``[time, height, width]``.
        is_clipped: which values are at a limit, ``[time, height, width]``.

    Returns:
        ``[height, width]``, as the spatial part of ``decompose``, which it is where nothing is clipped.

    Raises:
        ValueError: as ``decompose``, or if the shapes differ.
    """
    temporal, spatial, _ = decompose(stimulus)
    free = ~np.asarray(is_clipped, dtype=bool)
    values = np.asarray(stimulus, dtype=np.float64)
    if free.shape != values.shape:
        raise InvalidValueError(f"The stimulus has shape {values.shape}, but is_clipped has {free.shape}.")
    if free.all() or not spatial.any():
        return spatial
    weight = free.reshape(len(free), -1).astype(np.float64)
    known = weight * values.reshape(weight.shape)
    shape = spatial.ravel()
    for _ in range(_MOST_ALTERNATIONS):
        temporal = _quotient(known @ shape, weight @ shape**2, temporal)
        update = _quotient(temporal @ known, temporal**2 @ weight, shape)
        change = np.abs(update - shape).max()
        shape = update
        if change <= _SETTLED * np.abs(shape).max():
            break
    return (shape / shape[np.abs(shape).argmax()]).reshape(spatial.shape)


def _quotient(numerator: Array, denominator: Array, otherwise: Array) -> Array:
    """The quotient; something else where the denominator is 0 or rounding."""
    some = denominator > 1e-12 * denominator.max()
    return np.where(some, numerator / np.where(some, denominator, 1.0), otherwise)


def amplitude_spectrum(temporal: ArrayLike, frame_rate: float, cutoff: float = 10.0) -> tuple[Array, Array]:
    """Amplitudes of the sinusoids that make up a temporal course, without its mean.

    Args:
        temporal: ``[time]``.
        frame_rate: frames per second (Hz).
        cutoff: highest frequency to return (Hz).

    Returns:
        Frequencies (Hz), above 0 and up to the cutoff, and the amplitude at each, in the unit of ``temporal``:
        ``2 / time * |FFT|``, so that a sine of amplitude 1 with whole periods gives 1. The mean of the course
        (frequency 0) is left out.

    Raises:
        ValueError: if ``temporal`` is not one-dimensional, or the frame rate or the cutoff is not positive.
    """
    values = np.asarray(temporal, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidValueError(f"A temporal course is [time], but this has shape {values.shape}.")
    if frame_rate <= 0 or cutoff <= 0:
        raise InvalidValueError(
            f"Frequencies need a positive frame rate and cutoff, got {frame_rate=} and {cutoff=} (Hz)."
        )
    frequencies = np.fft.rfftfreq(len(values), 1 / frame_rate)
    amplitudes = 2 / len(values) * np.abs(np.fft.rfft(values))
    rounding = 1e-9 * cutoff
    kept = (frequencies > 0) & (frequencies <= cutoff + rounding)
    return frequencies[kept], amplitudes[kept]


def temporal_frequency(temporal: ArrayLike, frame_rate: float, cutoff: float = 10.0) -> float:
    """Mean temporal frequency of a course in time, each frequency weighted by its amplitude.

    The measure of Höfling et al. 2024 (eLife 86860). Frequency 0, the mean of the course, is left out: it would pull
    the frequency of a stimulus that is brighter or darker than the background on average towards 0.

    Args:
        temporal: ``[time]``.
        frame_rate: frames per second (Hz).
        cutoff: highest frequency that counts (Hz).

    Returns:
        The frequency (Hz); NaN for a course that does not change below the cutoff.

    Raises:
        ValueError: as ``amplitude_spectrum``.
    """
    frequencies, amplitudes = amplitude_spectrum(temporal, frame_rate, cutoff)
    negligible = 1e-12 * float(np.abs(np.asarray(temporal, dtype=np.float64)).max())
    if amplitudes.sum() <= negligible:
        return float("nan")
    return float(np.average(frequencies, weights=amplitudes))
