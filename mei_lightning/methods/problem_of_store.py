"""What a store of MEIs was found for, from what it says of its run."""

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import MaxReducer, MeanReducer, Reducer, SliceMeanReducer
from mei_lightning.problem import MEIProblem
from mei_lightning.results.configuration import as_data, configuration_differences, read_configuration
from mei_lightning.results.dataset import groups_of, open_meis, ranges_of
from mei_lightning.settings import settings_named

_OF_SEARCH = (
    "model",
    "initial",
    "restarts",
    "finalists",
    "shifts",
    "max_steps",
    "search",
    "seed",
    "convergence",
    "fast_path",
)
"""What may be another in a problem of the same stimuli and the same scores."""


def problem_of_store(
    store: Path, model: nn.Module | str, settings: Mapping[str, Any], *, allow_unpickling: bool = False
) -> MEIProblem:
    """The problem that a run has found MEIs for: the same neurons, scores and constraint.

    Args:
        store: of the MEIs.
        model: that found them.
        settings: what the store does not say in full. Norm, ranges, the package's own reducers, frames and members are
            taken from it, unless they are given.
        allow_unpickling: as for ``MEIProblem``.

    Raises:
        ValueError: if settings or weights are others than the run's, with a list of the differences.
        IndexError: if a session of the model has no such neuron.
    """
    meis = open_meis(store)
    stored = read_configuration(meis.attrs["configuration"])
    whole = load_model(model, allow_unpickling=allow_unpickling)
    known = _known_of(meis, stored, settings)
    problem = MEIProblem(whole, groups_of(meis, whole), settings_named(known), members=stored.get("members"))
    given = copy(problem.configuration)
    for configuration in (stored, given):
        for name in _OF_SEARCH:
            configuration.pop(name, None)
    if differences := configuration_differences(stored, given):
        raise InvalidValueError(
            f"{store} holds the results of a run with other settings:\n{differences}\nGive the model and the settings "
            "of that run: norm, ranges and the package's own reducers are known, others are not, such as mask, "
            "constraint, objective or regularizer."
        )
    return problem


def _known_of(meis: xr.Dataset, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {"time_steps": meis.sizes["time"]}
    constraint = stored.get("constraint")
    if isinstance(constraint, Mapping) and constraint["class"] == "NormAndRange" and "constraint" not in settings:
        if "norm" not in settings and "rms" not in settings:
            known["norm"] = constraint["arguments"]["norm"]
        known["ranges"] = ranges_of(meis)
    if (reducer := _reducer_of(meis, stored)) is not None:
        known["reducer"] = reducer
    return {**known, **settings}


def _reducer_of(meis: xr.Dataset, stored: Mapping[str, Any]) -> Reducer | None:
    """The run's reducer, if it is one of the package's."""
    reducers: list[Reducer] = [MeanReducer(), MaxReducer()]
    if "window_start" in meis.attrs:
        start, stop = meis.attrs["window_start"], meis.attrs["window_stop"]
        reducers.append(SliceMeanReducer(axis=0, start=start, length=stop - start))
    return next((one for one in reducers if as_data(one) == stored["reducer"]), None)
