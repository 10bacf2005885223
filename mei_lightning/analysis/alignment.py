"""How alike two stimuli are if one of them is moved in time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def possible_shifts(frames: int) -> NDArray[np.intp]:
    """By how many frames one stimulus of this length can be later than another, so that they overlap at all."""
    return np.arange(1 - frames, frames)


def similarity_by_shift(one: Array, other: Array) -> Array:
    """The cosine between two stimuli at each shift in time; what is moved beyond the stimulus counts as missing.

    Args:
        one: a stimulus ``[channels, time, height, width]``, in double precision.
        other: another one of the same shape.

    Returns:
        ``[shifts]``, for each of ``possible_shifts(time)`` by which the other one is taken to be later. NaN if one of
        them is zero or not finite.
    """
    shifts = possible_shifts(one.shape[1])
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    if not np.isfinite(norms) or norms == 0:
        return np.full(len(shifts), np.nan)
    # Every frame of one with every frame of the other; those of one shift lie on a diagonal.
    products = np.einsum("ctyx,csyx->ts", one, other, optimize=True)
    return np.array([np.trace(products, offset=shift) for shift in shifts]) / norms


def moved_earlier(stimulus: Array, frames: int) -> Array:
    """A stimulus ``[channels, time, height, width]`` so many frames earlier, or later; what is missing is zero."""
    moved = np.zeros_like(stimulus)
    length = stimulus.shape[1]
    if frames >= 0:
        moved[:, : length - frames] = stimulus[:, frames:]
    else:
        moved[:, -frames:] = stimulus[:, :frames]
    return moved
