"""The kernel of ``fused_projection``, in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_PASSES = 40
"""Passes of Newton's method. Stimuli take 2-5."""
_ENTRIES_AT_A_TIME = 2048
_WARPS = 8


def project_rows(rows: Tensor, norm: float, bounds: tuple[Tensor, Tensor], largest_scale: float) -> Tensor:
    """``clip(s * x)`` of rows, with the s up to a largest at which its norm is right: as ``project_norm_and_range``.

    Args:
        rows: ``[rows, channels, pixels]`` of 32-bit numbers.
        norm: of each row.
        bounds: low and high, each ``[channels, 1]``.
        largest_scale: the largest s.
    """
    rows = rows.contiguous()
    projected = torch.empty_like(rows)
    low, high = (bound.contiguous() for bound in bounds)
    count, channels, pixels = rows.shape
    if count:
        project_row[(count,)](
            rows,
            projected,
            low,
            high,
            float(norm),
            largest_scale,
            pixels,
            channels * pixels,
            PASSES=MAX_PASSES,
            BLOCK=_ENTRIES_AT_A_TIME,
            num_warps=_WARPS,
        )
    return projected


@triton.jit
def clipped(rows, low, high, entry, entries, pixels, scale):  # type: ignore[no-untyped-def]
    """Some entries of a row times a scale, and the same clipped; 0 beyond its end."""
    inside = entry < entries
    value = tl.load(rows + entry, mask=inside, other=0).to(tl.float64) * scale
    channel = entry // pixels
    lowest = tl.load(low + channel, mask=inside, other=0).to(tl.float64)
    highest = tl.load(high + channel, mask=inside, other=0).to(tl.float64)
    kept = tl.maximum(value, lowest, propagate_nan=tl.PropagateNan.ALL)
    return value, tl.minimum(kept, highest, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def project_row(  # type: ignore[no-untyped-def]
    rows, projected, low, high, norm, largest_scale, pixels, entries, PASSES: tl.constexpr, BLOCK: tl.constexpr
):
    """A row for each program: from the second pass on, it is read from the cache. Sums are in double precision."""
    rows += tl.program_id(0).to(tl.int64) * entries
    projected += tl.program_id(0).to(tl.int64) * entries
    lanes = tl.arange(0, BLOCK)
    double = tl.zeros([], tl.float64)
    energy = (double + norm) * (double + norm)
    largest = double + largest_scale

    squares = tl.zeros([BLOCK], tl.float64)
    for start in range(0, entries, BLOCK):
        value = tl.load(rows + start + lanes, mask=start + lanes < entries, other=0).to(tl.float64)
        squares += value * value
    scale = tl.minimum(tl.sqrt(energy / tl.sum(squares)), largest, propagate_nan=tl.PropagateNan.ALL)

    grows = scale < largest
    passes = 0
    while grows & (passes < PASSES):
        held = tl.zeros([BLOCK], tl.float64)
        free = tl.zeros([BLOCK], tl.float64)
        for start in range(0, entries, BLOCK):
            value, kept = clipped(rows, low, high, start + lanes, entries, pixels, scale)
            held += tl.where(kept == value, 0.0, kept * kept)
            free += tl.where(kept == value, value * value, 0.0)
        left = tl.sum(free)
        larger = tl.minimum(scale * tl.sqrt((energy - tl.sum(held)) / left), largest)
        grows = (left > 0) & (larger > scale * (1 + 1e-9))
        scale = tl.where(grows, larger, scale)
        passes += 1

    for start in range(0, entries, BLOCK):
        _, kept = clipped(rows, low, high, start + lanes, entries, pixels, scale)
        tl.store(projected + start + lanes, kept, mask=start + lanes < entries)
