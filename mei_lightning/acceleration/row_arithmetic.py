"""Arithmetic of rows, each for itself.

On a CPU NumPy does what takes PyTorch several times as long. A row's result is the same whatever other rows
there are.
"""

import math

import numpy as np
import torch
from torch import Tensor

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
    if not is_for_numpy(stimulus):
        return _exact_norms(stimulus)
    norms = torch.from_numpy(np.sqrt(sums_of_squares(stimulus.detach().numpy()))).to(stimulus.dtype)
    unsafe = norms.isnan()
    if unsafe.any():
        norms[unsafe] = _exact_norms(stimulus[unsafe])
    return norms


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """Cosine similarities ``[rows]``, without gradient, of stimuli ``[rows, ...]``; not a number for rows of zeros."""
    return inner_products(one, other) / (row_norms(one) * row_norms(other))


def put_rows(whole: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write values ``[len(rows), ...]`` into some rows, by their numbers, of a tensor ``[rows, ...]``, in place."""
    if is_for_numpy(whole):
        whole.detach().numpy()[rows.numpy()] = values.detach().numpy()
    else:
        whole.index_copy_(0, rows, values)


def _exact_norms(stimulus: Tensor) -> Tensor:
    precision = summing_precision(stimulus)
    return torch.linalg.vector_norm(stimulus.detach().flatten(1), dim=1, dtype=precision).to(stimulus.dtype)


def is_for_numpy(values: Tensor) -> bool:
    """Whether NumPy can compute with values where they are, in their own precision."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
