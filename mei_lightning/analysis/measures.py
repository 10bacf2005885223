"""What each MEI tells by itself, in one dataset and one table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from tqdm.auto import tqdm

from mei_lightning.analysis.decomposition import Array, decompose_channels, temporal_frequency, unclipped_shape
from mei_lightning.analysis.held_out import HELD_OUT_SCORE
from mei_lightning.analysis.motion import motion
from mei_lightning.analysis.polarity import (
    polarity_of_course,
    polarity_of_responses,
    responses_to_steps,
    step_of_light,
    step_onset,
)
from mei_lightning.analysis.populations import types_of
from mei_lightning.analysis.spatial import DifferenceOfGaussians, fit_difference_of_gaussians
from mei_lightning.analysis.temporal import OPPONENCY_BOUNDARY, opponency_angle, temporal_contrast
from mei_lightning.constraints import range_bounds
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.loading import load_model
from mei_lightning.results.dataset import groups_of, ranges_of

SMALLEST_INDEX = 0.2
"""Orientation and direction are told from this orientation index and direction index on."""

CENTRE_SDS = 3.0
"""The receptive field is within so many standard deviations of the centre."""

_DIMENSIONS = ("neuron", "channel", "time", "y", "x")
_COORDINATES = (*_DIMENSIONS, "session", "index")
_TEXTS = ("dominant_channel", "polarity", "status")
_BYTES_AT_A_TIME = 2**25

# Dimensions, units and a name of each measure; SPACE stands for the unit of the dataset's y and x.
_SPACE = "SPACE"
_FACTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "temporal_kernel": (("channel", "time"), "model units", "course in time of the first component of a channel"),
    "spatial_kernel": (("channel", "y", "x"), "1", "shape in space of the first component of a channel, centre at 1"),
    "explained_share": (("channel",), "1", "share of a channel's squared norm in its first component"),
    "temporal_frequency": (("channel",), "Hz", "temporal frequency, weighted by amplitude, up to 10 Hz"),
    "temporal_contrast": (("channel",), "model units", "change between the last two opposite peaks of the course"),
    "opponency_angle": ((), "radians", "opponency angle of the two channels, opponent beyond pi/4"),
    "opponent": ((), "", "whether the two channels change in opposite directions"),
    "dominant_channel": ((), "", "channel of the largest norm"),
    "centre_y": ((), _SPACE, "y of the centre"),
    "centre_x": ((), _SPACE, "x of the centre"),
    "centre_size": ((), _SPACE, "standard deviation of the centre"),
    "surround_size": ((), _SPACE, "standard deviation of the surround"),
    "surround_strength": ((), "1", "volume of the surround as a share of the centre's"),
    "fit_r2": ((), "1", "R2 of the difference of Gaussians fitted to the dominant channel's shape"),
    "orientation": ((), "degrees", "orientation of the bars or the long axis, 0 along x, 90 along y"),
    "orientation_index": ((), "1", "orientation index, 0 round, 1 a grating"),
    "direction": ((), "degrees", "direction of motion, 0 towards growing x, 90 towards growing y"),
    "direction_index": ((), "1", "direction index, 0 flicker on the spot, 1 drift"),
    "polarity": ((), "", "polarity: ON, OFF or ON-OFF"),
    "clipped_share": ((), "1", "share of values at a limit of their range"),
    "norm_outside_receptive_field": ((), "1", f"share of the squared norm beyond {CENTRE_SDS:g} sd of the centre"),
    "seed_stability": (
        (),
        "1",
        "mean cosine with the best of the MEIs of other starts optimised to the end",
    ),
    "held_out_score": ((), "response", "score on models that had no part in finding the MEI"),
    "score": ((), "response", "score"),
    "status": ((), "", "how the optimisation ended"),
}


@made_on_cpu
def measure_meis(
    meis: xr.Dataset,
    model: nn.Module | str | None = None,
    *,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Measure each MEI: its course in time, colour, place, size, orientation, motion, polarity, and how sure it is.

    Neurons are read and measured a few at a time, so that memory does not grow with the stimuli. A neuron without a
    finite stimulus and score, because it is pending or has failed, has NaN (or "", or False) everywhere; a
    measure that does not apply, such as the temporal frequency of a still image, has NaN for all.

    - ``temporal_kernel``, ``spatial_kernel``, ``explained_share``: each channel split by ``decompose``, with signs
      so that the spatial parts are positive where the dominant channel's centre is.
    - ``temporal_frequency``: see the function of that name.
    - ``temporal_contrast``, ``opponency_angle``, ``opponent``: after Höfling et al. 2024 (eLife 86860), with the peaks
      of the channel named UV, or of the dominant one if there is none. The angle needs two channels.
    - ``dominant_channel``: that of the largest norm. Place, size and polarity are measured in it.
    - ``centre_y``, ``centre_x``, ``centre_size``, ``surround_size``, ``surround_strength``, ``fit_r2``: see
      ``DifferenceOfGaussians``. In um, or in pixels if their size is not known, as the dataset's ``y`` and ``x``.
      Fitted to the shape that the stimulus has without the limits of its range, see ``unclipped_shape``.
    - ``orientation``, ``direction`` and their indices: see ``motion``; NaN where the index is below 0.2.
    - ``polarity``: with a model by the responses to a step of light and one of dark, see ``step_of_light`` and
      ``polarity_of_responses``; "" if neither raises the response. Without, by the end of the course in time, see
      ``polarity_of_course``, which does not tell ON-OFF.
    - ``clipped_share``: of values at a limit of the run's ranges; NaN if it had none.
    - ``norm_outside_receptive_field``: the share of the squared norm farther than 3 standard deviations of the fitted
      centre from its place.
    - ``seed_stability``: the dataset's ``restart_similarity``; NaN if no two starts can be compared.
    - ``held_out_score``, ``score`` and ``status``: the dataset's own.

    Args:
        meis: as from ``find_meis``, or ``xarray.open_zarr("meis.zarr", chunks=None)``.
        model: as for ``MEIModule``: the model that found the MEIs, or another of the same neurons. It gives the
            polarity and, if it knows them, the neurons' types.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The measures along ``neuron``, with ``units`` and ``long_name`` as attributes, the coordinates ``session``,
        ``index`` and, where the model knows it, ``type`` (of a group it is ""); the attributes of ``meis``.

    Raises:
        ValueError: if ``meis`` is not a dataset of MEIs, or the model has no such sessions or another stimulus.
        IndexError: if the model has no such neurons.
    """
    _check_dataset(meis)
    retina = None if model is None else load_model(model, allow_unpickling=allow_unpickling)
    groups = [] if retina is None else groups_of(meis, retina)
    run = _Run.of(meis)
    values = _empty(meis)
    finite = np.isfinite(meis["score"].values)
    for name in ("seed_stability", HELD_OUT_SCORE, "score", "status"):
        source = meis.get({"seed_stability": "restart_similarity"}.get(name, name))
        if source is not None:
            values[name] = source.values
    for number, stimulus in _read(meis["stimulus"], finite, progress_bar):
        if np.isfinite(stimulus).all():
            for name, value in _measure(stimulus, run).items():
                values[name][number] = value
        else:
            finite[number] = False
    if retina is not None and finite.any():
        numbers = np.flatnonzero(finite)
        steps = np.stack([_step(values, number, run) for number in numbers.tolist()])
        on, off = responses_to_steps(
            retina,
            [groups[number] for number in numbers],
            steps,
            step_onset(retina.stimulus_format, meis.sizes["time"]),
            meis.sizes["time"],
            accelerator=accelerator,
            progress_bar=progress_bar,
        )
        values["polarity"][numbers] = [polarity_of_responses(*pair) for pair in zip(on, off, strict=True)]
    return _labelled(values, meis, retina)


