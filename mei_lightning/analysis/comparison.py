"""MEIs beside other stimuli for the same neurons: another run's, or spike-triggered averages."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import nn

from mei_lightning.analysis.alignment import possible_shifts, similarity_by_shift
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import NeuronObjective, Reducer
from mei_lightning.results.dataset import groups_of, reducer_of
from mei_lightning.wording import first_few

_STIMULUS = ("neuron", "channel", "time", "y", "x")


@in_usual_modes
def compare_meis(
    meis: xr.Dataset,
    other: xr.Dataset | xr.DataArray,
    models: Sequence[nn.Module | str] = (),
    *,
    equal_norm: bool = False,
    reducer: Reducer | None = None,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Compare MEIs, neuron by neuron, with other stimuli for the same neurons, and show both to models.

    Give the models of both runs to see what each model's MEIs are worth on the other. Stimuli may differ by a shift in
    time alone, to which a mean response is nearly blind; so there is a similarity with the shift that makes it largest.
    What is shifted beyond the stimulus counts as missing.

    Args:
        meis: as from ``find_meis``.
        other: MEIs of another run; or stimuli of your own, such as spike-triggered averages, with dimensions ``neuron,
            channel, time, y, x`` and the labels of the neurons. What both have is compared.
        models: show the stimuli to these models; they have to have the neurons.
        equal_norm: show the other stimuli with the norms of the MEIs, as for averages, which have no norm of their own.
        reducer: how the response over time becomes a number; by default as in the run that found ``meis``.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        For each ``neuron`` that both have, ``similarity`` (cosine), ``aligned_similarity`` and ``shift`` (how much
        later the other stimulus is, in the unit of ``time``); and ``response`` ``[neuron, model, stimulus]`` to the
        ``"MEI"`` and the ``"other"`` stimulus, if there are models. Stimuli that are zero or not finite have NaN.

    Raises:
        ValueError: if both have no neuron in common, or stimuli of different shapes; if a model has no such session or
            takes other stimuli, or the run's reducer is not known here.
        IndexError: if a session of a model has no such neuron.

    Example:
        >>> cell = [("session_1", 0)]
        >>> weak = ml.find_meis("simulated", cell, norm=10.0, search="quick", progress_bar=False)
        >>> strong = ml.find_meis("simulated", cell, norm=20.0, search="quick", progress_bar=False)
        >>> compared = ml.compare_meis(weak, strong, ["simulated"], progress_bar=False)
        >>> print(f"{compared.aligned_similarity.item():.1f}")  # nearly the same but for the norm
        1.0
        >>> own, other = compared.response.sel(model="simulated", neuron="session_1/0").values
        >>> bool(other > own)
        True
    """
    meis = meis.drop_encoding()
    loaded = [load_model(model) for model in models]
    stimuli = other["stimulus"] if isinstance(other, xr.Dataset) else other
    meis, stimuli = _of_common_neurons(meis, stimuli)
    objectives = []
    if loaded:
        reducer = reducer or reducer_of(meis)
        objectives = [NeuronObjective(model, groups_of(meis, model), reducer) for model in loaded]
    compared = _similarities(meis["stimulus"].transpose(*_STIMULUS), stimuli, meis["time"])
    if not objectives:
        return compared
    norms = [_norms(meis["stimulus"]), _norms(stimuli)]
    valid = np.all([np.isfinite(norm) & (norm > 0) for norm in norms], axis=0)
    factors = [np.ones(len(valid)), norms[0] / np.where(valid, norms[1], 1) if equal_norm else np.ones(len(valid))]
    shown = zip((meis["stimulus"].transpose(*_STIMULUS), stimuli), factors, strict=True)
    pairs = [(values, np.where(valid, factor, 0.0)) for values, factor in shown]
    responses = [
        [_responses(objective, *pair, accelerator=accelerator, progress_bar=progress_bar) for pair in pairs]
        for objective in objectives
    ]
    responses_by_neuron = np.where(valid[:, None, None], np.transpose(responses, (2, 0, 1)), np.nan)
    facts = {"long_name": repr(reducer), "units": "model units"}
    names = [model.name for model in loaded]
    return compared.assign(response=(("neuron", "model", "stimulus"), responses_by_neuron, facts)).assign_coords(
        model=names, stimulus=["MEI", "other"]
    )


