"""openretina's functions of a stimulus' course in time and shape in space."""

import numpy as np
from scipy.signal import butter, filtfilt

from mei_lightning.analysis.decomposition import Array, decompose
from mei_lightning.exceptions import InvalidValueError


def butter_lowpass_filter(data: Array, lowpass_cutoff: float, fs: float, order: int = 5) -> Array:
    """A course in time without its higher frequencies, by a Butterworth filter that does not delay it.

    Args:
        data: ``[..., time]``, of more than ``3 * (order + 1)`` frames.
        lowpass_cutoff: the frequency (Hz) at which half of the amplitude is left, as the filter runs both ways.
        fs: frames per second (Hz).
        order: of the filter.

    Raises:
        ValueError: if the cutoff is not below half of the frame rate, or the course is too short.
    """
    frames = np.asarray(data).shape[-1]
    if not 0 < lowpass_cutoff < fs / 2 or frames <= 3 * (order + 1):
        raise InvalidValueError(
            f"lowpass_cutoff={lowpass_cutoff} has to be between 0 and half of the frame rate, {fs / 2:g} Hz, and the "
            f"course in time longer than {3 * (order + 1)} frames; it has {frames}."
        )
    return filtfilt(*butter(order, lowpass_cutoff, fs=fs), data)


def calculate_fft(
    temporal_kernel: Array, sampling_frequency: float = 30.0, lowpass_cutoff: float = 10.0
) -> tuple[Array, Array]:
    """Amplitude spectrum of a course in time after ``butter_lowpass_filter``, from its mean (0 Hz) on.

    ``plot_stimulus_composition`` and the measures of MEIs leave the mean out and cut off without a filter.

    Args:
        temporal_kernel: ``[time]``.
        sampling_frequency: frames per second (Hz).
        lowpass_cutoff: cutoff of the filter (Hz).

    Returns:
        Frequencies (Hz) and ``|FFT|`` at each, ``[time // 2]``.

    Raises:
        ValueError: as ``butter_lowpass_filter``.
    """
    filtered = butter_lowpass_filter(temporal_kernel, lowpass_cutoff, sampling_frequency)
    half = len(filtered) // 2
    return np.fft.rfftfreq(len(filtered), 1 / sampling_frequency)[:half], np.abs(np.fft.rfft(filtered))[:half]


def weighted_main_frequency(fft_frequencies: Array, fft_weights: Array) -> float:
    """The mean of frequencies ``[n]`` with weights ``[n]``.

    Raises:
        ValueError: if there is not one weight for each frequency, or all weights are 0.
    """
    frequencies, weights = np.asarray(fft_frequencies), np.asarray(fft_weights)
    if frequencies.ndim != 1 or frequencies.shape != weights.shape or not weights.sum():
        raise InvalidValueError(
            f"Frequencies of shape {frequencies.shape} need as many weights, not all 0; these have shape "
            f"{weights.shape} and the sum {weights.sum():g}."
        )
    return float(np.average(frequencies, weights=weights))


def decompose_kernel(space_time_kernel: Array, scaling_factor: float = 1.0) -> tuple[Array, Array, float]:
    """``decompose`` with openretina's sign: the middle of the image is positive, not the largest pixel.

    Args:
        space_time_kernel: one channel of a stimulus, ``[time, height, width]``.
        scaling_factor: what the temporal part is multiplied by.

    Returns:
        The temporal part ``[time]``, the spatial part ``[height, width]`` of largest magnitude 1, and the second
        singular value, which is 0 for a stimulus that is their product.

    Raises:
        ValueError: if the stimulus does not have three dimensions, is empty or not finite.
    """
    temporal, spatial, _ = decompose(space_time_kernel)
    row, column = spatial.shape[0] // 2, spatial.shape[1] // 2
    middle = spatial[max(row - 3, 0) : row + 2, max(column - 3, 0) : column + 2]
    sign = -1.0 if middle.mean() < 0 else 1.0
    values = np.asarray(space_time_kernel, dtype=np.float64)
    singular_values = np.linalg.svd(values.reshape(len(values), -1), compute_uv=False)
    second = float(singular_values[1]) if len(singular_values) > 1 else 0.0
    return sign * scaling_factor * temporal, sign * spatial, second
