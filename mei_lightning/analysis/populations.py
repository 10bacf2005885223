"""Which neurons of a dataset have an MEI, and of what cell types they are."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.neurons import NeuronOrGroup, group_label, group_of
from mei_lightning.results.dataset import groups_of
from mei_lightning.wording import first_few


def neurons_with_mei(meis: xr.Dataset) -> NDArray[np.intp]:
    """The positions of the neurons that have an MEI with a score; not of those that are pending or have failed."""
    return np.flatnonzero(np.isfinite(meis["score"].values) & (meis["status"] != "pending").values)


def position_of(meis: xr.Dataset, neuron: str | NeuronOrGroup) -> int:
    """The position of a neuron, or a group, in a dataset.

    Args:
        meis: MEIs as from ``find_meis``.
        neuron: its label, or as for ``find_meis``.

    Raises:
        ValueError: if it is not in the dataset.
    """
    label = neuron if isinstance(neuron, str) else group_label(group_of(neuron, set(meis["session"].values.tolist())))
    labels = meis["neuron"].values.tolist()
    if label not in labels:
        raise InvalidValueError(f"There is no neuron {label!r} among these MEIs; there are {first_few(labels)}.")
    return labels.index(label)


def types_of(meis: xr.Dataset, model: RetinaModel) -> NDArray[Any] | None:
    """The cell type of each neuron of a dataset, by the column ``type`` of a model's neuron table.

    Returns:
        Names ``[neuron]``, a group's if all of its neurons are of one type, empty where no type is known; None if the
        table has no types.
    """
    table = model.neurons
    if "type" not in table:
        return None
    known = {
        (session, index): str(name)
        for session, index, name in table[["session", "index", "type"]].dropna().itertuples(index=False)
    }
    groups = groups_of(meis, model)
    found = [{known.get((neuron.session or "", neuron.index), "") for neuron in group} for group in groups]
    return np.array([names.pop() if len(names) == 1 else "" for names in found], dtype="U")
