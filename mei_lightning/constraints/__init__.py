"""Where a stimulus may live: norm, range of each channel, frozen pixels, and Gaussian low-pass filters.

A constraint maps stimuli ``[rows, channels, time, height, width]`` to stimuli of the same shape, each row on its own.
"""

from mei_lightning.constraints.base import Constraint, last_channel_ranges
from mei_lightning.constraints.compose import Compose
from mei_lightning.constraints.filters import SpatialLowPass, TemporalLowPass, gaussian_filter
from mei_lightning.constraints.masks import Mask, free_entries, read_mask
from mei_lightning.constraints.norm_and_range import (
    ChannelRange,
    FixedNorm,
    MaximalNorm,
    NormAndRange,
    RescaleThenClip,
)
from mei_lightning.constraints.postprocessors import as_constraint, processed, what_it_holds
from mei_lightning.constraints.ranges import ChannelRanges, check_channel_count, check_dimensions, range_bounds

__all__ = [
    "ChannelRange",
    "ChannelRanges",
    "Compose",
    "Constraint",
    "FixedNorm",
    "Mask",
    "MaximalNorm",
    "NormAndRange",
    "RescaleThenClip",
    "SpatialLowPass",
    "TemporalLowPass",
    "as_constraint",
    "check_channel_count",
    "check_dimensions",
    "free_entries",
    "gaussian_filter",
    "last_channel_ranges",
    "processed",
    "range_bounds",
    "read_mask",
    "what_it_holds",
]
