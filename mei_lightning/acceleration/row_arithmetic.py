"""Arithmetic of rows, each for itself, on a CPU a few rows at a time on each thread.

On a CPU NumPy does what takes PyTorch several times as long. A row's result is the same whatever other rows
there are.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mei_lightning.acceleration.blocks import map_row_chunks
from mei_lightning.acceleration.rounding import summing_precision

_SAFE_SQUARES = 1e-30, 1e38
"""Sums of squares in single precision that lie in between have lost nothing that counts."""
_PARTS = 32
"""Into how many parts a row is divided, if it can be, so that adding up many numbers loses no digits."""


def per_row(values: Tensor, stimulus: Tensor) -> Tensor:
    """Values ``[rows]`` shaped so that they broadcast over stimuli ``[rows, ...]``."""
    return values.view(-1, *[1] * (stimulus.ndim - 1))


def inner_products(one: Tensor, other: Tensor) -> Tensor:
    """Inner products ``[rows]``, without gradient, of stimuli ``[rows, ...]``."""
    one, other = one.detach().flatten(1), other.detach().flatten(1)
    return fill_rows(one.new_empty(len(one)), lambda part: _inner_products(one[part], other[part]))


def _inner_products(one: Tensor, other: Tensor) -> Tensor:
    if is_for_numpy(one):
        # What is not finite is no reason for a warning here: a module ends such rows, and says so.
        with np.errstate(over="ignore", invalid="ignore"):
            return torch.from_numpy(_products(one.numpy(), other.numpy()).astype(one.numpy().dtype))
    return (one * other).sum(dim=1, dtype=summing_precision(one)).to(one.dtype)


def sums_of_squares(rows: np.ndarray) -> np.ndarray:
    """Sums of squares ``[rows]``, in double precision, of values ``[rows, ...]``; NaN if their squares lose digits."""
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):
        squares = _products(flat, flat)
    least, largest = _SAFE_SQUARES
    return np.where((squares > least) & (squares < largest), squares, np.nan)


def _products(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Inner products ``[rows]`` of values ``[rows, n]``: of parts of rows, in their precision, added in double."""
    parts = math.gcd(one.shape[1], _PARTS)
    lengths = len(one) * parts, one.shape[1] // parts
    products = np.matmul(one.reshape(lengths)[:, None, :], other.reshape(lengths)[:, :, None])
    sums: np.ndarray = products.reshape(len(one), parts).sum(axis=1, dtype=np.float64)
    return sums


def row_norms(stimulus: Tensor) -> Tensor:
    """L2 norms ``[rows]``, without gradient, of stimuli ``[rows, ...]``."""
    stimulus = stimulus.detach()
    return fill_rows(stimulus.new_empty(len(stimulus)), lambda part: _norms(stimulus[part]))


def _norms(stimulus: Tensor) -> Tensor:
    if not is_for_numpy(stimulus):
        return _exact_norms(stimulus)
    norms = torch.from_numpy(np.sqrt(sums_of_squares(stimulus.numpy()))).to(stimulus.dtype)
    unsafe = norms.isnan()
    if unsafe.any():
        norms[unsafe] = _exact_norms(stimulus[unsafe])
    return norms


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarities ``[rows]``, without gradient, of stimuli ``[rows, ...]``; not a number for rows of zeros."""
    return inner_products(one, other) / (row_norms(one) * row_norms(other))


def put_rows(whole: Tensor, rows: Tensor, values: Tensor | Callable[[slice], Tensor]) -> None:
    """Write values into some rows of a tensor, in place.

    Args:
        whole: ``[rows, ...]``.
        rows: the numbers of those to write.
        values: ``[len(rows), ...]``, or a function that makes those of some of them, a slice of ``rows``: what it
            reads of a few rows stays in the cache. It may be called from several threads.
    """
    make = values.detach().__getitem__ if isinstance(values, Tensor) else values

    def put(part: slice) -> None:
        if is_for_numpy(whole):
            whole.detach().numpy()[rows[part].numpy()] = make(part).numpy()
        else:
            whole.index_copy_(0, rows[part], make(part))

    map_row_chunks(put, len(rows), whole.device)


def fill_rows(whole: Tensor, make: Callable[[slice], Tensor]) -> Tensor:
    """Write all rows of a tensor, in place, and return it.

    Args:
        whole: ``[rows, ...]``.
        make: makes those of a slice of the rows. It may be called from several threads.
    """

    def fill(part: slice) -> None:
        whole[part] = make(part)

    map_row_chunks(fill, len(whole), whole.device)
    return whole


def _exact_norms(stimulus: Tensor) -> Tensor:
    precision = summing_precision(stimulus)
    return torch.linalg.vector_norm(stimulus.flatten(1), dim=1, dtype=precision).to(stimulus.dtype)


def is_for_numpy(values: Tensor) -> bool:
    """Whether NumPy can compute with values where they are, in their own precision."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
