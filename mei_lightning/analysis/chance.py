"""The chance that a better optimum than the best of several runs has been missed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_EQUAL = 0.005
"""Share of a score within which two runs count as having found the same optimum."""


def chance_of_better(scores: Array) -> Array:
    """The chance that there is a stimulus with a score over 1 % higher than that of the best of several runs.

    It is estimated from how many of ``n`` runs have found the best known optimum: ``k`` with a score within 0.5 % of
    the best. A run is taken to find the best optimum of a neuron with a probability ``p``, the second best with
    ``p (1 - p)``, and so on. Before anything is known, the density of ``p`` is ``6 p (1 - p)``: most neurons are
    neither easy nor hopeless. The chance that all runs have missed the best optimum is then the mean of ``(1 - p)^n``
    over ``p`` from 0 to 1 with the weights ``p^(k + 1) (1 - p)^(n - k + 1) / (1 - (1 - p)^n)``. With four runs it is
    0.28, 0.13, 0.05 and 0.02 for ``k`` = 1, 2, 3, 4.

    Args:
        scores: ``[runs, neurons]`` of runs that differ in their starts only, NaN where one is unknown.

    Returns:
        ``[neurons]``; NaN where fewer than two scores are known, or the best is not positive.

    Example:
        >>> scores = np.array([[1.0, 1.0], [1.0, 0.9], [1.0, 0.8], [1.0, 0.95]])
        >>> chance_of_better(scores).round(2).tolist()  # all found the same; only one found the best
        [0.02, 0.28]
    """
    known = np.isfinite(scores)
    runs = known.sum(axis=0)
    best = np.fmax.reduce(scores, axis=0)
    usable = (runs >= 2) & (best > 0)
    with np.errstate(invalid="ignore"):
        found = (scores >= (1 - _EQUAL) * best).sum(axis=0)
    chance = np.full(len(best), np.nan)
    for k, n in set(zip(found[usable].tolist(), runs[usable].tolist(), strict=True)):
        chance[usable & (found == k) & (runs == n)] = _missed(k, n)
    return chance


def _missed(found: int, runs: int) -> float:
    """The chance that so many runs have missed the best optimum, if some have found the best known one."""
    # Midpoints of equal intervals of p, whose mean is the integral.
    p = (np.arange(2000) + 0.5) / 2000
    weights = p ** (found + 1) * (1 - p) ** (runs - found + 1) / (1 - (1 - p) ** runs)
    return float((weights * (1 - p) ** runs).sum() / weights.sum())
