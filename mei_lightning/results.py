"""What results are labelled with, and datasets on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mei_lightning.models.base import RetinaModel
from mei_lightning.neurons import Neuron, group_label
from mei_lightning.objectives import NeuronObjective, SliceMeanReducer


def describe_results(
    model: RetinaModel,
    groups: Sequence[Sequence[Neuron]],
    time_steps: int,
    restarts: int,
    objective: NeuronObjective,
    configuration: Mapping[str, Any],
) -> xr.Dataset:
    """Coordinates and attributes of the results of some neurons, before there are any.

    Args:
        model: the retina model.
        groups: the neurons of each stimulus.
        time_steps: frames of the stimulus.
        restarts: initial stimuli of each neuron.
        objective: how responses become scores.
        configuration: all settings of the run.

    Returns:
        Coordinates: neuron labels with ``session`` and ``index`` (-1 for a group), channel names, time in s (frames
        for still images), y and x in um (pixels where the size is unknown), ``response_time``, each response frame
        at the time of its last stimulus frame, and the number of the restart. Attributes: the model's name and
        weights digest, the physical facts, and the whole configuration as JSON.
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
    if isinstance(reducer, SliceMeanReducer):
        description.attrs["window_start"] = reducer.start
        description.attrs["window_stop"] = reducer.start + reducer.length
    return description


def save_dataset(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as a zarr store with one chunk for each neuron; read it with ``xarray.open_zarr(path)``.

    Raises:
        FileExistsError: if there is something at ``path`` already: results are never overwritten.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; results are not overwritten. Give another place, or move it.")
    one_neuron = {
        str(name): {"chunks": (1, *values.shape[1:])} for name, values in dataset.items() if "time" in values.dims
    }
    dataset.drop_encoding().to_zarr(path, mode="w-", zarr_format=2, encoding=one_neuron, consolidated=True)
    return path
