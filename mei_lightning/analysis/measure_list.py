"""The list of measures: what each is, and how it is made from an MEI.

A further one is an entry in ``MEASURES``. The dataset, the table, the figures and the report have it by that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, DTypeLike

from mei_lightning.analysis.decomposition import temporal_frequency
from mei_lightning.analysis.held_out import HELD_OUT_SCORE
from mei_lightning.analysis.one_mei import ModelProbe, OneMEI
from mei_lightning.analysis.polarity import (
    polarity_of_course,
    polarity_of_responses,
    responses_to_steps,
    step_of_light,
    step_onset,
)
from mei_lightning.analysis.temporal import OPPONENCY_BOUNDARY
from mei_lightning.results.schema import table_variables

SMALLEST_INDEX = 0.2
"""Orientation and direction are told from this orientation index and direction index on."""

CENTRE_SDS = 3.0
"""The receptive field is within so many standard deviations of the centre."""

SPACE = "the unit of y and x"
"""Stands for the unit of a dataset's ``y`` and ``x``: um, or pixel if the size of pixels is not known."""


@dataclass(frozen=True)
class Copied:
    """Stands for the values of a variable of the dataset of MEIs, of all neurons, measured or not."""

    variable: str


@dataclass(frozen=True)
class Measure:
    """A measure with a value, or values, for each MEI.

    Args:
        name: of the measure.
        units: of its values: "1" for a share or an index, "" for words or yes and no, ``SPACE`` for lengths in space.
        long_name: what it is.
        compute: makes it from an MEI that is finite; or says which variable of the dataset it is.
        dimensions: of the values of one MEI.
        pending: its value where there is no finite MEI.
        dtype: of its values; by default that of ``pending``.
        with_model: where a model is given, makes it for all finite MEIs ``[neuron, ...]`` at once, in place of
            ``compute``, once all measures have been computed without a model.
    """

    name: str
    units: str
    long_name: str
    compute: Callable[[OneMEI], Any] | Copied
    dimensions: tuple[str, ...] = field(default=(), kw_only=True)
    pending: Any = field(default=np.nan, kw_only=True)
    dtype: DTypeLike | None = field(default=None, kw_only=True)
    with_model: Callable[[ModelProbe], ArrayLike] | None = field(default=None, kw_only=True)

    def empty(self, sizes: Mapping[Any, int]) -> np.ndarray:
        """Its values, ``[neuron, ...]``, before anything is measured; words as objects, of any length."""
        shape = [sizes[dimension] for dimension in ("neuron", *self.dimensions)]
        dtype = np.dtype(np.asarray(self.pending).dtype if self.dtype is None else self.dtype)
        return np.full(shape, self.pending, object if dtype.kind == "U" else dtype)


def _temporal_frequencies(mei: OneMEI) -> list[float]:
    rate = mei.run.frame_rate
    return [np.nan if rate is None else temporal_frequency(course, rate) for course in mei.parts.temporal]


def _share_outside(mei: OneMEI) -> float:
    """Share of the squared norm that is beyond the receptive field."""
    if np.isnan(mei.fit.centre_sd):
        return float("nan")
    energy = mei.energy.sum(axis=0)
    height, width = energy.shape
    distance = np.hypot(np.arange(height)[:, None] - mei.fit.y, np.arange(width) - mei.fit.x)
    return float(energy[distance > CENTRE_SDS * mei.fit.centre_sd].sum() / energy.sum())


def _polarities_by_steps(probe: ModelProbe) -> list[str]:
    """From the responses to a step of light, and one of dark, in the shape of each MEI."""
    channels = probe.run.channels
    names = ("temporal_kernel", "spatial_kernel", "dominant_channel")
    steps = [
        step_of_light(temporal, spatial, channels.index(channel) if channel else 0, probe.run.ranges)
        for temporal, spatial, channel in zip(*(probe.measured[name] for name in names), strict=True)
    ]
    on, off = responses_to_steps(
        probe.model,
        probe.neurons,
        np.stack(steps),
        step_onset(probe.model.stimulus_format, probe.time_steps),
        probe.time_steps,
        accelerator=probe.accelerator,
        progress_bar=probe.progress_bar,
    )
    return [polarity_of_responses(*pair) for pair in zip(on, off, strict=True)]


