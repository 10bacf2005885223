"""Every neuron's response to every MEI, and how selective MEIs are for their neurons and cell types."""

import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from mei_lightning.analysis.populations import neurons_with_mei, types_of
from mei_lightning.analysis.prediction import predict_all_pairs
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.loading import load_model
from mei_lightning.objectives import Reducer
from mei_lightning.results.dataset import groups_of, reducer_of


@in_usual_modes
def cross_responses(
    model: nn.Module | str,
    meis: xr.Dataset,
    *,
    reducer: Reducer | None = None,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.DataArray:
    """The response of every neuron to every MEI.

    MEIs are read in batches, and what the neurons of all sessions share, such as the core of a core-readout model,
    is computed once for each MEI. Responses are within 1e-5 of those that the model gives one by one.

    Args:
        model: the model that responds, or its name; any model that has the neurons of the dataset.
        meis: MEIs as from ``find_meis``.
        reducer: how the response over time becomes a number; by default as in the run, where that was one of this
            package's reducers. A group's response is the mean of its neurons'.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        Responses ``[neuron, mei]`` in the model's units, where ``neuron`` responds to the stimulus of ``mei``. MEIs
        that are not there, or not finite, have NaN. Coordinates: ``session``, ``index`` and ``grey_response`` (the
        response to a stimulus of zeros, a screen at the mean level) along ``neuron``; and ``type`` along ``neuron``
        and ``mei_type`` along ``mei`` if the model's neuron table has types.

    Raises:
        ValueError: if the model has no such session, takes stimuli of another shape, or the run's reducer is not known
            here.
        IndexError: if a session has no such neuron.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2)]  # ON sustained and OFF sustained
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> responses = ml.cross_responses("simulated", meis, progress_bar=False)
        >>> responses.sizes["neuron"], responses.sizes["mei"]
        (2, 2)
        >>> responses.argmax("mei").values.tolist()  # each responds most to its own
        [0, 1]
    """
    meis = meis.drop_encoding()
    model = load_model(model)
    reducer = reducer or reducer_of(meis)
    groups = groups_of(meis, model)
    present = neurons_with_mei(meis)
    stimuli = meis["stimulus"]

    def grey_and_meis(numbers: list[int]) -> Tensor:
        values = np.zeros((len(numbers), *stimuli.shape[1:]), stimuli.dtype)
        shown = np.array([number for number in numbers if number > 0], dtype=int)
        values[len(numbers) - len(shown) :] = stimuli[present[shown - 1]].values
        return torch.from_numpy(values)

    scores = (
        predict_all_pairs(
            model,
            groups,
            reducer,
            grey_and_meis,
            1 + len(present),
            title="Responses to all MEIs",
            accelerator=accelerator,
            progress_bar=progress_bar,
        )
        .double()
        .numpy()
    )
    responses = np.full((len(groups), len(groups)), np.nan)
    responses[:, present] = scores[:, 1:]
    labels = meis["neuron"].values
    result = xr.DataArray(
        responses,
        dims=("neuron", "mei"),
        coords={
            "neuron": labels,
            "mei": labels,
            "session": ("neuron", meis["session"].values),
            "index": ("neuron", meis["index"].values),
            "grey_response": ("neuron", scores[:, 0], {"long_name": "response to the mean level"}),
        },
        name="cross_response",
        attrs={"long_name": f"{reducer!r} on {model.name}", "units": "model units", "reducer": repr(reducer)},
    )
    if (types := types_of(meis, model)) is not None:
        result = result.assign_coords(type=("neuron", types), mei_type=("mei", types))
    return result


def relative_responses(responses: xr.DataArray) -> xr.DataArray:
    """Responses on one scale for all neurons: 0 is the response to grey, 1 the response to the neuron's own MEI.

    Args:
        responses: from ``cross_responses``.

    Returns:
        ``[neuron, mei]``. Negative where the MEI of another neuron suppresses the neuron; NaN for a neuron that its
        own MEI does not excite above grey.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2)]  # ON sustained and OFF sustained
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> responses = ml.cross_responses("simulated", meis, progress_bar=False)
        >>> np.diagonal(ml.relative_responses(responses)).tolist()
        [1.0, 1.0]
    """
    grey = responses["grey_response"]
    own = xr.DataArray(np.diagonal(responses.values), dims="neuron", coords={"neuron": responses["neuron"]})
    excitation = own - grey
    relative = (responses - grey) / excitation.where(excitation > 0)
    return relative.assign_attrs(long_name="response as a share of that to the own MEI", units="1")


def selectivity_index(responses: xr.DataArray) -> xr.DataArray:
    """How selectively each MEI excites its own neuron.

    ``(own - others) / (own + others)``, the contrast of direction-selectivity indices, where ``own`` is the excitation
    of the neuron by its own MEI, and ``others`` the mean excitation of all other neurons by the same MEI. Excitation
    is the response above that to grey, as a share of what the responding neuron's own MEI brings about
    (``relative_responses``); suppression counts as 0. So ``own`` is 1, gains of neurons do not matter, and the index is
    1 for an MEI that excites no other neuron, 0 for one that excites all others as much as their own MEIs do, and
    below 0 for one that excites them more.

    Neurons that look at other places are part of the others, so that the index depends on which neurons there are.

    Args:
        responses: from ``cross_responses``.

    Returns:
        The index ``[neuron]``, from -1 to 1; NaN where there is no MEI or no other neuron.

    Example:
        >>> import xarray as xr
        >>> cells = ["a", "b"]  # b responds to the MEI of a as to grey, and a to that of b half as well as to its own
        >>> responses = xr.DataArray(
        ...     [[5.0, 3.0], [1.0, 9.0]],
        ...     coords={"neuron": cells, "mei": cells, "grey_response": ("neuron", [1.0, 1.0])},
        ...     dims=("neuron", "mei"),
        ... )
        >>> ml.selectivity_index(responses).values.round(2).tolist()  # (1 - 0) / (1 + 0), (1 - 1/2) / (1 + 1/2)
        [1.0, 0.33]
    """
    excitation = relative_responses(responses).clip(min=0).values
    own = np.diagonal(excitation)
    index = _contrast(own, _mean(_without_diagonal(excitation), axis=0))
    return xr.DataArray(
        index,
        dims="neuron",
        coords={
            name: values
            for name, values in responses.coords.items()
            if values.dims == ("neuron",) and name != "grey_response"
        },
        name="selectivity_index",
        attrs={"long_name": "selectivity index of the MEI", "units": "1"},
    )


def type_responses(responses: xr.DataArray) -> xr.DataArray:
    """How much the MEIs of each cell type excite the neurons of each type.

    The excitation of a type by an MEI is that of the type's neuron that it excites most (``relative_responses``,
    suppression as 0): a type tiles the retina, and an MEI that lies between two of its neurons, or beside both, says
    nothing about the type. Of a type, it is the mean over its MEIs. The diagonal is 1, or a little more where MEIs
    of neighbours are as good as the own one; off it stands the confusion of types, 1 where an MEI of one type excites
    the best-placed neuron of another type as much as that neuron's own MEI does.

    Args:
        responses: from ``cross_responses``, of a model whose neuron table has types.

    Returns:
        ``[cell_type, mei_cell_type]``, how neurons of ``cell_type`` respond to MEIs of ``mei_cell_type``.

    Raises:
        ValueError: if no types are known.

    Example:
        >>> import xarray as xr
        >>> cells = ["a", "b", "c"]
        >>> responses = xr.DataArray(
        ...     [[4.0, 0.0, 1.0], [0.0, 4.0, 2.0], [0.0, 0.0, 4.0]],
        ...     coords={
        ...         "neuron": cells,
        ...         "mei": cells,
        ...         "grey_response": ("neuron", [0.0, 0.0, 0.0]),
        ...         "type": ("neuron", ["ON", "ON", "OFF"]),
        ...     },
        ...     dims=("neuron", "mei"),
        ... )
        >>> ml.type_responses(responses).sel(cell_type="ON", mei_cell_type="OFF").item()  # of a and b, b is best placed
        0.5
    """
    if "type" not in responses.coords:
        raise InvalidValueError("These responses have no types: the model's neuron table has no column 'type'.")
    types = responses["type"].values
    excitation = relative_responses(responses).clip(min=0).values
    names = sorted(set(types) - {""})
    # A neuron that its own MEI does not excite has NaN in all of its row, which no maximum chooses.
    best = np.stack([np.fmax.reduce(excitation[types == name], axis=0) for name in names])
    values = np.stack([_mean(best[:, types == name], axis=1) for name in names], axis=1)
    return xr.DataArray(
        values,
        dims=("cell_type", "mei_cell_type"),
        coords={"cell_type": names, "mei_cell_type": names},
        name="type_response",
        attrs={"long_name": "excitation of the best-placed neuron, as a share of that by its own MEI", "units": "1"},
    )


def type_selectivity_index(responses: xr.DataArray) -> xr.DataArray:
    """How selectively the MEIs of each cell type excite neurons of that type.

    ``(own - others) / (own + others)`` of the excitations in ``type_responses``: ``own`` by the MEIs of the same type,
    ``others`` the mean over the other types of their excitation by these MEIs. 1 for MEIs that excite no other type,
    0 for MEIs that excite the best-placed neurons of other types as much as those of their own.

    Args:
        responses: from ``cross_responses``, of a model whose neuron table has types.

    Returns:
        The index ``[cell_type]``, from -1 to 1; NaN if there is only one type.

    Raises:
        ValueError: if no types are known.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2), ("session_1", 8)]  # two ON sustained, one OFF sustained
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> responses = ml.cross_responses("simulated", meis, progress_bar=False)
        >>> index = ml.type_selectivity_index(responses)
        >>> index.cell_type.values.tolist(), bool((index > 0.9).all())
        (['off_sustained', 'on_sustained'], True)
    """
    table = type_responses(responses)
    return xr.DataArray(
        _contrast(np.diagonal(table.values), _mean(_without_diagonal(table.values), axis=0)),
        dims="cell_type",
        coords={"cell_type": table["cell_type"].values},
        name="type_selectivity_index",
        attrs={"long_name": "selectivity index of the type's MEIs", "units": "1"},
    )


def _contrast(own: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    return (own - others) / (own + others)


def _without_diagonal(matrix: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)


def _mean(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """The mean of those values that are numbers; NaN where there are none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return np.nanmean(values, axis=axis)