def _of_common_neurons(meis: xr.Dataset, other: xr.DataArray) -> tuple[xr.Dataset, xr.DataArray]:
    missing = [name for name in _STIMULUS if name not in other.dims or (name == "neuron" and name not in other.coords)]
    if missing:
        raise InvalidValueError(
            f"other has dimensions {tuple(other.dims)}: stimuli have {', '.join(_STIMULUS)}, and the labels of the "
            f"neurons as a coordinate, such as {meis['neuron'].values[0]!r}."
        )
    other = other.transpose(*_STIMULUS)
    labels = [label for label in meis["neuron"].values.tolist() if label in set(other["neuron"].values.tolist())]
    if not labels:
        raise InvalidValueError(
            f"There is no neuron that both have: {first_few(meis['neuron'].values.tolist())} are none of "
            f"{first_few(other['neuron'].values.tolist())}."
        )
    sizes = {name: (meis.sizes[name], other.sizes[name]) for name in _STIMULUS[1:]}
    if any(one != another for one, another in sizes.values()):
        raise InvalidValueError(
            f"The MEIs have {', '.join(f'{name} {one}' for name, (one, _) in sizes.items())}, the other stimuli "
            f"{', '.join(f'{name} {another}' for name, (_, another) in sizes.items())}: give stimuli of one shape."
        )
    return meis.sel(neuron=labels), other.sel(neuron=labels)


def _similarities(stimuli: xr.DataArray, others: xr.DataArray, time: xr.DataArray) -> xr.Dataset:
    count, frames = stimuli.sizes["neuron"], stimuli.sizes["time"]
    frame = float(time[1] - time[0]) if frames > 1 else 0.0
    shifts = possible_shifts(frames)
    similarities: np.ndarray = np.stack(
        [
            similarity_by_shift(*(values[number].values.astype(np.float64) for values in (stimuli, others)))
            for number in range(count)
        ]
    )
    known = np.isfinite(similarities).all(axis=1)
    best = np.where(known[:, None], similarities, 0).argmax(axis=1)
    rows = np.arange(count)
    return xr.Dataset(
        {
            "similarity": ("neuron", similarities[:, frames - 1], {"units": "1", "long_name": "cosine"}),
            "aligned_similarity": (
                "neuron",
                similarities[rows, best],
                {"units": "1", "long_name": "largest cosine with a shift in time"},
            ),
            "shift": (
                "neuron",
                np.where(known, shifts[best] * frame, np.nan),
                {"units": time.attrs.get("units", ""), "long_name": "how much later the other stimulus is"},
            ),
        },
        {name: stimuli[name] for name in ("neuron", "session", "index") if name in stimuli.coords},
    )


def _norms(stimuli: xr.DataArray) -> np.ndarray:
    return np.array([np.linalg.norm(stimuli[number].values.astype(np.float64)) for number in range(len(stimuli))])


def _responses(
    objective: NeuronObjective, stimuli: xr.DataArray, factors: np.ndarray, *, accelerator: str, progress_bar: bool
) -> np.ndarray:
    def scaled(rows: list[int]) -> torch.Tensor:
        values = np.nan_to_num(stimuli[rows].values) * factors[rows, None, None, None, None]
        return torch.from_numpy(values.astype(np.float32))

    scores = predict_rows(
        objective,
        scaled,
        NeuronObjective.forward,
        title="Comparison",
        accelerator=accelerator,
        progress_bar=progress_bar,
    )
    return scores.double().numpy()