MEASURES = (
    Measure(
        "temporal_kernel",
        "model units",
        "course in time of the first component of a channel",
        lambda mei: mei.parts.temporal,
        dimensions=("channel", "time"),
        dtype=np.float32,
    ),
    Measure(
        "spatial_kernel",
        "1",
        "shape in space of the first component of a channel, centre at 1",
        lambda mei: mei.parts.spatial,
        dimensions=("channel", "y", "x"),
        dtype=np.float32,
    ),
    Measure(
        "explained_share",
        "1",
        "share of a channel's squared norm in its first component",
        lambda mei: mei.parts.explained_share,
        dimensions=("channel",),
    ),
    Measure(
        "temporal_frequency",
        "Hz",
        "temporal frequency, weighted by amplitude, up to 10 Hz",
        _temporal_frequencies,
        dimensions=("channel",),
    ),
    Measure(
        "temporal_contrast",
        "model units",
        "change between the last two opposite peaks of the course",
        lambda mei: mei.contrast,
        dimensions=("channel",),
    ),
    Measure(
        "opponency_angle",
        "radians",
        "opponency angle of the two channels, opponent beyond pi/4",
        lambda mei: mei.opponency_angle,
    ),
    Measure(
        "opponent",
        "",
        "whether the two channels change in opposite directions",
        lambda mei: mei.opponency_angle > OPPONENCY_BOUNDARY,
        pending=False,
    ),
    Measure(
        "dominant_channel",
        "",
        "channel of the largest norm",
        lambda mei: mei.run.channels[mei.dominant] if mei.is_used.any() else "",
        pending="",
    ),
    Measure("centre_y", SPACE, "y of the centre", lambda mei: mei.run.y + mei.fit.y * mei.run.pixel_size),
    Measure("centre_x", SPACE, "x of the centre", lambda mei: mei.run.x + mei.fit.x * mei.run.pixel_size),
    Measure(
        "centre_size", SPACE, "standard deviation of the centre", lambda mei: mei.fit.centre_sd * mei.run.pixel_size
    ),
    Measure(
        "surround_size",
        SPACE,
        "standard deviation of the surround",
        lambda mei: mei.fit.surround_sd * mei.run.pixel_size,
    ),
    Measure(
        "surround_strength",
        "1",
        "volume of the surround as a share of the centre's",
        lambda mei: mei.fit.surround_strength,
    ),
    Measure(
        "fit_r2",
        "1",
        "R2 of the difference of Gaussians fitted to the dominant channel's shape",
        lambda mei: mei.fit.r2,
    ),
    Measure(
        "orientation",
        "degrees",
        "orientation of the bars or the long axis, 0 along x, 90 along y",
        lambda mei: mei.motion.orientation if mei.motion.orientation_index >= SMALLEST_INDEX else np.nan,
    ),
    Measure(
        "orientation_index",
        "1",
        "orientation index, 0 round, 1 a grating",
        lambda mei: mei.motion.orientation_index,
    ),
    Measure(
        "direction",
        "degrees",
        "direction of motion, 0 towards growing x, 90 towards growing y",
        lambda mei: mei.motion.direction if mei.motion.direction_index >= SMALLEST_INDEX else np.nan,
    ),
    Measure(
        "direction_index",
        "1",
        "direction index, 0 flicker on the spot, 1 drift",
        lambda mei: mei.motion.direction_index,
    ),
    Measure(
        "polarity",
        "",
        "polarity: ON, OFF or ON-OFF",
        lambda mei: polarity_of_course(mei.parts.temporal[mei.dominant]),
        pending="",
        with_model=_polarities_by_steps,
    ),
    Measure(
        "clipped_share",
        "1",
        "share of values at a limit of their range",
        lambda mei: np.nan if mei.run.ranges is None else mei.is_clipped.mean(),
    ),
    Measure(
        "norm_outside_receptive_field",
        "1",
        f"share of the squared norm beyond {CENTRE_SDS:g} sd of the centre",
        _share_outside,
    ),
    Measure(
        "seed_stability",
        "1",
        "mean cosine with the best of the stimuli of other starts, at the end or when they met a better one",
        Copied("restart_similarity"),
    ),
    Measure(HELD_OUT_SCORE, "response", "score on models that had no part in finding the MEI", Copied(HELD_OUT_SCORE)),
    Measure("score", "response", "score", Copied("score")),
    Measure("status", "", "how the optimisation ended", Copied("status"), pending=""),
)
"""In the order of the table's columns."""


def measures_of(meis: xr.Dataset) -> list[Measure]:
    """Those of the list, then what else the store of the MEIs has for the table, see ``Variable.in_table``."""
    described = {it.name for it in MEASURES}
    further = [it for it in table_variables() if it.name in meis and it.name not in described]
    return [
        *MEASURES,
        *(
            Measure(
                it.name, it.units or "", it.long_name, Copied(it.name), dimensions=it.dimensions, pending=it.pending
            )
            for it in further
        ),
    ]
