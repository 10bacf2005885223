"""What results are labelled with, and datasets on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mei_lightning.constraints import ChannelRanges
from mei_lightning.exceptions import InvalidValueError, NothingThereError
from mei_lightning.models.base import RetinaModel, sessions_of
from mei_lightning.neurons import Neuron, check_neuron_indices, group_label, group_of_label
from mei_lightning.objectives import MaxReducer, MeanReducer, NeuronObjective, Reducer, SliceMeanReducer
from mei_lightning.paths import local_path
from mei_lightning.results.configuration import as_data, ranges_from, ranges_in, read_configuration
from mei_lightning.results.disk_errors import free_place

_RANGES = "channel_ranges"
"""The attribute with the ranges of the channels."""


def describe_results(
    model: RetinaModel,
    groups: Sequence[Sequence[Neuron]],
    time_steps: int,
    restarts: int,
    objective: NeuronObjective,
    configuration: Mapping[str, Any],
    ranges: ChannelRanges | None = None,
) -> xr.Dataset:
    """Coordinates and attributes of the results of some neurons, before there are any.

    Args:
        model: the retina model.
        groups: the neurons of each stimulus.
        time_steps: frames of the stimulus.
        restarts: initial stimuli of each neuron.
        objective: how responses become scores.
        configuration: all settings of the run.
        ranges: that each channel of the stimuli is kept to.

    Returns:
        Coordinates: neuron labels with ``session`` and ``index`` (-1 for a group), channel names, time in s (frames
        for still images), y and x in um (pixels where the size is unknown), ``response_time``, each response frame
        at the time of its last stimulus frame, and the number of the restart. Attributes: the model's name and
        weights digest, the physical facts, and the ranges of the channels and the whole configuration as JSON.
    """
    facts, reducer = model.stimulus_format, objective.response_reducer
    frame = 1.0 if facts.frame_rate is None else 1.0 / facts.frame_rate
    pixel = 1.0 if facts.pixel_size is None else facts.pixel_size
    time_unit, space_unit = "frame" if facts.is_still else "s", "pixel" if facts.pixel_size is None else "um"
    response_frames = np.arange(facts.frames_lost, time_steps)
    description = xr.Dataset(
        coords={
            "neuron": np.array([group_label(group) for group in groups], dtype="U"),
            "session": ("neuron", np.array([(group[0].session or "") for group in groups], dtype="U")),
            "index": ("neuron", np.array([group[0].index if len(group) == 1 else -1 for group in groups])),
            "channel": np.array(facts.channel_names, dtype="U"),
            "time": ("time", np.arange(time_steps) * frame, {"units": time_unit}),
            "response_time": ("response_time", response_frames * frame, {"units": time_unit}),
            "y": ("y", np.arange(facts.height) * pixel, {"units": space_unit}),
            "x": ("x", np.arange(facts.width) * pixel, {"units": space_unit}),
            "restart": np.arange(restarts),
        },
        attrs={
            "model": model.name,
            "weights_digest": configuration["weights_digest"],
            "frames_lost": facts.frames_lost,
            "score": repr(reducer) if type(objective) is NeuronObjective else objective.describe(),
            "configuration": json.dumps(configuration),
        },
    )
    known = {"frame_rate": facts.frame_rate, "pixel_size": facts.pixel_size, "mean": facts.mean, "sd": facts.sd}
    for name, value in known.items():
        if value is not None:
            description.attrs[name] = list(value) if isinstance(value, tuple) else value
    if ranges is not None:
        # As JSON, because files in NetCDF have no lists of pairs.
        description.attrs[_RANGES] = json.dumps(as_data(list(ranges)))
    if isinstance(reducer, SliceMeanReducer):
        description.attrs["window_start"] = reducer.start
        description.attrs["window_stop"] = reducer.start + reducer.length
    return description


def reducer_of(meis: xr.Dataset) -> Reducer:
    """How the run that found some MEIs made scores of responses.

    Raises:
        ValueError: if that was a reducer of the user's own.
    """
    if "window_start" in meis.attrs:
        start, stop = meis.attrs["window_start"], meis.attrs["window_stop"]
        return SliceMeanReducer(axis=0, start=start, length=stop - start)
    for reducer in (MeanReducer(), MaxReducer()):
        if repr(reducer) == meis.attrs["score"]:
            return reducer
    raise InvalidValueError(f"The run's score is {meis.attrs['score']}, which is not known here: give the reducer.")


def ranges_of(meis: xr.Dataset) -> tuple[tuple[float | None, float | None] | None, ...] | None:
    """The ranges that a run kept each channel of its stimuli to, as ``find_meis`` takes them; None if it had none."""
    if _RANGES in meis.attrs:
        return ranges_from(json.loads(meis.attrs[_RANGES]))
    # An older store, or a constraint of the user's own that only has an argument of that name.
    return ranges_in(read_configuration(meis.attrs.get("configuration", "{}")).get("constraint"))


def groups_of(meis: xr.Dataset, model: RetinaModel) -> list[list[Neuron]]:
    """The neurons of each MEI, in a model that takes such stimuli.

    Raises:
        ValueError: if the model takes stimuli of another shape, or has no such session.
        IndexError: if a session has no neuron of that index.
    """
    shape = tuple(meis["stimulus"].sizes[name] for name in ("channel", "time", "y", "x"))
    wanted = model.stimulus_shape(meis.sizes["time"])[1:]
    if shape != wanted or meis.sizes["time"] <= model.stimulus_format.frames_lost:
        raise InvalidValueError(
            f"Model '{model.name}' takes stimuli of shape {wanted}, of more than {model.stimulus_format.frames_lost} "
            f"frames, but the MEIs have {shape}."
        )
    if (meis["session"] != "").any() != model.has_sessions:
        has = "has sessions" if model.has_sessions else "has no sessions"
        raise InvalidValueError(
            f"Model '{model.name}' {has}, but the MEIs are of neurons like '{meis['neuron'].values[0]}'."
        )
    groups = [list(group_of_label(label, sessions_of(model))) for label in meis["neuron"].values.tolist()]
    for neuron in {neuron for group in groups for neuron in group}:
        model.check_session(neuron.session)
        check_neuron_indices([neuron.index], model.neurons_per_session[neuron.session or ""], neuron.session)
    return groups


def open_meis(store: Path) -> xr.Dataset:
    """The MEIs of a store as functions return them: values are read as they are used, and no encodings of the store.

    So xarray's own functions save them in any format. In a file seeds are texts: NetCDF 3 has no numbers of 64 bits.
    """
    meis = xr.open_zarr(store, chunks=None).drop_encoding()
    if "seed" in meis:
        meis["seed"].encoding = {"dtype": f"U{len(str(np.iinfo(np.int64).max))}"}
    return meis


def check_store(path: str | Path) -> Path:
    """Where a store of MEIs is; what is none is refused.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if there is something else than a zarr store.
    """
    path = local_path("store", path)
    if not path.exists():
        raise NothingThereError(f"There is no store of MEIs at {path}.")
    if not (path / ".zgroup").is_file():
        inside = sorted(found.parent.name for found in path.glob("*.zarr/.zgroup")) if path.is_dir() else []
        hint = f" Do you mean {path / inside[0]}?" if inside else ""
        raise InvalidValueError(
            f"{path} is not a store of MEIs, such as meis.zarr in the directory of a run's results.{hint}"
        )
    return path


def save_dataset(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as a zarr store with one chunk for each neuron; read it with ``xarray.open_zarr(path)``.

    Args:
        dataset: MEIs as ``find_meis`` returns them, or what a method or an analysis returns.
        path: where to write, e.g. ``"meis.zarr"``; missing directories are made.

    Returns:
        ``path``.

    Raises:
        FileExistsError: if there is something at ``path`` already: results are never overwritten.
        PermissionError: if its directory cannot be written to.

    Example:
        >>> import xarray as xr
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> path = ml.save_dataset(meis, "meis.zarr")
        >>> xr.open_zarr(path, chunks=None).stimulus.shape
        (1, 2, 40, 18, 16)
    """
    path = free_place("path", path)
    one_neuron = {
        str(name): {"chunks": (1, *values.shape[1:])} for name, values in dataset.items() if "time" in values.dims
    }
    dataset.drop_encoding().to_zarr(path, mode="w-", zarr_format=2, encoding=one_neuron, consolidated=True)
    return path
