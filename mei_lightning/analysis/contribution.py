"""What each entry of a stimulus contributes to the response."""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import Legendre
from torch import Tensor

NODES = 4


def integrated_gradients(gradient: Callable[[Tensor], Tensor], stimuli: Tensor, at_stimuli: Tensor) -> Tensor:
    """The contribution of each entry to the score, on the way from grey to the stimuli.

    ``x_i`` times the mean of ``df / dx_i`` over all stimuli ``a x`` with a from 0 to 1 (integrated gradients;
    Sundararajan, Taly and Yan 2017, ICML). The sum over all entries is the score above that of grey. The mean is taken
    by the quadrature of Gauss and Radau with 4 nodes, of which one is the stimulus itself: it is exact where the
    gradient is a polynomial in a of up to degree 6.

    Args:
        gradient: of the scores, ``[rows, n]``, from stimuli ``[rows, n]``.
        stimuli: ``[rows, n]``.
        at_stimuli: the gradient there, which is known already.
    """
    contrasts, weights = radau(NODES)
    mean = weights[-1] * at_stimuli
    for contrast, weight in zip(contrasts[:-1], weights[:-1], strict=True):
        mean = mean + weight * gradient(contrast * stimuli)
    return stimuli * mean


def radau(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes from 0 to 1, rising, of which the last is 1, and weights with a sum of 1 (Gauss and Radau)."""
    lower, upper = Legendre.basis(nodes - 1), Legendre.basis(nodes)
    # Those from -1 to 1, of which the first is -1, turned round.
    roots = np.sort((lower + upper).roots().real)
    weights = np.append(2.0, (1 - roots[1:]) / lower(roots[1:]) ** 2) / nodes**2
    return [*((1 - roots[:0:-1]) / 2).tolist(), 1.0], (weights[::-1] / 2).tolist()
