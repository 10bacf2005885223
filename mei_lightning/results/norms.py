"""MEIs at several norms: a store for each in a directory of its own, and one dataset of all of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mei_lightning.exceptions import InvalidValueError, NothingThereError
from mei_lightning.paths import local_path
from mei_lightning.results.configuration import configuration_differences, read_configuration
from mei_lightning.results.dataset import open_meis
from mei_lightning.results.place import STORE
from mei_lightning.results.schema import INTERRUPTED, PENDING
from mei_lightning.shard import Shard

_PREFIX = "norm_"


def directory_of_norm(norm: float) -> str:
    """What the directory of a norm is called, on any system: ``norm_5``, ``norm_0.1``, ``norm_1e-07``."""
    return f"{_PREFIX}{norm!r}".removesuffix(".0")


def open_norms(directory: str | Path) -> xr.Dataset:
    """The MEIs that ``find_meis(norm=[...], directory=...)`` has found so far, also while it goes on.

    Args:
        directory: that of the call, with a directory for each norm (``norm_5/meis.zarr``).

    Returns:
        The dataset with a dimension ``norm`` that the call returns, by rising norm, in memory.

    Raises:
        FileNotFoundError: if there are no MEIs of any norm.
        ValueError: if the norms have been found with different settings.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False))
        >>> network[1].weight.data = torch.tensor([[0.0, 2.0]])
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=1, width=2))
        >>> found = ml.find_meis(model, [0], norm=[1, 3], directory="norms", progress_bar=False)
                 converged  median score  median steps
        ...
        >>> meis = ml.open_norms("norms")
        >>> meis.norm.values.tolist(), meis.score.values[:, 0].round(2).tolist()  # 2 * 1 and 2 * 3
        ([1.0, 3.0], [2.0, 6.0])
    """
    found: dict[float, xr.Dataset] = {}
    for store in local_path("directory", directory).glob(f"{_PREFIX}*/{STORE}"):
        norm = _number(store.parent.name.removeprefix(_PREFIX))
        if norm is not None:
            found[norm] = open_meis(store)
    if not found:
        raise NothingThereError(f"There are no MEIs of several norms in {directory}, such as norm_5/{STORE}.")
    return joined_norms({norm: found[norm] for norm in sorted(found)})


def joined_norms(meis: Mapping[float, xr.Dataset]) -> xr.Dataset:
    """One dataset with a dimension ``norm`` from the MEIs of each; the configuration has a list of the norms.

    Raises:
        ValueError: if they differ in other settings than the norm.
    """
    settings = {norm: _of_any_norm(found) for norm, found in meis.items()}
    (first, expected), *others = settings.items()
    for norm, configuration in others:
        if differences := configuration_differences(expected, configuration):
            raise InvalidValueError(
                f"The MEIs of norm {first:g} and {norm:g} have been found with different settings:\n{differences}"
            )
    joined = xr.concat(
        list(meis.values()),
        dim=pd.Index(list(meis), name="norm"),
        data_vars="all",
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    constraint = expected["constraint"]
    arguments = {**constraint["arguments"], "norm": list(meis)}
    configuration = {**expected, "constraint": {**constraint, "arguments": arguments}}
    return joined.load().assign_attrs(configuration=json.dumps(configuration))


def is_complete(meis: xr.Dataset, shard: Shard | None = None) -> bool:
    """Whether no neuron, or none of a shard, is pending or interrupted."""
    status = meis["status"].values
    asked = status if shard is None else status[shard.numbers(len(status))]
    return not np.isin(asked, (PENDING, INTERRUPTED)).any()


def _of_any_norm(meis: xr.Dataset) -> dict[str, Any]:
    configuration = read_configuration(meis.attrs["configuration"])
    constraint = configuration["constraint"]
    arguments = {**constraint["arguments"], "norm": None}
    return {**configuration, "constraint": {**constraint, "arguments": arguments}}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
