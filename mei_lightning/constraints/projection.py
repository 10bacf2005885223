"""The nearest stimulus that has a norm and lies within the range of each channel."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mei_lightning.acceleration.fused_projection import fused_projection
from mei_lightning.acceleration.rounding import summing_precision
from mei_lightning.acceleration.row_arithmetic import is_for_numpy, sums_of_squares

_MAX_PASSES = 40
"""Passes of the norm solver. Stimuli take 2-5; the hardest float32 rows that a random search found take 31."""
_PASSES_BETWEEN_WAITS = 4
_LEAST_GROWTH = 1e-12
"""Relative growth of the scale from one pass to the next that is no rounding."""
_FEW = 1 / 16
"""Share of a row's entries up to which a CPU treats those that are clipped one by one."""
_REACH = 1.5
"""It looks for entries that are clipped by a scale up to so many times the one that would do without bounds."""
_ROUNDING = 1e-6
"""Relative error of bounds in single precision, and more."""
_ENTRIES_OF_WORD = 8
"""Truth values that fit into 64 bits."""


@torch.no_grad()
def project_norm_and_range(
    stimulus: Tensor,
    norm: float | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    *,
    norm_is: Literal["fixed", "maximal"] = "fixed",
) -> Tensor:
    """Project each row onto an L2 norm and the range of each channel, both holding together.

    The Euclidean projection of x onto ``{|y| <= norm, low <= y <= high}`` is ``clip(s * x, low, high)`` with one
    number s in (0, 1] for the row. For a fixed norm, s > 0 is the number that makes ``|clip(s * x, low, high)|``
    equal to the norm, which maximises ``<x, y>`` among feasible y. The norm holds to 1e-6 (relative, float32).

    Args:
        stimulus: ``[rows, channels, time, height, width]``, float32 or float64.
        norm: L2 norm over all entries of a row, or None for none.
        bounds: ``(low, high)``, each ``[channels]``, as from `range_bounds`; with a norm, low <= 0 <= high. None for
            no range.
        norm_is: whether rows have that norm or at most that norm.

    Returns:
        A new tensor without gradient. A row that no s brings to a fixed norm (its signs ask for bounds that are too
        close to 0) becomes the limit for large s: within range, its norm as large as its signs allow. A row of zeros
        stays zero; a row with NaN stays not finite.
    """
    if norm is None and bounds is None:
        return stimulus.clone()
    rows = stimulus.detach().flatten(2)
    if bounds is not None:
        bounds = (bounds[0].to(rows)[:, None], bounds[1].to(rows)[:, None])
    if norm is None:
        return _clip(rows.clone(), bounds).view(stimulus.shape)
    largest_scale = 1.0 if norm_is == "maximal" else torch.finfo(rows.dtype).max
    if bounds is None:
        return _project(rows, norm, None, largest_scale).view(stimulus.shape)
    if not is_for_numpy(rows):
        project = fused_projection(rows, _project) or _project
        return project(rows, norm, bounds, largest_scale).view(stimulus.shape)
    low, high = (bound.double().numpy() for bound in bounds)
    found, solved = _project_few_clipped(rows.numpy(), norm, low, high, largest_scale)
    projected = torch.from_numpy(found)
    if not solved.all():
        left = torch.from_numpy(~solved)
        projected[left] = _project(rows[left], norm, bounds, largest_scale)
    return projected.view(stimulus.shape)


def _project(rows: Tensor, norm: float, bounds: tuple[Tensor, Tensor] | None, largest_scale: float) -> Tensor:
    """``clip(s * x)`` of rows ``[rows, channels, pixels]``, with the s up to a largest at which its norm is right.

    The energy ``|clip(s * x)|^2`` is a concave, piecewise linear function of s^2. Newton's method on it starts from
    the s that would do without bounds, never overshoots, and ends in finitely many steps.
    """
    return _clip(rows * _scale_to_norm(rows, norm, bounds, largest_scale), bounds)


