"""What MEIs are worth on models that had no part in finding them."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import nn

from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, weights_digest
from mei_lightning.models.ensemble import select_members
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import NeuronObjective, Reducer
from mei_lightning.results.dataset import check_store, groups_of, open_meis, reducer_of
from mei_lightning.results.disk_errors import check_writable, free_place
from mei_lightning.results.store import MEIStore, is_of_run

HELD_OUT_SCORE = "held_out_score"


@in_usual_modes
def score_held_out(
    store: str | Path,
    retina: nn.Module | str,
    members: Sequence[int] | None = None,
    *,
    target: str | Path | None = None,
    reducer: Reducer | None = None,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.DataArray:
    """Score the MEIs of a store on another model of the same neurons, and keep the scores beside the run's own.

    The variable ``held_out_score`` of the store then has a score for each neuron that is done, NaN for the
    others; with a ``target`` the store stays as it is.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``.
        retina: the other model, or the ensemble that has it as members; as for ``MEIModule``.
        members: which members of the ensemble had no part in finding the MEIs; their mean response is scored. None if
            ``retina`` is to be scored as it is.
        target: a table to write (.csv) in place of the store's variable, e.g. if the store must not be written to.
        reducer: how the response over time becomes a score; by default as in the run, where that was one of this
            package's reducers.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The held-out scores, ``[neuron]``, in the model's units.

    Raises:
        FileNotFoundError: if there is nothing at ``store``.
        FileExistsError: if there is something at ``target``.
        ValueError: if it is no store, or one of another version, the model has no such members or sessions, its
            stimulus has another shape, it found the MEIs itself, or the run's reducer is not known here.
        IndexError: if a session of the model has no such neuron.
        OSError: if the store cannot be written to; nothing has been computed by then.

    Example:
        >>> meis = ml.find_meis("digital_twin", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> store = ml.save_dataset(meis, "meis.zarr")
        >>> scores = ml.score_held_out(store, "simulated", progress_bar=False)  # the cell that the twin was trained on
        >>> bool(abs(scores.item() / meis.score.item() - 1) < 0.2)
        True
    """
    store = check_store(store)
    meis = open_meis(store)
    table = None if target is None else free_place("target", target)
    if table is None:
        _check_writable(store)
    model = load_model(retina, allow_unpickling=allow_unpickling)
    if members is not None:
        model = select_members(model, members)
    reducer = reducer or reducer_of(meis)
    groups = groups_of(meis, model)
    _check_is_held_out(meis, model, members or ())
    # An interrupted neuron's stimulus is not the one that it ends with.
    done = np.flatnonzero(~meis["status"].isin(["pending", "interrupted"]).values)
    scores = np.full(meis.sizes["neuron"], np.nan)
    if len(done):
        objective = NeuronObjective(model, [list(groups[number]) for number in done], reducer)
        stimuli = meis["stimulus"].isel(neuron=done)
        scores[done] = predict_rows(
            objective,
            lambda rows: torch.from_numpy(stimuli.isel(neuron=rows).values),
            NeuronObjective.forward,
            title="Held-out scores",
            accelerator=accelerator,
            progress_bar=progress_bar,
        ).numpy()
    facts = {"long_name": f"{reducer!r} on {model.name}"}
    result = xr.DataArray(scores, dims="neuron", name=HELD_OUT_SCORE, attrs=facts)
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        of_neurons = result.assign_coords(neuron=meis["neuron"].drop_vars(["session", "index"], errors="ignore"))
        of_neurons.to_series().to_csv(table)
        return result.assign_coords(neuron=meis["neuron"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at records is not recognized")
        # The attributes are those of the run; without them xarray would write none.
        result.to_dataset().assign_attrs(meis.attrs).to_zarr(store, mode="a", zarr_format=2, consolidated=True)
    return result.assign_coords(neuron=meis["neuron"])


def _check_writable(store: Path) -> None:
    way_out = " (target='held_out.csv', on the command line --target)"
    if is_of_run(store):
        MEIStore(store).check_writable(way_out)
    else:
        check_writable(store, way_out)


def _check_is_held_out(meis: xr.Dataset, model: RetinaModel, members: Sequence[int]) -> None:
    configuration = json.loads(meis.attrs["configuration"])
    shared = sorted(set(configuration.get("members") or ()) & set(members))
    if shared:
        raise InvalidValueError(f"members={list(members)}: {shared} had a part in finding these MEIs.")
    if weights_digest(model) == meis.attrs["weights_digest"]:
        raise InvalidValueError(
            f"Model '{model.name}' found these MEIs itself, so its score is no test of them. Give another model, or "
            "find MEIs on some members of an ensemble and score them on the others."
        )
