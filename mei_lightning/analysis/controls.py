"""How much better MEIs are than what an experimenter would have shown."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from mei_lightning.analysis.populations import neurons_with_mei, types_of
from mei_lightning.analysis.prediction import predict_all_pairs, predict_rows
from mei_lightning.analysis.standard_stimuli import StandardStimulus, standard_stimuli
from mei_lightning.constraints import range_bounds
from mei_lightning.constraints.projection import project_norm_and_range
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import NeuronObjective, Reducer
from mei_lightning.results.dataset import groups_of, ranges_of, reducer_of

_SAME_NORM = 1.01


@in_usual_modes
def compare_with_standard_stimuli(
    model: nn.Module | str,
    meis: xr.Dataset,
    *,
    stimuli: Sequence[StandardStimulus] | None = None,
    ranges: Sequence[tuple[float | None, float | None] | None] | None = None,
    reducer: Reducer | None = None,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Compare each neuron's response to its MEI with those to standard stimuli of the same norm and ranges.

    Each standard stimulus is scaled to the norm of the neuron's MEI and clipped to the ranges, both together, as MEIs
    are (``NormAndRange``); one whose shape the ranges leave no room for gets as large a norm as they allow. Every
    neuron responds to all of them, and the best counts. All neurons whose MEIs have the same norm, to 1 %, are computed
    together: that is fastest for MEIs that were found with a fixed norm.

    Args:
        model: the model, or its name.
        meis: MEIs as from ``find_meis``.
        stimuli: what to compare with; by default ``standard_stimuli``.
        ranges: lowest and highest value of each channel; by default those of the run, if any.
        reducer: how the response over time becomes a number; by default as in the run.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        Along ``neuron``, ``mei_response``; ``standard_response`` and ``standard_stimulus``, the response to the best
        stimulus of each ``kind`` and its name; ``standard_kind``, the kind of the best of all; and
        ``excitation_ratio``, the response to the MEI over that to the best of all, NaN where that is not positive. Of
        neurons without an MEI all is NaN, or empty. Responses are in the model's units. Coordinates ``session``,
        ``index``, and ``type`` if the model's neuron table has types.

    Raises:
        ValueError: if no MEI is there, no stimuli are given, or the model does not fit.
        IndexError: if a session has no such neuron.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1, bias=False))
        >>> network[1].weight.data = torch.eye(64)[27:28]  # sees a single pixel
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=8, width=8))
        >>> meis = ml.find_meis(model, [0], norm=2.0, progress_bar=False)
        >>> compared = ml.compare_with_standard_stimuli(model, meis, progress_bar=False)
        >>> print(f"{compared.mei_response.item():.1f}")
        2.0
        >>> compared.kind.values.tolist()
        ['chirp', 'spot', 'bar', 'grating', 'natural-like movie']
        >>> bool(compared.excitation_ratio > 1)  # the best of all of them excites the neuron less
        True
    """
    meis = meis.drop_encoding()
    model = load_model(model)
    groups = groups_of(meis, model)
    reducer = reducer or reducer_of(meis)
    chosen = standard_stimuli(model.stimulus_format, meis.sizes["time"]) if stimuli is None else list(stimuli)
    present = neurons_with_mei(meis)
    if not len(present) or not chosen:
        raise InvalidValueError("There is nothing to compare: give at least one MEI that is done, and one stimulus.")
    ranges = ranges_of(meis) if ranges is None else ranges
    bounds = None if ranges is None else range_bounds(ranges)

    own = predict_rows(
        NeuronObjective(model, [list(groups[number]) for number in present], reducer),
        lambda rows: torch.from_numpy(meis["stimulus"][present[rows]].values),
        lambda objective, stimulus: torch.stack([objective(stimulus), stimulus.flatten(1).norm(dim=1)], dim=1),
        title="Responses to own MEIs",
        accelerator=accelerator,
        progress_bar=progress_bar,
    ).double()
    mei_response = np.full(len(groups), np.nan)
    mei_response[present] = own[:, 0].numpy()
    table = np.full((len(groups), len(chosen)), np.nan)
    for numbers, norm in _of_equal_norm(own[:, 1].numpy()):
        members = present[numbers]
        table[members] = (
            predict_all_pairs(
                model,
                [groups[number] for number in members],
                reducer,
                lambda shown, norm=norm: project_norm_and_range(  # type: ignore[misc]
                    torch.stack([chosen[number].make() for number in shown]), norm, bounds
                ),
                len(chosen),
                title="Responses to standard stimuli",
                accelerator=accelerator,
                progress_bar=progress_bar,
            )
            .double()
            .numpy()
        )
    kinds = np.array([stimulus.kind for stimulus in chosen])
    names = np.array([stimulus.name for stimulus in chosen])
    distinct = list(dict.fromkeys(kinds.tolist()))
    best_of_kind = [_best(table[:, kinds == kind], names[kinds == kind]) for kind in distinct]
    best_response = np.stack([response for response, _ in best_of_kind], axis=1)
    best_names = np.stack([name for _, name in best_of_kind], axis=1)
    best, done = best_response.max(axis=1), np.isfinite(mei_response)
    units = {"units": "model units"}
    return xr.Dataset(
        {
            "mei_response": ("neuron", mei_response, {**units, "long_name": "response to the MEI"}),
            "standard_response": (
                ("neuron", "kind"),
                best_response,
                {**units, "long_name": "response to the best stimulus of a kind"},
            ),
            "standard_stimulus": (("neuron", "kind"), np.where(done[:, None], best_names, "")),
            "standard_kind": ("neuron", np.where(done, np.array(distinct)[best_response.argmax(axis=1)], "")),
            "excitation_ratio": (
                "neuron",
                mei_response / np.where(best > 0, best, np.nan),
                {"units": "1", "long_name": "response to the MEI as a multiple of that to the best standard stimulus"},
            ),
        },
        {"kind": distinct, **_labels(meis, model)},
        {"model": model.name, "reducer": repr(reducer)},
    )


def _labels(meis: xr.Dataset, model: RetinaModel) -> dict[str, Any]:
    labels: dict[str, Any] = {name: meis[name] for name in ("neuron", "session", "index")}
    return labels if (types := types_of(meis, model)) is None else {**labels, "type": ("neuron", types)}


def _best(responses: NDArray[Any], names: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The largest of responses ``[neurons, stimuli]`` of each neuron, and the name of its stimulus."""
    return responses.max(axis=1), names[responses.argmax(axis=1)]


def _of_equal_norm(norms: NDArray[Any]) -> Iterator[tuple[NDArray[np.intp], float]]:
    """The positions of MEIs whose norms differ by no more than 1 %, and the mean of their norms."""
    order = np.argsort(norms, kind="stable")[: np.count_nonzero(np.isfinite(norms))]
    while len(order):
        alike = norms[order] <= norms[order[0]] * _SAME_NORM
        yield order[alike], float(norms[order[alike]].mean())
        order = order[~alike]
