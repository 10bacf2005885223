"""One MEI, and what several of its measures are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from mei_lightning.analysis.decomposition import Array, decompose_channels, unclipped_shape
from mei_lightning.analysis.motion import Motion, motion
from mei_lightning.analysis.spatial import DifferenceOfGaussians, fit_difference_of_gaussians
from mei_lightning.analysis.temporal import opponency_angle, temporal_contrast
from mei_lightning.constraints import range_bounds
from mei_lightning.models.base import RetinaModel
from mei_lightning.neurons import Neuron
from mei_lightning.results.dataset import ranges_of


@dataclass(frozen=True)
class RunFacts:
    """What is known of the stimuli of a run.

    Args:
        channels: their names.
        frame_rate: in Hz; None for still images.
        pixel_size: distance of two pixels, in the unit of the dataset's ``y`` and ``x``.
        y: of the first row of pixels, in that unit.
        x: of the first column.
        ranges: lowest and highest value of each channel ``[channel, 2]``, infinite where there is none; None if no
            channel has a range.
    """

    channels: Sequence[str]
    frame_rate: float | None
    pixel_size: float
    y: float
    x: float
    ranges: np.ndarray | None

    @classmethod
    def of(cls, meis: xr.Dataset) -> "RunFacts":
        """Those of the run that has found a dataset of MEIs."""
        ranges = ranges_of(meis)
        return cls(
            channels=meis["channel"].values.tolist(),
            frame_rate=meis.attrs.get("frame_rate"),
            pixel_size=meis.attrs.get("pixel_size", 1.0),
            y=float(meis["y"][0]),
            x=float(meis["x"][0]),
            ranges=None if ranges is None else torch.stack(range_bounds(ranges), dim=1).numpy(),
        )


class Parts(NamedTuple):
    """The first component of each channel, see ``decompose_channels``.

    Args:
        temporal: courses in time ``[channel, time]``, in the model's units.
        spatial: shapes in space ``[channel, y, x]``, with a largest magnitude of 1.
        explained_share: share of each channel's squared norm ``[channel]``.
    """

    temporal: Array
    spatial: Array
    explained_share: Array


class OneMEI:
    """One MEI, and what several of its measures are made from, each computed when it is first asked for.

    Args:
        stimulus: ``[channel, time, y, x]`` in the model's units, finite.
        run: that has found it.
    """

    def __init__(self, stimulus: np.ndarray, run: RunFacts) -> None:
        self.stimulus = stimulus
        self.run = run

    @cached_property
    def energy(self) -> Array:
        """The sum of squares over time, ``[channel, y, x]``."""
        return np.square(self.stimulus, dtype=np.float64).sum(axis=1)

    @cached_property
    def dominant(self) -> int:
        """Number of the channel of the largest norm."""
        return int(self.energy.sum(axis=(1, 2)).argmax())

    @cached_property
    def parts(self) -> Parts:
        """Courses in time and shapes in space, with signs that make the dominant channel's centre positive."""
        return Parts(*decompose_channels(self.stimulus, self.dominant))

    @cached_property
    def is_used(self) -> np.ndarray:
        """Which channels ``[channel]`` differ from the background anywhere."""
        return np.abs(self.parts.temporal).max(axis=1) > 0

    @cached_property
    def contrast(self) -> Array:
        """The temporal contrast of each channel ``[channel]``, with the peaks of UV, or else of the dominant one."""
        uv = self.run.channels.index("UV") if "UV" in self.run.channels else self.dominant
        return temporal_contrast(self.parts.temporal, uv if self.is_used[uv] else self.dominant)

    @cached_property
    def opponency_angle(self) -> float:
        """In radians; NaN if there are not two channels."""
        return opponency_angle(self.contrast) if len(self.contrast) == 2 else np.nan

    @cached_property
    def is_clipped(self) -> np.ndarray:
        """Which values ``[channel, time, y, x]`` are at a limit of the run's ranges."""
        if self.run.ranges is None:
            return np.zeros(self.stimulus.shape, dtype=bool)
        low, high = self.run.ranges.astype(np.float32).T[:, :, None, None, None]
        # A stimulus in double precision may be at a limit that is rounded to single precision, or at the limit itself.
        single = self.stimulus.astype(np.float32)
        return (single <= low) | (single >= high)

    @cached_property
    def fit(self) -> DifferenceOfGaussians:
        """Centre and surround of the dominant channel, in pixels, as they would be without clipping."""
        shape = unclipped_shape(self.stimulus[self.dominant], self.is_clipped[self.dominant])
        return fit_difference_of_gaussians(shape)

    @cached_property
    def motion(self) -> Motion:
        """Orientation and direction, with their indices."""
        return motion(self.stimulus)


@dataclass(frozen=True)
class ModelProbe:
    """A model to show stimuli to, for what an MEI does not tell by itself.

    Args:
        model: that the neurons are in.
        neurons: those of each MEI, of all that can be measured.
        measured: what the MEIs tell by themselves, by the name of the measure, ``[neuron, ...]`` in the same order.
        run: that has found the MEIs.
        time_steps: frames of the MEIs.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.
    """

    model: RetinaModel
    neurons: Sequence[Sequence[Neuron]]
    measured: Mapping[str, np.ndarray]
    run: RunFacts
    time_steps: int
    accelerator: str
    progress_bar: bool
