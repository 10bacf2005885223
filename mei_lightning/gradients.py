"""The gradient of a stimulus, and of nothing else that it was computed with."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def gradient_of(total: Tensor, stimulus: Tensor) -> Tensor:
    """The gradient of a number with respect to a stimulus that it was computed from, a leaf; no other one is kept."""
    if not recomputes(total):
        return torch.autograd.grad(total, stimulus)[0]
    before, stimulus.grad = stimulus.grad, None
    try:
        _backward_alone(total, stimulus)
        assert stimulus.grad is not None
        return stimulus.grad
    finally:
        stimulus.grad = before


def backward(total: Tensor, stimulus: Tensor, recomputed: bool, **options: Any) -> None:
    """Take the gradient of a number as ``Tensor.backward`` does, into that of a stimulus and of no other leaf.

    Args:
        total: the number.
        stimulus: a leaf that it was computed from.
        recomputed: what ``recomputes`` says of it.
        options: of ``Tensor.backward``.
    """
    if recomputed:
        _backward_alone(total, stimulus, **options)
    else:
        total.backward(inputs=[stimulus], **options)


def recomputes(total: Tensor) -> bool:
    """Whether a part of what a number was computed by is ``checkpoint(..., use_reentrant=True)``.

    That refuses to leave leaves out. To find it takes a walk over the whole history of the number.
    """
    return any(type(node).__name__ == "CheckpointFunctionBackward" for node in _nodes(total))


def _backward_alone(total: Tensor, stimulus: Tensor, **options: Any) -> None:
    leaves = [node.variable for node in _nodes(total) if hasattr(node, "variable")]
    kept = [(leaf, leaf.grad) for leaf in leaves if leaf is not stimulus]
    for leaf, _ in kept:
        leaf.grad = None
    try:
        total.backward(**options)
    finally:
        for leaf, gradient in kept:
            leaf.grad = gradient


def _nodes(total: Tensor) -> Iterator[Any]:
    seen, left = set(), [total.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left.extend(before for before, _ in node.next_functions)
            yield node
