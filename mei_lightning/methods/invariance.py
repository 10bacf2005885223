"""Invariance paths: from one stimulus to another without a change of the response."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.methods.diverse import diverse_stimuli
from mei_lightning.methods.fitting import Beginning, dataset, fit_rows, from_meis
from mei_lightning.objectives import TargetLevelObjective
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.problem import Neurons
from mei_lightning.wording import first_few

TOLERANCE = 0.02
"""How far the response to a point of a path may be from the level, as a share of it, without a warning."""

_BULGES = (0.0, 0.5, 1.0)


@in_usual_modes
def find_invariance_paths(
    model: nn.Module | str,
    neurons: Neurons,
    points: int = 9,
    ends: Tensor | None = None,
    least: float = 0.85,
    max_steps: int = 100,
    **options: Any,
) -> xr.Dataset:
    """Find stimuli between two stimuli of a neuron that all give the same response.

    A path begins as the curve ``(a + b) / 2 + cos(pi t) d + h sin(pi t) |d| n`` between the ends a and b, with
    ``d = (a - b) / 2`` and n a direction at right angles to both, from noise. It is straight for h = 0, and for h = 1 a
    half circle, on which the response of a linear neuron is constant if n is nothing to it. Of h = 0, 1/2 and 1 the one
    with the least change of the response is taken. Then each point, on its own, is projected onto the constraint and
    moved in small steps until the response has the level of the path (``TargetLevelObjective``). These paths lie on
    the surface of constant response, of which Baroni et al. 2022 (NeurReps, "Learning invariance manifolds of visual
    sensory neurons") learn a larger part.

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``.
        points: how many stimuli a path has, with its ends.
        ends: ``[neurons, 2, channels, time, height, width]``, in the model's units; by default two stimuli as
            different as possible, as from ``find_diverse_stimuli``.
        least: the share of the MEI's response that the default ends reach.
        max_steps: the most steps that each point takes, and each default end.
        options: as for ``find_meis``: time_steps, norm, rms, ranges, mask, reducer, constraint, search, seed,
            directory, progress_bar.

    Returns:
        A dataset over ``neuron, point, channel, time, y, x`` of ``stimulus``; ``score``, the response to each;
        ``level`` ``[neuron]``, the response that the path keeps: the lower one of the two ends' (the other end is
        moved to it); ``step`` ``[neuron, between]``, the cosine between successive stimuli.

    Raises:
        ValueError: if an argument does not fit, or the ends have another shape than the MEIs.
        IndexError: if a session has no such neuron.
        TypeError: if an option is none of these.

    Example:
        >>> on_off = [("session_1", 4)]
        >>> path = ml.find_invariance_paths(
        ...     "simulated", on_off, points=3, max_steps=40, search="quick", progress_bar=False
        ... )
        >>> bool(abs(path.score / path.level - 1).max() < 0.02)  # the response stays the same
        True
    """
    if points < 3:
        raise InvalidValueError(f"points={points}: a path has two ends and at least one point between them.")
    with from_meis(model, neurons, **options) as begun:
        pairs = _ends(begun, ends, least, max_steps)
        number = len(begun.problem.groups)
        of_row = [neuron for neuron in range(number) for _ in range(points)]
        level = begun.responses([n for n in range(number) for _ in range(2)], pairs.flatten(0, 1)).view(-1, 2).amin(1)
        starts = _least_varying(begun, pairs, points, level)
        objective = TargetLevelObjective(
            begun.stepping().model,
            [list(begun.problem.groups[neuron]) for neuron in of_row],
            begun.objective.response_reducer,
            level[of_row].tolist(),
        )
        path = fit_rows(
            objective,
            lambda row: starts[row],
            len(of_row),
            at_a_time=rows_that_fit(begun.objective, pairs[0, :1], torch.device("cpu")),
            constraint=begun.constraint,
            max_steps=max_steps,
            optimizer=partial(AdaptivePowerMethod, start=0.02, smallest=1e-4),
        )
        scores = begun.responses(of_row, path).view(-1, points)
    _warn_of_points_off_the_path(begun, scores, level)
    flat = path.view(number, points, -1)
    variables = {
        "stimulus": begun.labelled("point", path),
        "score": (("neuron", "point"), scores.numpy()),
        "level": ("neuron", level.numpy()),
        "step": (("neuron", "between"), torch.cosine_similarity(flat[:, 1:], flat[:, :-1], dim=2).numpy()),
    }
    return dataset(begun, variables)


def _ends(begun: Beginning, ends: Tensor | None, least: float, max_steps: int) -> Tensor:
    """The ends of each neuron's path, ``[neurons, 2, channels, time, height, width]``."""
    meis = begun.stimuli
    if ends is None:
        return diverse_stimuli(begun, 2, least, max_steps).unflatten(0, (-1, 2))
    if ends.shape != (len(meis), 2, *meis.shape[1:]):
        raise InvalidValueError(f"ends of shape {tuple(ends.shape)} should be {(len(meis), 2, *meis.shape[1:])}.")
    return begun.constraint(ends.to(meis).flatten(0, 1)).unflatten(0, (-1, 2))


def _least_varying(begun: Beginning, pairs: Tensor, points: int, level: Tensor) -> Tensor:
    """The starts of all points ``[neurons * points, ...]``, on the curves whose response is nearest to the level."""
    number = len(pairs)
    middle, half = pairs.flatten(2).mean(dim=1), (pairs[:, 0] - pairs[:, 1]).flatten(1) / 2
    noise = torch.stack([begun.noise(neuron, 0) for neuron in range(number)]).flatten(1)
    aside = torch.linalg.qr(torch.stack([middle, half, noise], dim=2)).Q[:, :, 2] * half.norm(dim=1, keepdim=True)
    angle = torch.linspace(0, torch.pi, points)[:, None]
    of_row = [neuron for neuron in range(number) for _ in range(points)]
    curves, distances = [], []
    for bulge in _BULGES:
        curve = middle[:, None] + angle.cos() * half[:, None] + bulge * angle.sin() * aside[:, None]
        curve = begun.constraint(curve.view(-1, *pairs.shape[2:]))
        responses = begun.responses(of_row, curve).view(number, points)
        curves.append(curve.unflatten(0, (number, points)))
        distances.append((responses - level[:, None]).abs().amax(dim=1))
    best = torch.stack(distances).argmin(dim=0)
    return torch.stack(curves)[best, torch.arange(number)].flatten(0, 1)


def _warn_of_points_off_the_path(begun: Beginning, scores: Tensor, level: Tensor) -> None:
    off = ((scores - level[:, None]).abs() > TOLERANCE * level[:, None].abs()).any(dim=1)
    if off.any():
        names: Sequence[str] = begun.meis["neuron"].values[off.numpy()].tolist()
        rank_zero_warn(
            f"The response is not constant on the path of {first_few(names)}: some points are more than "
            f"{TOLERANCE:.0%} off its level. Take more steps (max_steps), or ends that are less different."
        )