def measures_table(measures: xr.Dataset) -> pd.DataFrame:
    """The measures as a table with a row for each neuron.

    Args:
        measures: as from ``measure_meis``; further variables along ``neuron`` become columns as well.

    Returns:
        Indexed by ``neuron``, with the columns ``session``, ``index``, ``type`` if known, and a column for each measure
        that is one value, e.g. ``centre_size``, or one value for each channel, e.g. ``temporal_frequency_green``.
        Kernels are left out. Its ``attrs["units"]`` has the unit of each column.
    """
    columns = {name: measures[name] for name in ("session", "index", "type") if name in measures.coords}
    for name, variable in measures.data_vars.items():
        if variable.dims == ("neuron",):
            columns[str(name)] = variable
        elif variable.dims == ("neuron", "channel"):
            columns.update(
                {f"{name}_{channel}": variable.sel(channel=channel) for channel in variable["channel"].values}
            )
    table = pd.DataFrame({name: column.values for name, column in columns.items()}, index=measures["neuron"].values)
    table.attrs["units"] = {name: column.attrs.get("units", "") for name, column in columns.items()}
    return table.rename_axis("neuron")


@dataclass(frozen=True)
class _Run:
    """What is known of the stimuli of a run; ``ranges`` are ``[channel, 2]``, infinite where there is none."""

    channels: Sequence[str]
    frame_rate: float | None
    pixel_size: float
    y: float
    x: float
    ranges: np.ndarray | None

    @classmethod
    def of(cls, meis: xr.Dataset) -> "_Run":
        ranges = ranges_of(meis)
        return cls(
            channels=meis["channel"].values.tolist(),
            frame_rate=meis.attrs.get("frame_rate"),
            pixel_size=meis.attrs.get("pixel_size", 1.0),
            y=float(meis["y"][0]),
            x=float(meis["x"][0]),
            ranges=None if ranges is None else torch.stack(range_bounds(ranges), dim=1).numpy(),
        )


