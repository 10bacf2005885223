"""How a neuron's response changes with the contrast of its MEI in each of two channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from mei_lightning.acceleration.prepare import prepare
from mei_lightning.analysis.populations import position_of
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.constraints import range_bounds
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.gradients import gradient_of
from mei_lightning.models.base import frozen
from mei_lightning.models.loading import load_model
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives import NeuronObjective, Reducer
from mei_lightning.results.dataset import groups_of, ranges_of, reducer_of

CONTRASTS = tuple(np.linspace(-1.0, 1.0, 21).round(1).tolist())

_ROUNDING = 1e-5


@in_usual_modes
def chromatic_landscape(
    model: nn.Module | str,
    meis: xr.Dataset,
    neuron: str | NeuronOrGroup,
    *,
    contrasts: Sequence[float] = CONTRASTS,
    ranges: Sequence[tuple[float | None, float | None] | None] | None = None,
    reducer: Reducer | None = None,
    accelerator: str = "auto",
    progress_bar: bool = False,
) -> xr.Dataset:
    """The response of a neuron, and its gradient, over the contrasts of its MEI in two channels.

    The chromatic gradient field of Höfling et al. 2024 (eLife 86860): the two channels of the MEI are scaled to equal
    norms, the norm of both together staying what it is; then each is multiplied by a contrast. Contrasts of 1 and
    1 have the MEI's norm, and a negative contrast reverses a channel. A point of the grid whose stimulus would leave
    the range of a channel, or have more than the MEI's norm, is beyond what the MEI was allowed to be: it is not
    evaluated, and NaN.

    Args:
        model: the model, or its name.
        meis: MEIs as from ``find_meis``, of two channels.
        neuron: the neuron (or group), by its label or as for ``find_meis``.
        contrasts: the grid, the same in both channels.
        ranges: lowest and highest value of each channel, in the model's units; by default those of the run, if any.
        reducer: how the response over time becomes a number; by default as in the run.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        For channels green and UV, ``response`` ``[green_contrast, UV_contrast]`` and ``gradient``
        ``[channel, green_contrast, UV_contrast]``, the change of the response with the contrast of each channel, both
        in the model's units; ``mei_contrast`` ``[channel]``, the contrasts at which the MEI itself is. Attributes: the
        neuron's label, and the norm of either channel at contrast 1.

    Raises:
        ValueError: if there is no such neuron or it has no MEI, the MEIs do not have two channels, one of the channels
            is zero, no contrasts are given, or the model does not fit.
        IndexError: if a session of the model has no such neuron.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 7)], max_steps=4, progress_bar=False)  # UV ON, green OFF
        >>> landscape = ml.chromatic_landscape("simulated", meis, "session_1/7", contrasts=[-1.0, 0.0, 1.0])
        >>> dict(landscape.response.sizes)
        {'green_contrast': 3, 'UV_contrast': 3}
        >>> highest = landscape.response.argmax(["green_contrast", "UV_contrast"])  # where both are as in the MEI
        >>> [float(landscape[name][place]) for name, place in highest.items()]
        [1.0, 1.0]
    """
    meis = meis.drop_encoding()
    model = load_model(model)
    names = meis["channel"].values.tolist()
    if len(names) != 2:
        raise InvalidValueError(f"A chromatic landscape needs stimuli of two channels; these have {', '.join(names)}.")
    grid = np.asarray(contrasts, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not np.isfinite(grid).all():
        raise InvalidValueError(f"contrasts={contrasts!r}: give at least one number.")
    position = position_of(meis, neuron)
    label = str(meis["neuron"].values[position])
    group = groups_of(meis.isel(neuron=[position]), model)[0]
    reducer = reducer or reducer_of(meis)
    mei = meis["stimulus"][position].values
    norms = np.linalg.norm(mei.reshape(2, -1).astype(np.float64), axis=1)
    if not np.isfinite(norms).all():
        raise InvalidValueError(f"Neuron {label!r} has no MEI: its status is '{meis['status'].values[position]}'.")
    if not norms.all():
        missing = names[int(norms.argmin())]
        raise InvalidValueError(
            f"The MEI of {label!r} is zero in channel {missing!r}, so there is no contrast to change."
        )
    mei_contrast = norms / np.sqrt(np.mean(norms**2))
    equalised = mei / mei_contrast[:, None, None, None]

    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    allowed = _within_limits(points, equalised, ranges_of(meis) if ranges is None else ranges)
    values = np.full((len(points), 3), np.nan)
    if allowed.any():
        shown = torch.from_numpy(points[allowed])
        channels = torch.from_numpy(equalised)

        def stimuli(numbers: list[int]) -> Tensor:
            return (shown[numbers][:, :, None, None, None] * channels).to(torch.from_numpy(mei).dtype)

        def response_and_gradient(objective: NeuronObjective, stimulus: Tensor) -> Tensor:
            with torch.enable_grad():
                stimulus = stimulus.requires_grad_()
                response = objective(stimulus)
                gradient = gradient_of(response.sum(), stimulus)
            along = (gradient * channels.to(gradient)).flatten(2).sum(dim=2)
            return torch.cat([response.detach()[:, None], along], dim=1)

        with frozen(model):
            prepared = prepare(model, (1, *mei.shape))
            objective = NeuronObjective(prepared, [list(group)] * len(shown), reducer)
            values[allowed] = predict_rows(
                objective,
                stimuli,
                response_and_gradient,
                title="Responses over contrasts",
                accelerator=accelerator,
                progress_bar=progress_bar,
            ).numpy()
    facts = {"neuron": label, "model": model.name, "channel_norm": float(np.sqrt(np.mean(norms**2)))}
    table = values.reshape(len(grid), len(grid), 3)
    return _landscape(table, grid, names, mei_contrast, repr(reducer)).assign_attrs(facts)


def _landscape(
    table: NDArray[Any], grid: NDArray[Any], names: Sequence[str], mei_contrast: NDArray[Any], reducer: str
) -> xr.Dataset:
    """The response and its gradients, ``[contrast, contrast, 3]``, with labels."""
    axes = [f"{name}_contrast" for name in names]
    return xr.Dataset(
        {
            "response": (axes, table[..., 0], {"units": "model units", "long_name": reducer}),
            "gradient": (
                ("channel", *axes),
                np.moveaxis(table[..., 1:], -1, 0),
                {"units": "model units", "long_name": "change of the response with the contrast of a channel"},
            ),
            "mei_contrast": ("channel", mei_contrast, {"units": "1", "long_name": "contrast of the MEI"}),
        },
        coords={"channel": names, **{axis: (axis, grid, {"units": "1"}) for axis in axes}},
    )


def _within_limits(
    points: NDArray[Any],
    equalised: NDArray[Any],
    ranges: Sequence[tuple[float | None, float | None] | None] | None,
) -> NDArray[Any]:
    """Which contrasts ``[points, 2]`` of two channels of equal norm keep to the ranges and the norm."""
    allowed = np.linalg.norm(points, axis=1) <= np.sqrt(2) * (1 + _ROUNDING)
    if ranges is None:
        return allowed
    if len(ranges) != 2:
        raise InvalidValueError(
            f"ranges={tuple(ranges)!r}: give one (low, high), or None, for each of the two channels."
        )
    low, high = (bound.double().numpy() for bound in range_bounds(ranges))
    extremes = np.stack([equalised.min(axis=(1, 2, 3)), equalised.max(axis=(1, 2, 3))])
    values = points[:, None, :] * extremes
    slack = _ROUNDING * np.abs(equalised).max(axis=(1, 2, 3))
    return allowed & ((values >= low - slack) & (values <= high + slack)).all(axis=(1, 2))
