"""Which of a neuron's rows go on: those of its starts, and of its best stimulus moved in time.

Values are the highest of each row so far, ``[neurons, rows]``, and the first rows of each neuron are its starts.
"""

import torch
from torch import Tensor

from mei_lightning.optimization.effort import TRIAL_STEPS

EQUAL = 1e-5
"""Relative difference up to which the values of a neuron's rows count as equal."""

_STARTS_MEET = 0.85
"""Cosine similarity above which a start is on its way to where a better row is."""
_SHIFTED_MEETS = 0.5
"""The same for a shifted stimulus, which has come back from where it was moved to."""

# How far a row may be behind, as a share of the best value. A neuron's rows have hardly more to gain than that.
_STEPS_TO_HOPE = TRIAL_STEPS // 2
_LAG_WITH_HOPE = 0.1
"""Of a start that is not among the best after so many steps."""
_STEPS_OF_FINALISTS = 12
_LAG_OF_FINALISTS = 0.03
_LAG_OF_SHIFTED = 0.02

# Of a stimulus moved by a frame, as shares of the best value.
_LAG_OF_NUDGED = 0.005
"""Up to which it is worth a step."""
_GAIN_OF_NUDGED = 0.002
"""Up to which it is not worth more."""


def handicapped(values: Tensor) -> Tensor:
    """Values by which to compare rows: where they are equal but for rounding, the first is best."""
    # Starts often end at the same optimum, and rounding must not choose among them.
    handicap = EQUAL * values.abs() * torch.arange(values.shape[1], device=values.device)
    return torch.where(values.isfinite(), values - handicap, values)


def ranks(values: Tensor) -> Tensor:
    """The ranks of each neuron's rows, ``[neurons, rows]``, 0 for the best; the first of those that are equal."""
    return handicapped(values).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def outdone_in_trial(values: Tensor, steps: Tensor, finalists: int) -> Tensor:
    """Starts whose trial ends now, and which are not among the finalists.

    Args:
        values: of the starts, ``[neurons, starts]``.
        steps: that they have taken, likewise.
        finalists: how many go on.

    Returns:
        Which starts, ``[neurons, starts]``.
    """
    return (steps == TRIAL_STEPS) & (ranks(values) >= finalists)


def far_behind(values: Tensor, steps: Tensor, starts: int, finalists: int) -> Tensor:
    """Rows that are so far behind the best one that they end.

    These are starts that would not be among the finalists if their trial ended in its middle, finalists after some
    more steps than the trial's, and shifted stimuli after as many as the trial's.

    Args:
        values: of all rows, ``[neurons, rows]``.
        steps: that they have taken, likewise.
        starts: how many of a neuron's rows are starts; the others are shifted.
        finalists: how many starts go on after the trial.

    Returns:
        Which rows, ``[neurons, rows]``.
    """
    behind = (steps >= TRIAL_STEPS) & _lags(values, _LAG_OF_SHIFTED)
    behind[:, :starts] = ((steps >= _STEPS_OF_FINALISTS) & _lags(values, _LAG_OF_FINALISTS))[:, :starts]
    hopeless = (steps == _STEPS_TO_HOPE) & _lags(values, _LAG_WITH_HOPE)
    behind[:, :starts] |= hopeless[:, :starts] & (ranks(values[:, :starts]) >= finalists)
    return behind


def nearly_as_good(values: Tensor, best: Tensor) -> Tensor:
    """Which stimuli moved by a frame are worth a step, by their values and their neurons' best ones, ``[rows]``."""
    return values >= best - _LAG_OF_NUDGED * best.abs()


def hardly_better(values: Tensor, starts: int) -> Tensor:
    """Which stimuli moved by a frame are not worth following.

    Args:
        values: of all rows, ``[neurons, rows]``.
        starts: how many of a neuron's rows are starts; the others are moved by a frame, and have made a step.

    Returns:
        Which rows, ``[neurons, rows]``.
    """
    best = values[:, :starts].amax(dim=1, keepdim=True)
    return values <= best + _GAIN_OF_NUDGED * best.abs()


def _lags(values: Tensor, share: float) -> Tensor:
    best = values.amax(dim=1, keepdim=True)
    return values < best - share * best.abs()


def better_rows(values: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Each of some rows with every better row of the same neuron.

    Args:
        values: of all rows, ``[neurons, rows]``.
        which: of them, likewise.

    Returns:
        The numbers of the rows, and of the better ones, among the rows of all neurons.
    """
    values = handicapped(values)
    numbers = torch.arange(values.numel(), device=values.device).view_as(values)
    pairs = []
    for other in range(1, values.shape[1]):
        worse = which & (values.roll(-other, dims=1) > values)
        pairs.append(torch.stack([numbers[worse], numbers.roll(-other, dims=1)[worse]]))
    own, better = torch.cat(pairs, dim=1)
    return own, better


def similarity_to_meet(starts: int, shifted: int, device: torch.device) -> Tensor:
    """The cosine similarity to a better row's stimulus above which a row ends, for each row of a neuron, ``[rows]``."""
    return torch.where(torch.arange(starts + shifted, device=device) < starts, _STARTS_MEET, _SHIFTED_MEETS)
