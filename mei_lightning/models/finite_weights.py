"""Gradients past weights that are not finite, such as those of one neuron whose fit has failed."""

import weakref
from copy import deepcopy

import torch
from torch import Tensor, nn

_HAS_OTHERS: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
"""Whether a model has weights that are not finite, by what they were when it was first asked."""


def with_finite_weights(model: nn.Module) -> nn.Module | None:
    """A copy of a model with 1 in place of weights that are not finite, which shares all others with the model.

    A gradient goes back through the weights of all neurons that a network answers for, of unwanted ones as a zero. That
    times a weight that is not finite is not a number, in the gradients of all neurons; times any other it stays zero,
    and by 1 one can also divide.

    Returns:
        None if all weights are finite, or the model cannot be copied.
    """
    if model not in _HAS_OTHERS:
        _HAS_OTHERS[model] = not all(values.isfinite().all() for values in _weights(model))
    if not _HAS_OTHERS[model]:
        return None
    try:
        return deepcopy(model, {id(values): _finite(values) for values in _weights(model)}).eval()
    except Exception:
        # A user's module may hold anything: files, locks, handles of other libraries.
        return None


def _weights(model: nn.Module) -> list[Tensor]:
    return [
        values
        for values in (*model.parameters(), *model.buffers())
        if values.is_floating_point() and values.layout is torch.strided
    ]


def _finite(values: Tensor) -> Tensor:
    if values.isfinite().all():
        return values
    finite = values.detach().nan_to_num(nan=1.0, posinf=1.0, neginf=1.0)
    return nn.Parameter(finite, requires_grad=False) if isinstance(values, nn.Parameter) else finite
