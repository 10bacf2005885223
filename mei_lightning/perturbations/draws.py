"""Random numbers of each row and step, that depend on nothing else and are drawn where the stimulus is.

They come from a counter in place of a generator's state: the n-th number of a key mixes the bits of key and n, as
SplitMix64 does (Steele, Lea and Flood 2014, OOPSLA, "Fast splittable pseudorandom number generators"). So there is no
state to save, nothing to wait for, and integer arithmetic is the same on every device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.acceleration.rounding import summing_precision


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def keys_of(seeds: Tensor, steps: Tensor, part: int) -> Tensor:
    """A key ``[rows]`` for each row and step.

    Args:
        seeds: of the rows, ``[rows]`` of int64.
        steps: that each row has taken, ``[rows]``.
        part: what the key is for: the parts of one step have different keys.
    """
    keys = _mixed(seeds + _GOLDEN)
    keys = _mixed(keys + (steps.long() + 1) * _GOLDEN)
    return bits(keys, part + 1)[:, part]


def bits(keys: Tensor, count: int) -> Tensor:
    """So many 64-bit numbers ``[rows, count]`` of each key: SplitMix64 from the key as its seed."""
    counter = torch.arange(1, count + 1, device=keys.device)
    return _mixed(keys[:, None] + counter * _GOLDEN)


def integers(keys: Tensor, bounds: Sequence[tuple[int, int]]) -> Tensor:
    """An integer for each pair of bounds, ``[rows, bounds]``, all from the first to the second being equally likely."""
    columns = _shifted(bits(keys, len(bounds)), 33).unbind(dim=1)
    drawn = [low + (column * (high - low + 1) >> 31) for column, (low, high) in zip(columns, bounds, strict=True)]
    return torch.stack(drawn, dim=1)


def normals(keys: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Normally distributed numbers ``[rows, count]`` of mean 0 and variance 1 (Box and Muller 1958).

    On a CPU they are computed in double precision, so that they round to the same whatever rows there are.
    """
    pairs = bits(keys, -(-count // 2))
    precision = summing_precision(torch.empty(0, dtype=dtype, device=keys.device))
    # Half a unit off, for the logarithm of 0 is not finite.
    first = (_shifted(pairs, 32).to(precision) + 0.5) / 2**32
    angle = (pairs & 0xFFFFFFFF).to(precision) * (2 * math.pi / 2**32)
    radius = (-2 * first.log()).sqrt()
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].to(dtype)


def _shifted(values: Tensor, places: int) -> Tensor:
    """Bits moved to the right, with zeros from the left."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * _FIRST
    values = (values ^ _shifted(values, 27)) * _SECOND
    return values ^ _shifted(values, 31)
