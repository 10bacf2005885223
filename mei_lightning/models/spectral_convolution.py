"""Convolutions with fixed weights as a few matrix products, in the frequency domain of their first axes.

Arrays have the layout ``[time, height, width, channels, rows]``. With the rows innermost, each step from pixels to
frequencies, from the input's frequencies to the output's, and back, is one matrix product of large matrices, whose
result needs no rearrangement before the next one. The gradient goes the same way back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_AXES = 3
_MOST_WEIGHTS = 2**25
"""Entries of the matrices of a convolution: with more than that, reading them takes longer than it saves."""


@dataclass(frozen=True)
class Convolution:
    """A convolution ``[batch, channels, time, height, width]`` with zeros around its input, as ``torch.conv3d`` does.

    Args:
        weight: ``[channels out, channels in, frames, rows, columns]``, in double precision on the CPU.
        bias: ``[channels out]``, likewise.
        stride: of each axis.
        padding: zeros before and after the input, for each axis.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[tuple[int, int], ...] = ((0, 0),) * _AXES

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Frames, rows and columns of the output for an input of ``size``."""
        return tuple(
            (length + sum(padding) - kernel) // stride + 1
            for length, padding, kernel, stride in zip(
                size, self.padding, self.weight.shape[2:], self.stride, strict=True
            )
        )


class SpectralConvolution(nn.Module):
    """A convolution of inputs of one size, exact but for rounding.

    The input is taken to be periodic, padded with as many zeros as keep the output from seeing its other end. Along
    the last axes, the ones that are not transformed, the convolution is a matrix of its own for each frequency.
    The matrices are in double precision on the CPU until the module is moved.

    Args:
        convolution: what to compute.
        size: frames, rows and columns of the input.
        spectral_axes: how many axes are transformed: 1 (time), 2 (and height) or 3 (and width).
    """

    frequency_weights: Tensor
    frequency_bias: Tensor

    def __init__(self, convolution: Convolution, size: Sequence[int], spectral_axes: int) -> None:
        super().__init__()
        self.size = tuple(size)
        self.spectral_axes = spectral_axes
        self.output_size = convolution.output_size(size)
        self.channels_out, self.channels_in = convolution.weight.shape[:2]
        lengths = [length + max(padding) for length, padding in zip(self.size, convolution.padding, strict=True)][
            :spectral_axes
        ]
        self.frequencies = [lengths[0] // 2 + 1, *lengths[1:]]
        matrices = {"frequency_weights": _weights_of_frequencies(convolution, self.size, lengths)}
        for axis, length in enumerate(lengths):
            places = torch.arange(self.output_size[axis]) * convolution.stride[axis] - convolution.padding[axis][0]
            analysis, synthesis = (_real_transform if axis == 0 else _complex_transform)(length, size[axis], places)
            matrices |= {f"analysis_{axis}": analysis, f"synthesis_{axis}": synthesis}
        # A bias is the same everywhere, so that it is all in the frequency 0.
        dense_size = math.prod(self.output_size[spectral_axes:])
        matrices["frequency_bias"] = (math.prod(lengths) * convolution.bias).repeat(dense_size)[:, None]
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map values ``[*size, channels in, rows]`` to ``[*output_size, channels out, rows]``."""
        output = _ProductsWithFixedMatrices.apply(values.reshape(self.size[0], -1), self)
        return output.view(*self.output_size, self.channels_out, values.shape[-1])

    def products(self) -> list[tuple[Tensor, Tensor | None]]:
        """Matrices ``[count, n, m]`` in their order, and what is added to the first of the products of each.

        A product is that of ``count`` matrices with the values, which are taken as ``[count, m, ...]``.
        """
        inner = range(1, self.spectral_axes)
        counts = {axis: math.prod(self.frequencies[:axis]) for axis in inner}
        return [
            (self.get_buffer("analysis_0")[None], None),
            *[(self.get_buffer(f"analysis_{axis}").expand(counts[axis], -1, -1), None) for axis in inner],
            (self.frequency_weights, self.frequency_bias),
            *[(self.get_buffer(f"synthesis_{axis}").expand(counts[axis], -1, -1), None) for axis in reversed(inner)],
            (self.get_buffer("synthesis_0")[None], None),
        ]