def _clip(rows: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    """Clip rows in place."""
    if bounds is not None:
        torch.maximum(rows, bounds[0], out=rows)
        torch.minimum(rows, bounds[1], out=rows)
    return rows


def _project_few_clipped(
    rows: np.ndarray, norm: float, low: np.ndarray, high: np.ndarray, largest_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """``_project``, and for which rows that is what it is: those of which few entries are clipped.

    A pass over some entries takes no time, and NumPy does not hand them to another thread in between.
    """
    count, channels, pixels = rows.shape
    # What is made from others has their order in memory, and in another one entries would have other numbers.
    rows = np.ascontiguousarray(rows)
    with np.errstate(all="ignore"):
        squares = sums_of_squares(rows)
        sizes = np.sqrt(squares)
        scale = np.minimum(norm / sizes, largest_scale)
        reach = _REACH * scale[:, None, None]
        row, inside = _entries_outside(rows, (low / reach).astype(rows.dtype), (high / reach).astype(rows.dtype))
        few = np.bincount(row, minlength=count) <= _FEW * channels * pixels
        row, inside = row[few[row]], inside[few[row]]
        channel, entries = inside // pixels, row * (channels * pixels) + inside
        values = np.abs(rows.ravel()[entries], dtype=np.float64)
        bound = np.where(rows.ravel()[entries] < 0, -low[channel, 0], high[channel, 0])
        grows = few
        for _ in range(_MAX_PASSES):
            clipped = scale[row] * values > bound
            held = np.bincount(row, clipped * bound**2, count)
            free = squares - np.bincount(row, clipped * values**2, count)
            larger = np.minimum(np.sqrt((norm**2 - held) / free), largest_scale)
            grows = few & (larger > scale * (1 + _LEAST_GROWTH))
            scale = np.where(grows, larger, scale)
            if not grows.any():
                break
        # Where the scale is no larger than was reached for, all entries that are clipped have been found.
        solved = few & ~grows & (scale <= reach.ravel() * (1 - _ROUNDING)) & ~np.isnan(squares)
        projected = rows * scale.astype(rows.dtype)[:, None, None]
        projected.ravel()[entries] = np.clip(projected.ravel()[entries], low[channel, 0], high[channel, 0])
    return projected, solved


def _entries_outside(rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows ``[rows, channels, pixels]``, and of the entries in them, that are not in a range."""
    count, channels, pixels = rows.shape
    words = -(-channels * pixels // _ENTRIES_OF_WORD)
    outside = np.zeros((count, words * _ENTRIES_OF_WORD), dtype=bool)
    view = outside[:, : channels * pixels].reshape(rows.shape)
    np.less(rows, low, out=view)
    view |= rows > high
    # Several entries at a time, most of which are False.
    some = np.flatnonzero(outside.view(np.uint64))
    word, place = np.nonzero(outside.reshape(-1, _ENTRIES_OF_WORD)[some])
    row, word = np.divmod(some[word], words)
    return row, word * _ENTRIES_OF_WORD + place


def _scale_to_norm(rows: Tensor, norm: float, bounds: tuple[Tensor, Tensor] | None, largest_scale: float) -> Tensor:
    """The s ``[rows, 1, 1]`` of ``_project``, from passes over all entries."""
    largest = rows.abs().amax((1, 2), keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    scaled = rows / largest
    scale = (norm * _energy(scaled).rsqrt() / largest).clamp(max=largest_scale)
    if bounds is None:
        return scale

    tolerance = 4 * torch.finfo(rows.dtype).eps * norm**2
    clipped = torch.empty_like(scaled)
    for passes in range(1, _MAX_PASSES + 1):
        # Writing into two buffers, with maximum and minimum in place of clamp, makes a pass several times faster.
        torch.mul(rows, scale, out=scaled)
        torch.maximum(scaled, bounds[0], out=clipped)
        torch.minimum(clipped, bounds[1], out=clipped)
        unclipped = scaled.eq_(clipped).mul_(clipped)
        missing = norm**2 - _energy(clipped)
        free = _energy(unclipped)
        grows = (missing > tolerance) & (scale < largest_scale)
        scale = torch.where(grows, (scale * (1 + missing / free).sqrt()).clamp(max=largest_scale), scale)
        # A row that has stopped growing stays as it is, so leaving early changes no row. Other devices are asked more
        # rarely, since the host waits for them.
        if (rows.device.type == "cpu" or passes % _PASSES_BETWEEN_WAITS == 0) and not grows.any():
            break
    return scale


def _energy(values: Tensor) -> Tensor:
    """Sum of squares of each row; overwrites the values. Two sums are more accurate in float32 than one long sum."""
    precision = summing_precision(values)
    return values.square_().sum(2, keepdim=True, dtype=precision).sum(1, keepdim=True).to(values.dtype)
