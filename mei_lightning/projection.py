"""The nearest stimulus that has a norm and lies within the range of each channel."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mei_lightning.rounding import summing_precision
from mei_lightning.rows import is_for_numpy

_MAX_PASSES = 40
"""Passes of the norm solver. Stimuli take 2-5; the hardest float32 rows that a random search found take 31."""
_LEAST_GROWTH = 1e-12
"""Relative growth of the scale from one pass to the next that is no rounding."""
_FEW = 1 / 16
"""Share of a row's entries up to which a processor treats those that are clipped one by one."""
_REACH = 1.5
"""It looks for entries that are clipped by a scale up to so many times the one that would do without bounds."""


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
    rows = stimulus.flatten(2)
    if bounds is not None:
        bounds = (bounds[0].to(rows)[:, None], bounds[1].to(rows)[:, None])
    if norm is None:
        projected = rows.clone()
    else:
        largest_scale = 1.0 if norm_is == "maximal" else torch.finfo(rows.dtype).max
        projected = rows * _scale_to_norm(rows, norm, bounds, largest_scale)
    if bounds is not None:
        torch.maximum(projected, bounds[0], out=projected)
        torch.minimum(projected, bounds[1], out=projected)
    return projected.view(stimulus.shape)


def _scale_to_norm(rows: Tensor, norm: float, bounds: tuple[Tensor, Tensor] | None, largest_scale: float) -> Tensor:
    """The s ``[rows, 1, 1]``, up to a largest, with ``|clip(s * x)| = norm`` for ``[rows, channels, pixels]``.

    The energy ``|clip(s * x)|^2`` is a concave, piecewise linear function of s^2. Newton's method on it starts from
    the s that would do without bounds, never overshoots, and ends in finitely many steps.
    """
    if bounds is None or not is_for_numpy(rows):
        return _scale_all_entries(rows, norm, bounds, largest_scale)
    low, high = (bound.double().numpy() for bound in bounds)
    found = _scale_few_clipped(rows.detach().numpy(), norm, low, high, largest_scale)
    scale = torch.from_numpy(found).to(rows.dtype).view(-1, 1, 1)
    left = scale.isnan().flatten()
    if left.any():
        scale[left] = _scale_all_entries(rows[left], norm, bounds, largest_scale)
    return scale


def _scale_few_clipped(
    rows: np.ndarray, norm: float, low: np.ndarray, high: np.ndarray, largest_scale: float
) -> np.ndarray:
    """``_scale_to_norm`` of rows of which few entries are clipped, ``[rows]``; NaN for the others.

    A pass over some entries takes no time, and NumPy does not hand them to another thread in between.
    """
    count, channels, pixels = rows.shape
    sizes = torch.linalg.vector_norm(torch.from_numpy(rows).flatten(1), dim=1, dtype=torch.float64).numpy()
    with np.errstate(all="ignore"):
        scale = np.minimum(norm / sizes, largest_scale)
        reach = np.minimum(_REACH * scale, largest_scale)
        # Bounds of entries as they are, before scaling.
        outside = rows < (low / reach[:, None, None]).astype(rows.dtype)
        outside |= rows > (high / reach[:, None, None]).astype(rows.dtype)
        few = np.count_nonzero(outside, axis=(1, 2)) <= _FEW * channels * pixels
        outside[~few] = False
        entries = np.flatnonzero(outside)
        row, channel = entries // (channels * pixels), entries // pixels % channels
        values = rows.ravel()[entries].astype(np.float64)
        bound = np.where(values < 0, low[channel, 0], high[channel, 0])
        grows = few
        for _ in range(_MAX_PASSES):
            clipped = scale[row] * np.abs(values) > np.abs(bound)
            held = np.bincount(row, clipped * bound**2, count)
            free = sizes**2 - np.bincount(row, clipped * values**2, count)
            larger = np.minimum(np.sqrt((norm**2 - held) / free), largest_scale)
            grows = few & (larger > scale * (1 + _LEAST_GROWTH))
            scale = np.where(grows, larger, scale)
            if not grows.any():
                break
        solved = few & ~grows & (scale <= reach) & np.isfinite(sizes)
    return np.where(solved, scale, np.nan)


def _scale_all_entries(rows: Tensor, norm: float, bounds: tuple[Tensor, Tensor] | None, largest_scale: float) -> Tensor:
    """``_scale_to_norm`` with passes over all entries."""
    largest = rows.abs().amax((1, 2), keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    scaled = rows / largest
    scale = (norm * _energy(scaled).rsqrt() / largest).clamp(max=largest_scale)
    if bounds is None:
        return scale

    tolerance = 4 * torch.finfo(rows.dtype).eps * norm**2
    clipped = torch.empty_like(scaled)
    for _ in range(_MAX_PASSES):
        # Writing into two buffers, with maximum and minimum in place of clamp, makes a pass several times faster.
        torch.mul(rows, scale, out=scaled)
        torch.maximum(scaled, bounds[0], out=clipped)
        torch.minimum(clipped, bounds[1], out=clipped)
        unclipped = scaled.eq_(clipped).mul_(clipped)
        missing = norm**2 - _energy(clipped)
        free = _energy(unclipped)
        grows = (missing > tolerance) & (scale < largest_scale)
        scale = torch.where(grows, (scale * (1 + missing / free).sqrt()).clamp(max=largest_scale), scale)
        # A row that has stopped growing stays as it is, so leaving early changes no row. Elsewhere than on the CPU,
        # asking would make the host wait for the device.
        if rows.device.type == "cpu" and not grows.any():
            break
    return scale


def _energy(values: Tensor) -> Tensor:
    """Sum of squares of each row; overwrites the values. Two sums are more accurate in float32 than one long sum."""
    precision = summing_precision(values)
    return values.square_().sum(2, keepdim=True, dtype=precision).sum(1, keepdim=True).to(values.dtype)