def _check_dataset(meis: xr.Dataset) -> None:
    missing = [name for name in ("stimulus", "score", "status") if name not in meis]
    missing += [name for name in _COORDINATES if name not in meis.coords]
    if missing:
        raise InvalidValueError(f"This is not a dataset of MEIs, as from find_meis: it has no {', '.join(missing)}.")


def _empty(meis: xr.Dataset) -> dict[str, np.ndarray]:
    empty = {}
    for name, (dimensions, _, _) in _FACTS.items():
        shape = [meis.sizes[dimension] for dimension in ("neuron", *dimensions)]
        if name in _TEXTS:
            empty[name] = np.full(shape, "", dtype=object)
        elif name == "opponent":
            empty[name] = np.zeros(shape, dtype=bool)
        else:
            empty[name] = np.full(shape, np.nan, dtype=np.float32 if name.endswith("kernel") else np.float64)
    return empty


def _read(stimuli: xr.DataArray, chosen: np.ndarray, progress_bar: bool) -> Iterator[tuple[int, np.ndarray]]:
    """The stimuli of chosen neurons, a few read at a time, with their numbers."""
    numbers = np.flatnonzero(chosen)
    stimuli = stimuli.transpose(*_DIMENSIONS)
    at_a_time = max(1, _BYTES_AT_A_TIME // max(1, stimuli[:1].nbytes))
    with tqdm(total=len(numbers), desc="Measures", unit="neuron", disable=not progress_bar) as bar:
        for start in range(0, len(numbers), at_a_time):
            block = numbers[start : start + at_a_time]
            for number, stimulus in zip(block.tolist(), stimuli.isel(neuron=block).values, strict=True):
                yield number, stimulus
                bar.update()


def _measure(stimulus: np.ndarray, run: _Run) -> dict[str, Any]:
    """The measures of one stimulus ``[channel, time, y, x]`` by itself."""
    energy = np.square(stimulus, dtype=np.float64).sum(axis=1)
    dominant = int(energy.sum(axis=(1, 2)).argmax())
    temporal, spatial, explained = decompose_channels(stimulus, dominant)
    changes = np.abs(temporal).max(axis=1) > 0
    uv = run.channels.index("UV") if "UV" in run.channels else dominant
    contrast = temporal_contrast(temporal, uv if changes[uv] else dominant)
    angle = opponency_angle(contrast) if len(contrast) == 2 else np.nan
    clipped = _clipped(stimulus, run.ranges)
    fit = fit_difference_of_gaussians(unclipped_shape(stimulus[dominant], clipped[dominant]))
    moves = motion(stimulus)
    return {
        "temporal_kernel": temporal,
        "spatial_kernel": spatial,
        "explained_share": explained,
        "temporal_frequency": [
            np.nan if run.frame_rate is None else temporal_frequency(course, run.frame_rate) for course in temporal
        ],
        "temporal_contrast": contrast,
        "opponency_angle": angle,
        "opponent": angle > OPPONENCY_BOUNDARY,
        "dominant_channel": run.channels[dominant] if changes.any() else "",
        "centre_y": run.y + fit.y * run.pixel_size,
        "centre_x": run.x + fit.x * run.pixel_size,
        "centre_size": fit.centre_sd * run.pixel_size,
        "surround_size": fit.surround_sd * run.pixel_size,
        "surround_strength": fit.surround_strength,
        "fit_r2": fit.r2,
        "orientation": moves.orientation if moves.orientation_index >= SMALLEST_INDEX else np.nan,
        "orientation_index": moves.orientation_index,
        "direction": moves.direction if moves.direction_index >= SMALLEST_INDEX else np.nan,
        "direction_index": moves.direction_index,
        "polarity": polarity_of_course(temporal[dominant]),
        "clipped_share": np.nan if run.ranges is None else clipped.mean(),
        "norm_outside_receptive_field": _share_outside(energy.sum(axis=0), fit),
    }


def _share_outside(energy: Array, fit: DifferenceOfGaussians) -> float:
    """Share of the energy ``[height, width]`` that is beyond the receptive field."""
    if np.isnan(fit.centre_sd):
        return float("nan")
    height, width = energy.shape
    distance = np.hypot(np.arange(height)[:, None] - fit.y, np.arange(width) - fit.x)
    return float(energy[distance > CENTRE_SDS * fit.centre_sd].sum() / energy.sum())


def _clipped(stimulus: np.ndarray, ranges: np.ndarray | None) -> np.ndarray:
    """Which values of a stimulus are at a limit."""
    if ranges is None:
        return np.zeros(stimulus.shape, dtype=bool)
    low, high = ranges.astype(np.float32).T[:, :, None, None, None]
    # A stimulus in double precision may be at a limit that is rounded to single precision, or at the limit itself.
    single = stimulus.astype(np.float32)
    return (single <= low) | (single >= high)


def _step(values: dict[str, np.ndarray], number: int, run: _Run) -> Array:
    temporal, spatial = values["temporal_kernel"][number], values["spatial_kernel"][number]
    channel = values["dominant_channel"][number]
    return step_of_light(temporal, spatial, run.channels.index(channel) if channel else 0, run.ranges)


def _labelled(values: dict[str, np.ndarray], meis: xr.Dataset, retina: RetinaModel | None) -> xr.Dataset:
    space = meis["y"].attrs.get("units", "pixel")
    variables = {}
    for name, (dimensions, units, long_name) in _FACTS.items():
        array = values[name].astype(str) if values[name].dtype == object else values[name]
        facts = {"units": space if units == _SPACE else units, "long_name": long_name}
        variables[name] = (("neuron", *dimensions), array, facts)
    labels = {name: meis[name] for name in _COORDINATES}
    measures = xr.Dataset(variables, labels, meis.attrs)
    types = None if retina is None else types_of(meis, retina)
    return measures if types is None else measures.assign_coords(type=("neuron", types))
