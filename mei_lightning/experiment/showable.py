"""Whether a projector can show MEIs as they are."""

import json

import numpy as np
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mei_lightning.experiment.levels import BRIGHTEST, ranges_of_projector
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.wording import first_few

_NEURONS_AT_A_TIME = 64
_NAMED = 3


def not_showable(meis: xr.Dataset) -> list[str]:
    """The labels of the neurons whose stimuli have values that an 8-bit projector cannot show.

    Args:
        meis: MEIs as ``find_meis`` returns them. Without the mean and sd that the model's training stimuli were
            normalised with, it is not known, and the list is empty.
    """
    facts = dataset_stimulus_format(meis)
    if facts.mean is None or facts.sd is None:
        return []
    mean, sd = (np.reshape(values, (1, -1, 1, 1, 1)) for values in (facts.mean, facts.sd))
    # What rounds to a value of the projector can be shown.
    lowest, highest = (-0.5 - mean) / sd, (BRIGHTEST + 0.5 - mean) / sd
    labels = []
    for start in range(0, meis.sizes["neuron"], _NEURONS_AT_A_TIME):
        some = meis["stimulus"].isel(neuron=slice(start, start + _NEURONS_AT_A_TIME))
        values = some.transpose("neuron", "channel", "time", "y", "x").values
        outside = ((values < lowest) | (values > highest)).any(axis=(1, 2, 3, 4))
        labels += some["neuron"].values[outside].tolist()
    return labels


def warn_of_what_no_projector_shows(meis: xr.Dataset) -> None:
    """Warn, once for all neurons, of MEIs that a projector cannot show, and say how to find such as it can."""
    if labels := not_showable(meis):
        ranges = ranges_of_projector(dataset_stimulus_format(meis))
        rank_zero_warn(
            f"No projector can show {len(labels)} of these {meis.sizes['neuron']} MEIs as they are, since values are "
            f"outside its 0 to {BRIGHTEST}: {first_few(labels, _NAMED)}. For an experiment find them with "
            f'ranges={ranges}; on the command line it is --model.ranges "{json.dumps(ranges)}".'
        )