class _ProductsWithFixedMatrices(torch.autograd.Function):
    """The products of a convolution, which keep nothing for their gradient but the matrices."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, convolution: SpectralConvolution) -> Tensor:
        ctx.convolution, ctx.shape = convolution, values.shape
        for matrices, first in convolution.products():
            values = torch.bmm(matrices, values.reshape(len(matrices), matrices.shape[2], -1))
            if first is not None:
                values[0, : len(first)] += first
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        for matrices, _ in reversed(ctx.convolution.products()):
            gradient = torch.bmm(matrices.mT, gradient.reshape(len(matrices), matrices.shape[1], -1))
        return gradient.view(ctx.shape), None


def best_spectral_axes(convolution: Convolution, size: Sequence[int]) -> int:
    """The number of axes to transform that takes the fewest multiplications for a row."""
    costs = {axes: _multiplications(convolution, size, axes) for axes in range(1, _AXES + 1)}
    return min(costs, key=lambda axes: costs[axes])


def _multiplications(convolution: Convolution, size: Sequence[int], spectral_axes: int) -> float:
    output_size = convolution.output_size(size)
    channels_out, channels_in = convolution.weight.shape[:2]
    lengths = [length + max(padding) for length, padding in zip(size, convolution.padding, strict=True)]
    frequencies = [lengths[0] // 2 + 1, *lengths[1:]]
    total = 0.0
    for axis in range(spectral_axes):
        parts = 1 if axis == 0 else 2
        before = math.prod(frequencies[:axis])
        per_axis = 2 * frequencies[axis] * parts * before
        total += per_axis * size[axis] * math.prod(size[axis + 1 :]) * channels_in
        total += per_axis * output_size[axis] * math.prod(output_size[axis + 1 :]) * channels_out
    dense = 4 * math.prod(size[spectral_axes:]) * math.prod(output_size[spectral_axes:]) * channels_in * channels_out
    weights = dense * math.prod(frequencies[:spectral_axes])
    return total + weights if weights <= _MOST_WEIGHTS else math.inf


def _angles(length: int, places: Tensor, frequencies: int) -> Tensor:
    """Phases ``[frequencies, places]`` of the waves of a circle of so many places."""
    # Whole turns are taken off while the numbers are whole, which keeps all digits.
    turns = (torch.arange(frequencies)[:, None] * places) % length
    return turns.double() * (2 * math.pi / length)


def _real_transform(length: int, size: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices from ``size`` real values to frequencies ``[(frequency, part), size]``, and from there to ``places``."""
    frequencies = length // 2 + 1
    angles = _angles(length, torch.arange(size), frequencies)
    analysis = torch.stack([angles.cos(), -angles.sin()], dim=1).flatten(0, 1)
    # Every frequency stands for its negative as well, but for those that are their own.
    count = torch.full((frequencies, 1), 2.0, dtype=torch.float64)
    count[0] = 1.0
    if length % 2 == 0:
        count[-1] = 1.0
    angles = _angles(length, places, frequencies)
    synthesis = torch.stack([count * angles.cos(), -count * angles.sin()], dim=1).flatten(0, 1).T / length
    return analysis, synthesis.contiguous()


def _complex_transform(length: int, size: int, places: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices ``[(frequency, part), (part, size)]`` and back ``[(part, places), (frequency, part)]``."""
    angles = _angles(length, torch.arange(size), length)
    cos, sin = angles.cos(), angles.sin()
    analysis = torch.stack([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)], dim=1).flatten(0, 1)
    angles = _angles(length, places, length).T
    cos, sin = angles.cos(), angles.sin()
    real, imaginary = torch.stack([cos, -sin], dim=2), torch.stack([sin, cos], dim=2)
    return analysis, torch.cat([real, imaginary]).flatten(1) / length


def _weights_of_frequencies(convolution: Convolution, size: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Matrices ``[frequencies, (part, places out, channels out), (part, places in, channels in)]``."""
    spectral_axes, weight = len(lengths), convolution.weight
    spectrum = weight.to(torch.complex128)
    for axis, length in enumerate(lengths):
        frequencies = length // 2 + 1 if axis == 0 else length
        angles = _angles(length, torch.arange(weight.shape[2 + axis]), frequencies)
        waves = torch.polar(torch.ones_like(angles), angles)
        spectrum = torch.movedim(torch.tensordot(waves, spectrum, dims=([1], [2 + axis])), 0, 2 + axis)
    # [out, in, frequencies..., dense kernel axes...] -> [frequencies, out, in, dense kernel axes...]
    spectrum = spectrum.flatten(2, 1 + spectral_axes).movedim(2, 0)
    output_size = convolution.output_size(size)
    places_in = places_out = 1
    for axis in range(spectral_axes, _AXES):
        spectrum = _spread(
            spectrum,
            size[axis],
            output_size[axis],
            convolution.stride[axis],
            convolution.padding[axis][0],
        )
        places_in, places_out = places_in * size[axis], places_out * output_size[axis]
    # [frequencies, out, in, (places out, places in)...] -> [frequencies, places out, out, places in, in]
    dense_axes = _AXES - spectral_axes
    order = [0, *range(3, 3 + 2 * dense_axes, 2), 1, *range(4, 4 + 2 * dense_axes, 2), 2]
    channels_out, channels_in = weight.shape[:2]
    dense = spectrum.permute(order).reshape(-1, places_out * channels_out, places_in * channels_in)
    upper = torch.cat([dense.real, -dense.imag], dim=2)
    lower = torch.cat([dense.imag, dense.real], dim=2)
    return torch.cat([upper, lower], dim=1)


def _spread(spectrum: Tensor, size: int, output_size: int, stride: int, padding: int) -> Tensor:
    """Turn the first kernel axis, the fourth, into axes ``[places out, places in]`` at the end."""
    kernel = spectrum.shape[3]
    place_in_kernel = torch.arange(size) - stride * torch.arange(output_size)[:, None] + padding
    inside = (place_in_kernel >= 0) & (place_in_kernel < kernel)
    spectrum = spectrum.movedim(3, -1)
    return spectrum[..., place_in_kernel.clamp(0, kernel - 1)] * inside
