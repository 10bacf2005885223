"""How far an MEI is determined: the curvature of the response on the constraint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.fast_model import FastModel
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.analysis.contribution import integrated_gradients
from mei_lightning.analysis.lanczos import extreme_eigenpairs
from mei_lightning.analysis.one_mei import RunFacts
from mei_lightning.analysis.populations import neurons_with_mei, types_of
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.analysis.sphere import Sphere, sphere_of
from mei_lightning.arguments import whole_number
from mei_lightning.constraints.masks import Mask, expanded, read_mask
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.gradients import gradient_of
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.loading import load_model
from mei_lightning.neurons import seed_of_row
from mei_lightning.objectives import NeuronObjective, Objective, Reducer
from mei_lightning.results.configuration import read_configuration
from mei_lightning.results.dataset import groups_of, reducer_of
from mei_lightning.starting_points.seeded_noise import initial_stimulus

ANGLE = 30.0
"""Degrees by which MEIs are turned."""

FALL = 0.05
"""A direction is free if the response falls by no more than this share of itself."""

_STEP = 1.0
"""Degrees to both sides of an MEI between which the gradient's difference is taken."""

_STIMULUS = ("channel", "time", "y", "x")


@in_usual_modes
def mei_curvature(
    model: nn.Module | str,
    meis: xr.Dataset,
    *,
    directions: int = 6,
    mask: Mask | None = None,
    reducer: Reducer | None = None,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """How fast the response falls as an MEI is turned, where it can be turned with little loss, and what it rests on.

    An MEI x of norm r is turned towards a stimulus u at right angles to it: ``x cos a + r u sin a`` with ``|u| = 1``,
    a great circle on the sphere of equal norm. The response f along it falls by ``curvature / 2 * a^2`` of itself, with
    a in radians and

    ``curvature = (g.x - r^2 u' H u) / f``,

    g the gradient and H the matrix of second derivatives at x (Berkes and Wiskott 2006, Neural Computation 18,
    1868-1895). Entries that a mask freezes, and those at a limit of the run's ranges that the response pushes further
    outwards, stay as they are; then ``g.x`` is that of the other entries times r^2 over their squared norm, and
    angles are those of the whole stimulus.

    For a linear neuron the curvature is 1 in all directions. For any other one it differs from
    ``linear_curvature = g.x / f`` only in those directions in which the response bends. The directions of least and
    largest curvature are found from a few products of H with vectors by Lanczos' method (Parlett 1998, "The Symmetric
    Eigenvalue Problem"). Each product is a difference of the gradients at 1 degree to both sides of the MEI: that needs
    no second derivatives, which parts of a model may not have, and sees the bends of rectifiers, whose second
    derivatives are 0. The outermost directions are the surest: in between, there are more than are found.

    The parabola holds for small angles. So the stimuli that are turned by 30 degrees in the found directions, to both
    sides, are shown to the model as well, and ``free_directions`` counts those directions in which both responses are
    at least 95 % of that to the MEI. They are at right angles to each other. There may be more: if all found directions
    are free, look for more of them. Where entries are not held at a limit, a turned stimulus may go beyond it. Other
    constraints than norm, ranges and mask do not hold it back, nor do parameterisations.

    Args:
        model: the model, or its name.
        meis: MEIs as from ``find_meis``.
        directions: how many to find. A neuron takes 4 gradients, and 2 gradients and 2 responses for each direction,
            by default as long as 20 to 25 steps of ``find_meis``.
        mask: that of the run, if it had one.
        reducer: how the response over time becomes a number; by default as in the run.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        Along ``neuron``, with NaN for neurons without an MEI:

        - ``free_directions``: the number of found directions that are free, NaN where so few entries are free that
          they cannot turn the stimulus by 30 degrees; and ``free_share``, an estimate of the share of all directions
          that are free by their curvature (stochastic Lanczos quadrature; Ubaru, Chen and Saad 2017).
        - ``linear_curvature``, ``lowest_curvature``, ``highest_curvature``.
        - ``curvature`` and ``curvature_error`` ``[neuron, turn]``, rising, of the found directions; there is a
          direction whose curvature is as close as the error. Below 0 the MEI is no maximum.
        - ``turned_response`` ``[neuron, turn, angle]``, as a share of that to the MEI, at -30 and 30 degrees.
        - ``least_determined``, ``most_determined`` ``[neuron, channel, time, y, x]``: the directions of the lowest and
          the highest curvature as stimuli of the MEI's norm, ``r u``.
        - ``contribution_in_space`` ``[neuron, channel, y, x]`` and ``contribution_in_time`` ``[neuron, channel,
          time]``: which pixels and times the response rests on, in the model's units: each entry times the mean of its
          gradient on the way from grey to the MEI (integrated gradients; Sundararajan, Taly and Yan 2017), over time
          and over space. Each sums to the response above that to grey, up to the error of a mean of 4 gradients.

        Coordinates ``session``, ``index``, and ``type`` if the model's neuron table has types.

    Raises:
        ValueError: if no MEI is there, the run had a mask that is not given, or the model does not fit.
        IndexError: if a session has no such neuron.
        TypeError: if ``directions`` is not a whole number.

    Example:
        >>> class Energy(torch.nn.Module):  # two filters, as of a complex cell: any mixture of them is an MEI
        ...     def forward(self, image):
        ...         return (image[:, 0, 0, :2] ** 2).sum(dim=1, keepdim=True)
        >>> model = ml.RetinaModel(Energy(), ml.StimulusFormat(("grey",), height=3, width=4))
        >>> meis = ml.find_meis(model, [0], norm=2.0, progress_bar=False)
        >>> found = ml.mei_curvature(model, meis, directions=3, progress_bar=False)
        >>> found.free_directions.item(), np.abs(found.curvature.values).round(2).tolist()  # an invariance
        (1.0, [[0.0, 2.0, 2.0]])
    """
    meis = meis.drop_encoding()
    retina = load_model(model)
    groups = groups_of(meis, retina)
    reducer = reducer or reducer_of(meis)
    directions = whole_number("directions", directions, 1)
    present = neurons_with_mei(meis)
    if not len(present):
        raise InvalidValueError("There is no curvature to measure: give at least one MEI that is done.")
    shape = tuple(meis.sizes[name] for name in _STIMULUS)
    limits = _Limits.of(meis, mask, shape)
    stimuli = meis["stimulus"].transpose("neuron", *_STIMULUS)
    prepared = prepare(retina, (1, *shape))
    found = predict_rows(
        NeuronObjective(prepared, [groups[number] for number in present], reducer),
        lambda rows: torch.from_numpy(stimuli[present[rows]].values),
        partial(_all_of_rows, limits=limits, directions=directions),
        title="Curvature at the MEIs",
        accelerator=accelerator,
        progress_bar=progress_bar,
    )
    sizes = {**{str(name): size for name, size in meis.sizes.items()}, "turn": directions, "angle": 2}
    values = _by_name(found, present, len(groups), sizes)
    return _labelled(values, meis, retina, reducer)


@dataclass(frozen=True)
class _Limits:
    """What keeps entries of stimuli ``[n]`` where they are.

    Args:
        bounds: their lowest and highest values; None if the run had no ranges.
        frozen: those that a mask freezes; None without one.
    """

    bounds: tuple[Tensor, Tensor] | None
    frozen: Tensor | None

    @classmethod
    def of(cls, meis: xr.Dataset, mask: Mask | None, shape: Sequence[int]) -> "_Limits":
        """Those of the run that has found some MEIs."""
        if mask is None and _has_mask(read_configuration(meis.attrs.get("configuration", "{}")).get("constraint")):
            raise InvalidValueError(
                "These MEIs were found with a mask, and which pixels it freezes decides where they can change: give "
                "it as mask=..., as to find_meis."
            )
        frozen = None if mask is None else ~expanded("mask", read_mask(mask), torch.Size(shape)).flatten()
        ranges = RunFacts.of(meis).ranges
        if ranges is None:
            return cls(None, frozen)
        low, high = torch.as_tensor(ranges)[:, :, None].expand(-1, -1, math.prod(shape[1:])).unbind(1)
        return cls((low.flatten(), high.flatten()), frozen)

    def sphere(self, stimuli: Tensor, gradient: Tensor) -> Sphere:
        """Where MEIs can change to, see ``sphere_of``."""
        bounds = None if self.bounds is None else (self.bounds[0].to(stimuli), self.bounds[1].to(stimuli))
        return sphere_of(stimuli, gradient, bounds, None if self.frozen is None else self.frozen.to(stimuli.device))


def _has_mask(setting: Any) -> bool:
    if isinstance(setting, Mapping):
        return any((name == "mask" and value is not None) or _has_mask(value) for name, value in setting.items())
    return isinstance(setting, list) and any(map(_has_mask, setting))


class _Answers:
    """Scores, and their gradients, of flat stimuli ``[rows, n]``."""

    def __init__(self, objective: NeuronObjective, stimuli: Tensor) -> None:
        in_blocks = (
            stimuli.device.type == "cpu"
            and isinstance(objective.model, FastModel)
            and objective.model.computes_in_blocks
        )
        self._objective: Objective = ObjectiveInBlocks(objective, range(len(stimuli))) if in_blocks else objective
        self._shape = stimuli.shape

    def scores(self, flat: Tensor) -> Tensor:
        scores: Tensor = self._objective(flat.view(self._shape))
        return scores.detach()

    def scores_and_gradient(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        stimuli = flat.detach().view(self._shape).clone().requires_grad_()
        with torch.enable_grad():
            scores = self._objective(stimuli)
            gradient = gradient_of(scores.sum(), stimuli)
        return scores.detach(), gradient.flatten(1)

    def gradient(self, flat: Tensor) -> Tensor:
        return self.scores_and_gradient(flat)[1]


_OF_ROW = {
    "score": (),
    "linear_curvature": (),
    "curvature": ("turn",),
    "curvature_error": ("turn",),
    "weight": ("turn",),
    "turned_response": ("turn", "angle"),
    "least_determined": _STIMULUS,
    "most_determined": _STIMULUS,
    "contribution_in_space": ("channel", "y", "x"),
    "contribution_in_time": ("channel", "time"),
}
"""What is computed of each row, in the order of the columns, with its dimensions."""


def _all_of_rows(objective: NeuronObjective, stimuli: Tensor, limits: _Limits, directions: int) -> Tensor:
    """All of ``_OF_ROW``, of each row one after the other, ``[rows, columns]``."""
    answers = _Answers(objective, stimuli)
    flat = stimuli.flatten(1)
    scores, gradient = answers.scores_and_gradient(flat)
    sphere = limits.sphere(flat, gradient)
    # Each divided by a score of 1 first, so that rows whose score is no measure of anything are found at last.
    share = torch.where(scores > 0, scores, torch.nan)[:, None]
    ratio = (sphere.norm / torch.where(sphere.radius > 0, sphere.radius, torch.nan)).square()
    linear = (gradient * sphere.moving).sum(dim=1, keepdim=True) * ratio
    step = torch.tensor(math.radians(_STEP)).to(flat)

    def product(vectors: Tensor) -> Tensor:
        apart = answers.gradient(sphere.turned(vectors, step)) - answers.gradient(sphere.turned(vectors, -step))
        bent = sphere.tangent(apart) * sphere.norm.square() / (2 * sphere.radius * step.sin())
        return (linear * vectors - bent) / share

    def noise(number: int) -> Tensor:
        seeds = [seed_of_row(0, group, number) for group in objective.groups]
        return sphere.tangent(initial_stimulus(seeds, stimuli.shape[1:]).to(flat).flatten(1))

    pairs = extreme_eigenpairs(product, noise, directions, sphere.dimensions)
    known = pairs.values.isfinite()
    signs = pairs.vectors.gather(2, pairs.vectors.abs().argmax(dim=2, keepdim=True)).sign()
    vectors = (pairs.vectors * signs).masked_fill(~known[:, :, None], torch.nan)
    angle = sphere.angle_of_free_entries(math.radians(ANGLE)).to(flat)
    turned = torch.stack(
        [
            answers.scores(sphere.turned(vectors[:, number], sign * angle).nan_to_num())
            for number in range(directions)
            for sign in (-1, 1)
        ],
        dim=1,
    )
    turned = (turned / share).masked_fill(~known.repeat_interleave(2, dim=1) | angle.isnan(), torch.nan)
    last = (known.sum(dim=1) - 1).clamp(min=0)
    contribution = integrated_gradients(answers.gradient, flat, gradient).view(stimuli.shape)
    columns = {
        "score": scores,
        "linear_curvature": linear / share,
        "curvature": pairs.values,
        "curvature_error": pairs.errors,
        "weight": pairs.weights,
        "turned_response": turned,
        "least_determined": vectors[:, 0] * sphere.norm,
        "most_determined": vectors[torch.arange(len(flat), device=flat.device), last] * sphere.norm,
        "contribution_in_space": contribution.sum(dim=2),
        "contribution_in_time": contribution.sum(dim=(3, 4)),
    }
    return torch.cat([columns[name].reshape(len(flat), -1) for name in _OF_ROW], dim=1)


def _by_name(found: Tensor, present: np.ndarray, neurons: int, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The columns of the neurons that have MEIs by name, ``[neurons, ...]``, NaN for the others."""
    shapes = {name: [sizes[dimension] for dimension in dimensions] for name, dimensions in _OF_ROW.items()}
    parts = found.split([math.prod(shape) for shape in shapes.values()], dim=1)
    values = {}
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        values[name] = np.full((neurons, *shape), np.nan, part.numpy().dtype)
        values[name][present] = part.numpy().reshape(-1, *shape)
    return values


def _labelled(values: dict[str, np.ndarray], meis: xr.Dataset, retina: RetinaModel, reducer: Reducer) -> xr.Dataset:
    curvature, turned, weights = values["curvature"], values["turned_response"], values.pop("weight")
    known = np.isfinite(turned).all(axis=2)
    free = (turned >= 1 - FALL).all(axis=2).sum(axis=1)
    falls = curvature / 2 * math.radians(ANGLE) ** 2 < FALL
    by_curvature = np.where(np.isfinite(curvature).any(axis=1), (weights * falls).sum(axis=1), np.nan)
    derived = {
        "free_directions": np.where(known.any(axis=1), free, np.nan),
        "free_share": by_curvature,
        "lowest_curvature": curvature[:, 0],
        "highest_curvature": np.fmax.reduce(curvature, axis=1),
    }
    variables = {
        name: (
            ("neuron", *_OF_ROW.get(name, ())),
            {**derived, **values}[name],
            {"long_name": long_name, "units": units},
        )
        for name, (long_name, units) in _WORDS.items()
    }
    labels: dict[str, Any] = {name: meis[name] for name in ("neuron", *_STIMULUS, "session", "index")}
    labels |= {"angle": ("angle", [-ANGLE, ANGLE], {"units": "degrees"})}
    if (types := types_of(meis, retina)) is not None:
        labels["type"] = ("neuron", types)
    return xr.Dataset(variables, labels, {**meis.attrs, "model": retina.name, "reducer": repr(reducer)})


_WORDS = {
    "free_directions": (f"found directions in which a turn by {ANGLE:g} degrees costs at most {FALL:.0%}", "1"),
    "free_share": ("estimated share of all directions that are free by their curvature", "1"),
    "linear_curvature": ("curvature where the response does not bend, 1 for a linear neuron", "1"),
    "lowest_curvature": ("curvature in the least determined direction", "1"),
    "highest_curvature": ("curvature in the most determined direction", "1"),
    "curvature": ("curvature in the found directions", "1"),
    "curvature_error": ("largest distance to the curvature of a direction", "1"),
    "turned_response": ("response to the turned MEI, as a share of that to the MEI", "1"),
    "least_determined": ("direction of the lowest curvature, of the MEI's norm", "model units"),
    "most_determined": ("direction of the highest curvature, of the MEI's norm", "model units"),
    "contribution_in_space": ("contribution of each pixel to the response above grey", "model units"),
    "contribution_in_time": ("contribution of each frame to the response above grey", "model units"),
}
"""What each variable is, and its unit."""
