"""MEIs as a labelled dataset, in memory and on disk."""

import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from mei_lightning.mei_module import MEIModule
from mei_lightning.module import Status
from mei_lightning.objectives import NeuronObjective, SliceMeanReducer


def to_dataset(module: MEIModule) -> xr.Dataset:
    """The best stimulus of each neuron with all that is known of it.

    Args:
        module: an ``MEIModule`` after its fit.

    Returns:
        Dimensions ``neuron, channel, time, y, x, response_time``. Variables: ``stimulus`` (in the model's units),
        ``score``, ``response`` (the trace to the stimulus), ``status``, ``steps``, ``restart`` and ``seed`` (of the
        best restart). Coordinates: neuron labels with ``session`` and ``index`` (-1 for a group), channel names,
        time in s (frames for still images), y and x in um (pixels where the size is unknown), and ``response_time``,
        each response frame at the time of its last stimulus frame. Attributes: the model's name and weights digest,
        the physical facts, and the whole configuration as JSON.
    """
    rows = module.best_rows()
    stimulus = module.best_stimulus[rows]
    objective = module.objective
    assert isinstance(objective, NeuronObjective)
    with torch.no_grad():
        response = objective.for_rows(rows.tolist()).to(stimulus.device).traces(stimulus)

    facts = module.retina.stimulus_format
    frame = 1.0 if facts.frame_rate is None else 1.0 / facts.frame_rate
    pixel = 1.0 if facts.pixel_size is None else facts.pixel_size
    time_unit, space_unit = "frame" if facts.is_still else "s", "pixel" if facts.pixel_size is None else "um"
    frames, height, width = stimulus.shape[2:]
    first_response = frames - response.shape[1]
    singles = [group[0] if len(group) == 1 else None for group in module.groups]
    dataset = xr.Dataset(
        {
            "stimulus": (("neuron", "channel", "time", "y", "x"), stimulus.cpu().numpy(), {"units": "model units"}),
            "score": ("neuron", module.best_score[rows].cpu().numpy(), {"long_name": repr(module.reducer)}),
            "response": (("neuron", "response_time"), response.cpu().numpy()),
            "status": ("neuron", np.array([Status(code).label for code in module.status[rows].tolist()], dtype="U")),
            "steps": ("neuron", module.steps[rows].cpu().numpy()),
            "restart": ("neuron", (rows % module.restarts).cpu().numpy()),
            "seed": ("neuron", np.array([module.seeds[row] for row in rows.tolist()], dtype=np.int64)),
        },
        coords={
            "neuron": np.array(module.labels, dtype="U"),
            "session": ("neuron", np.array([(group[0].session or "") for group in module.groups], dtype="U")),
            "index": ("neuron", np.array([-1 if single is None else single.index for single in singles])),
            "channel": np.array(facts.channel_names, dtype="U"),
            "time": ("time", np.arange(frames) * frame, {"units": time_unit}),
            "response_time": (
                "response_time",
                (first_response + np.arange(response.shape[1])) * frame,
                {"units": time_unit},
            ),
            "y": ("y", np.arange(height) * pixel, {"units": space_unit}),
            "x": ("x", np.arange(width) * pixel, {"units": space_unit}),
        },
        attrs={
            "model": module.retina.name,
            "weights_digest": module.configuration["weights_digest"],
            "frames_lost": first_response,
            "configuration": json.dumps(module.configuration),
        },
    )
    known = {"frame_rate": facts.frame_rate, "pixel_size": facts.pixel_size, "mean": facts.mean, "sd": facts.sd}
    for name, value in known.items():
        if value is not None:
            dataset.attrs[name] = list(value) if isinstance(value, tuple) else value
    if isinstance(module.reducer, SliceMeanReducer):
        dataset.attrs["window_start"] = module.reducer.start
        dataset.attrs["window_stop"] = module.reducer.start + module.reducer.length
    return dataset


def save_dataset(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a dataset as a zarr store with one chunk for each neuron; read it with ``xarray.open_zarr(path)``.

    Raises:
        FileExistsError: if there is something at ``path`` already: results are never overwritten.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; results are not overwritten. Give another place, or move it.")
    one_neuron = {"stimulus": {"chunks": (1, *dataset["stimulus"].shape[1:])}}
    dataset.to_zarr(path, mode="w-", zarr_format=2, encoding=one_neuron, consolidated=True)
    return path
