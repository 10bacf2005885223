"""Which neurons of a dataset have an MEI, and of what cell types they are."""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mei_lightning.models.base import RetinaModel
from mei_lightning.results import groups_of


def neurons_with_mei(meis: xr.Dataset) -> NDArray[np.intp]:
    """The positions of the neurons that have an MEI with a score; not of those that are pending or have failed."""
    return np.flatnonzero(np.isfinite(meis["score"].values) & (meis["status"] != "pending").values)


def types_of(meis: xr.Dataset, model: RetinaModel) -> NDArray[Any] | None:
    """The cell type of each neuron of a dataset, by the column ``type`` of a model's neuron table.

    Returns:
        Names ``[neuron]``, empty where no type is known, and for a group whose neurons differ; None if the table has
        no types.
    """
    table = model.neurons
    if "type" not in table:
        return None
    known = {
        (session, int(index)): str(name)
        for session, index, name in table[["session", "index", "type"]].dropna().itertuples(index=False)
    }
    types = [
        {known.get((neuron.session or "", neuron.index), "") for neuron in group} for group in groups_of(meis, model)
    ]
    return np.array([names.pop() if len(names) == 1 else "" for names in types], dtype="U")
