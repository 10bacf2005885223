"""Ranges of channels, and the shape that stimuli have."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from mei_lightning.arguments import plain, several
from mei_lightning.exceptions import InvalidValueError

ChannelRanges = Sequence[tuple[float | None, float | None] | None]
"""One ``(low, high)`` for each channel; None in place of a number, or of a pair, means unbounded."""


def range_bounds(ranges: ChannelRanges) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, each ``[channels]``, of one ``(low, high)`` for each channel; None becomes infinite.

    Raises:
        ValueError: if a range is not a pair of numbers, holds NaN, or its low exceeds its high.
    """
    bounds = []
    for channel, pair in enumerate(several(ranges)):
        limits = (None, None) if pair is None else several(pair)
        if len(limits) != 2 or not all(one is None or isinstance(plain(one), Real) for one in limits):
            raise InvalidValueError(f"The range of channel {channel} must be (low, high) or None, not {pair!r}.")
        low, high = limits
        bound = (-math.inf if low is None else float(low), math.inf if high is None else float(high))  # type: ignore[arg-type]
        if not bound[0] <= bound[1]:
            raise InvalidValueError(f"The range {pair!r} of channel {channel} is empty: low must not exceed high.")
        bounds.append(bound)
    if not bounds:
        raise InvalidValueError("ranges is empty: give one (low, high) for each channel, or None for no ranges.")
    low_bounds, high_bounds = zip(*bounds, strict=True)
    return torch.tensor(low_bounds, device="cpu"), torch.tensor(high_bounds, device="cpu")


def check_channel_count(ranges: ChannelRanges, stimulus_shape: Sequence[int]) -> None:
    """Raise a ValueError unless a stimulus is 5-dimensional with as many channels as there are ranges."""
    check_dimensions(stimulus_shape)
    if len(ranges) != stimulus_shape[1]:
        raise InvalidValueError(
            f"{len(ranges)} channel range(s) for a stimulus of {stimulus_shape[1]} channel(s): {tuple(ranges)}. "
            "Give one (low, high), or None, for each channel."
        )


def check_dimensions(stimulus_shape: Sequence[int]) -> None:
    """Raise a ValueError unless a shape is ``[rows, channels, time, height, width]``."""
    if len(stimulus_shape) != 5:
        raise InvalidValueError(f"A stimulus is [rows, channels, time, height, width], not {tuple(stimulus_shape)}.")
