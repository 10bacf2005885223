"""What MEIs are worth on models that had no part in finding them."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mei_lightning.memory import rows_that_fit
from mei_lightning.models.base import RetinaModel, weights_digest
from mei_lightning.models.ensemble import select_members
from mei_lightning.models.loading import load_model
from mei_lightning.neurons import group_of_label
from mei_lightning.objectives import MaxReducer, MeanReducer, NeuronObjective, Reducer, SliceMeanReducer
from mei_lightning.store import VERSION_ATTRIBUTE, MEIStore

HELD_OUT_SCORE = "held_out_score"


def score_held_out(
    store: str | Path,
    retina: nn.Module | str,
    members: Sequence[int] | None = None,
    *,
    reducer: Reducer | None = None,
    allow_unpickling: bool = False,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.DataArray:
    """Score the MEIs of a store on another model of the same neurons, and keep the scores beside the run's own.

    The variable ``held_out_score`` of the store then has a score for each neuron that is done, NaN for the
    others.

    Args:
        store: where the MEIs are, e.g. ``results/meis.zarr``.
        retina: the other model, or the ensemble that has it as members; as for ``MEIModule``.
        members: which members of the ensemble had no part in finding the MEIs; their mean response is scored. None if
            ``retina`` is to be scored as it is.
        reducer: how the response over time becomes a score; by default as in the run, where that was one of this
            package's reducers.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The held-out scores, ``[neuron]``.

    Raises:
        ValueError: if the model has no such members, sessions or neurons, its stimulus has another shape, it found the
            MEIs itself, the run's reducer is not known here, or the store is of another version.
        OSError: if the store cannot be written to; nothing has been computed by then.
    """
    meis = xr.open_zarr(store, chunks=None)
    if VERSION_ATTRIBUTE in meis.attrs:
        MEIStore(store).check_writable()
    model = load_model(retina, allow_unpickling=allow_unpickling)
    if members is not None:
        model = select_members(model, members)
    reducer = reducer or _reducer_of(meis)
    shape = model.stimulus_shape(meis.sizes["time"])[1:]
    if shape != meis["stimulus"].shape[1:]:
        raise ValueError(
            f"Model '{model.name}' takes stimuli of shape {shape}, but those in {store} have "
            f"{meis['stimulus'].shape[1:]}."
        )
    _check_is_held_out(meis, model, members or ())
    # An interrupted neuron's stimulus is not the one that it ends with.
    done = np.flatnonzero(~meis["status"].isin(["pending", "interrupted"]).values)
    scores = np.full(meis.sizes["neuron"], np.nan)
    if len(done):
        groups = [group_of_label(label, model.has_sessions) for label in meis["neuron"].values[done].tolist()]
        module = _HeldOutScores(NeuronObjective(model, groups, reducer), meis["stimulus"].isel(neuron=done))
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
        )
        batches = trainer.predict(module)
        assert batches is not None
        scores[done] = torch.cat(batches).cpu().numpy()  # type: ignore[arg-type]
    facts = {"long_name": f"{reducer!r} on {model.name}"}
    result = xr.DataArray(scores, dims="neuron", name=HELD_OUT_SCORE, attrs=facts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Object at records is not recognized")
        # The attributes are those of the run; without them xarray would write none.
        result.to_dataset().assign_attrs(meis.attrs).to_zarr(store, mode="a", zarr_format=2, consolidated=True)
    return result.assign_coords(neuron=meis["neuron"])


class _HeldOutScores(LightningModule):
    def __init__(self, objective: NeuronObjective, stimuli: xr.DataArray) -> None:
        super().__init__()
        self.objective = objective
        self.stimuli = stimuli

    def predict_dataloader(self) -> DataLoader:
        rows = rows_that_fit(self.objective, self._stimuli([0]).cpu(), torch.device("cpu"))
        return DataLoader(range(self.stimuli.sizes["neuron"]), batch_size=rows, collate_fn=list)  # type: ignore[arg-type]

    def predict_step(self, numbers: list[int]) -> Tensor:
        return self.objective.for_rows(numbers).to(self.device)(self._stimuli(numbers))

    def _stimuli(self, numbers: list[int]) -> Tensor:
        return torch.from_numpy(self.stimuli.isel(neuron=numbers).values).to(self.device)


def _check_is_held_out(meis: xr.Dataset, model: RetinaModel, members: Sequence[int]) -> None:
    configuration = json.loads(meis.attrs["configuration"])
    shared = sorted(set(configuration.get("members") or ()) & set(members))
    if shared:
        raise ValueError(f"members={list(members)}: {shared} had a part in finding these MEIs.")
    if weights_digest(model) == meis.attrs["weights_digest"]:
        raise ValueError(
            f"Model '{model.name}' found these MEIs itself, so its score is no test of them. Give another model, or "
            "find MEIs on some members of an ensemble and score them on the others."
        )


def _reducer_of(meis: xr.Dataset) -> Reducer:
    known: list[Reducer] = [MeanReducer(), MaxReducer()]
    if "window_start" in meis.attrs:
        start, stop = meis.attrs["window_start"], meis.attrs["window_stop"]
        known.append(SliceMeanReducer(axis=0, start=start, length=stop - start))
    for reducer in known:
        if repr(reducer) == meis.attrs["score"]:
            return reducer
    raise ValueError(f"The run's score is {meis.attrs['score']}, which is not known here: give the reducer.")
