"""Convolutions with fixed weights as a few matrix products, in the frequency domain of their first axes.

Arrays have the shape ``[time, height, width, channels, rows]``. With the rows innermost, each step from pixels to
frequencies, from the input's frequencies to the output's, and back, is one matrix product of large matrices, whose
result needs no rearrangement before the next one. The gradient goes the same way back.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_AXES = 3
_MOST_WEIGHTS = 2**25
"""Entries of the matrices of a convolution: with more than that, reading them takes longer than it saves."""

_SMALL_PRODUCT = 10**6
"""Multiplications up to which OpenBLAS treats a product as a small one."""
_FEW_COLUMNS = 16
"""Columns that a CPU multiplies at once."""
_MANY_COLUMNS = 192
"""Columns that stay in the nearest cache, with their products, for matrices of usual size."""

# On a core of an AMD EPYC with AVX-512 (Zen 4), where a multiplication of a large product takes 1/48 ns.
_COST_OF_VALUE = 15
"""So many multiplications take as long as reading or writing a value."""
_COST_OF_PRODUCT = 40_000
"""So many multiplications take as long as starting on one of many small products."""
_FEW_CHANNELS = 4
_COST_OF_FEW_CHANNELS = 4
"""So many times longer does a convolution take, with its gradient, whose input has few channels."""
_ROWS = 64
"""The number of rows that the estimate is made for."""


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


@dataclass(frozen=True)
class Plan:
    """How a convolution treats the axes time, height and width (0, 1 and 2).

    Args:
        spectral: axes that are transformed.
        dense: axes along which it is a matrix of its own for each frequency.
        alone: axes along which every place is computed alone.
    """

    spectral: tuple[int, ...]
    dense: tuple[int, ...]
    alone: tuple[int, ...]


class SpectralConvolution(nn.Module):
    """A convolution of inputs of one size, exact but for rounding.

    The input is taken to be periodic, padded with as many zeros as keep the output from seeing its other end. The
    matrices are in double precision on the CPU until the module is moved.

    Args:
        convolution: what to compute.
        size: frames, rows and columns of the input.
        plan: one of ``plans``; by default the best one.
        elu: the ``alpha`` of an ELU that follows, or None without one.
    """

    frequency_weights: Tensor
    frequency_bias: Tensor

    def __init__(
        self, convolution: Convolution, size: Sequence[int], plan: Plan | None = None, elu: float | None = None
    ) -> None:
        super().__init__()
        self.elu = elu
        self.plan = plan = plan or best_plan(convolution, size)
        self.order = (*plan.spectral, *plan.dense, 3, *plan.alone, 4)
        self.output_size = convolution.output_size(size)
        self.channels_out = len(convolution.weight)
        lengths = _periods(convolution, size, plan)
        self.frequencies = _frequencies(lengths)
        matrices = {"frequency_weights": _weights_of_frequencies(convolution, size, lengths, plan)}
        for number, (axis, length) in enumerate(zip(plan.spectral, lengths, strict=True)):
            places = torch.arange(self.output_size[axis]) * convolution.stride[axis] - convolution.padding[axis][0]
            transform = _real_transform if number == 0 else _complex_transform
            matrices[f"analysis_{number}"], matrices[f"synthesis_{number}"] = transform(length, size[axis], places)
        # A bias is the same everywhere, so that it is all in the frequency 0.
        dense_size = math.prod(self.output_size[axis] for axis in plan.dense)
        matrices["frequency_bias"] = (math.prod(lengths) * convolution.bias).repeat(dense_size)[:, None]
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map values ``[*size, channels in, rows]`` to ``[*output_size, channels out, rows]``."""
        arranged = values.permute(self.order).contiguous()
        output = _ProductsWithFixedMatrices.apply(arranged, self)
        shape = (*self.output_size, self.channels_out, values.shape[-1])
        return output.view([shape[axis] for axis in self.order]).permute(_inverse(self.order))

    def products(self) -> list[tuple[Tensor, Tensor | None]]:
        """Matrices ``[count, n, m]`` in their order, and what is added to the first of the products of each.

        A product is that of ``count`` matrices with the values, which are taken as ``[count, m, ...]``.
        """
        counts = [math.prod(self.frequencies[:number]) for number in range(len(self.frequencies))]
        analysis, synthesis = (
            [(self.get_buffer(f"{name}_{n}").expand(count, -1, -1), None) for n, count in enumerate(counts)]
            for name in ("analysis", "synthesis")
        )
        return [*analysis, (self.frequency_weights, self.frequency_bias), *reversed(synthesis)]


class _ProductsWithFixedMatrices(torch.autograd.Function):
    """The products of a convolution and its ELU, which keep nothing for their gradient but the output of the ELU."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, convolution: SpectralConvolution) -> Tensor:
        ctx.convolution, ctx.shape = convolution, values.shape
        for matrices, first in convolution.products():
            values = _product(matrices, values.reshape(len(matrices), matrices.shape[2], -1))
            if first is not None:
                values[0, : len(first)] += first
        if convolution.elu is not None:
            F.elu_(values, convolution.elu)
            ctx.save_for_backward(values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        alpha = ctx.convolution.elu
        if alpha is not None:
            (output,) = ctx.saved_tensors
            gradient = torch.ops.aten.elu_backward(gradient.contiguous(), alpha, 1.0, 1.0, True, output)
        for matrices, _ in reversed(ctx.convolution.products()):
            gradient = _product(matrices.mT, gradient.reshape(len(matrices), matrices.shape[1], -1))
        return gradient.view(ctx.shape), None


def _product(matrices: Tensor, values: Tensor) -> Tensor:
    """The products of many matrices ``[count, n, m]`` with ``[count, m, columns]``."""
    _, n, m = matrices.shape
    is_small = n * m * _FEW_COLUMNS <= _SMALL_PRODUCT
    if values.device.type == "cpu" and values.dtype == torch.float32 and is_small and _columns_are_alike():
        return torch.from_numpy(_small_products(matrices.detach().numpy(), values.detach().numpy()))
    if values.shape[2] == 1:
        # As vectors from the left they take a quarter of the time.
        return torch.bmm(values.mT, matrices.mT).mT
    return torch.bmm(matrices, values)


def _small_products(matrices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``_product`` by NumPy, whose library (OpenBLAS) multiplies small matrices without rearranging them first.

    PyTorch's library (MKL) rearranges them, which takes up to as long as the product. Values with more columns are
    treated some columns at a time. However many there are, if they are a multiple of four, each is the same to the
    last bit.
    """
    count, n, m = matrices.shape
    columns = values.shape[2]
    if columns <= _FEW_COLUMNS:
        if matrices.strides[1] < matrices.strides[2]:
            # Matrices of the gradient, which lie transposed, are faster from the right.
            return np.matmul(values.swapaxes(1, 2), matrices.swapaxes(1, 2)).swapaxes(1, 2)
        if columns == _FEW_COLUMNS:
            return np.matmul(matrices, values)
        # OpenBLAS adds up in another order if there are fewer columns.
        filled = np.zeros((count, m, _FEW_COLUMNS), dtype=values.dtype)
        filled[:, :, :columns] = values
        return np.matmul(matrices, filled)[:, :, :columns]
    width = min(columns, _MANY_COLUMNS, _SMALL_PRODUCT // (n * m) // _FEW_COLUMNS * _FEW_COLUMNS)
    whole = columns // width * width
    products = np.empty((count, n, columns), dtype=values.dtype)

    def parts(array: np.ndarray) -> np.ndarray:
        return array[:, :, :whole].reshape(count, -1, whole // width, width).swapaxes(1, 2)

    np.matmul(matrices[:, None], parts(values), out=parts(products))
    if whole < columns:
        np.matmul(matrices, values[:, :, whole:], out=products[:, :, whole:])
    return products


@cache
def _columns_are_alike() -> bool:
    """Whether the products of a column are the same to the last bit wherever it is among the others.

    Those of OpenBLAS are not on CPUs that have no AVX-512, where MKL is no slower.
    """
    generator = np.random.default_rng(0)
    for n, m in ((24, 18), (13, 40), (64, 96)):
        matrix = generator.standard_normal((1, n, m), dtype=np.float32)
        transposed = generator.standard_normal((1, m, n), dtype=np.float32).swapaxes(1, 2)
        column = generator.standard_normal((1, m, 1), dtype=np.float32)
        for columns in (_FEW_COLUMNS, _MANY_COLUMNS):
            for factor in (matrix, transposed):
                products = _small_products(factor, column.repeat(columns, axis=2))
                if (products != products[:, :, :1]).any():
                    return False
    return True


def plans(convolution: Convolution, size: Sequence[int]) -> list[Plan]:
    """All ways to treat the axes of a convolution."""
    axes = zip(convolution.weight.shape[2:], convolution.stride, convolution.padding, strict=True)
    alone = tuple(axis for axis, facts in enumerate(axes) if facts == (1, 1, (0, 0)))
    others = [axis for axis in range(_AXES) if axis not in alone]
    return [
        Plan(spectral, tuple(axis for axis in others if axis not in spectral), alone)
        for count in range(len(others) + 1)
        for spectral in itertools.combinations(others, count)
    ]


def best_plan(convolution: Convolution, size: Sequence[int]) -> Plan:
    """The plan with which a row takes the least time, as estimated.

    It is estimated rather than measured so that all devices of a run choose the same: what they compute would differ
    by rounding otherwise.
    """
    return min(plans(convolution, size), key=lambda plan: _cost(_shapes_of_products(convolution, size, plan)))


def estimated_costs(convolution: Convolution, size: Sequence[int]) -> tuple[float, float]:
    """Estimated time of a row, in multiplications: in PyTorch, and with the best plan (infinite if it is too large)."""
    output_size = convolution.output_size(size)
    channels_out, channels_in = convolution.weight.shape[:2]
    values = channels_in * math.prod(size) + channels_out * math.prod(output_size)
    direct = convolution.weight.numel() * math.prod(output_size) + _COST_OF_VALUE * values
    if channels_in <= _FEW_CHANNELS:
        direct *= _COST_OF_FEW_CHANNELS
    return direct, _cost(_shapes_of_products(convolution, size, best_plan(convolution, size))) / _ROWS


def _periods(convolution: Convolution, size: Sequence[int], plan: Plan) -> list[int]:
    return [size[axis] + max(convolution.padding[axis]) for axis in plan.spectral]


def _frequencies(periods: Sequence[int]) -> list[int]:
    return [period // 2 + 1 if number == 0 else period for number, period in enumerate(periods)]


def _inverse(order: Sequence[int]) -> list[int]:
    return sorted(range(len(order)), key=lambda place: order[place])


def _cost(shapes: Sequence[tuple[int, int, int, int]]) -> float:
    """Estimated time of products of ``count`` matrices ``[n, m]`` with ``[m, columns * rows]``, in multiplications."""
    if any(count * n * m > _MOST_WEIGHTS for count, n, m, _ in shapes):
        return math.inf
    return sum(
        count * (n * m * columns * _ROWS + _COST_OF_VALUE * ((n + m) * columns * _ROWS + n * m) + _COST_OF_PRODUCT)
        for count, n, m, columns in shapes
    )


def _shapes_of_products(convolution: Convolution, size: Sequence[int], plan: Plan) -> list[tuple[int, int, int, int]]:
    """Numbers ``(count, n, m, columns for each row)`` of the matrices of a ``SpectralConvolution``."""
    output_size = convolution.output_size(size)
    channels_out, channels_in = convolution.weight.shape[:2]
    frequencies = _frequencies(_periods(convolution, size, plan))
    alone = math.prod(size[axis] for axis in plan.alone)
    columns_in, columns_out = alone * channels_in, alone * channels_out
    places_in, places_out = (math.prod(lengths[axis] for axis in plan.dense) for lengths in (size, output_size))
    parts = 2 if plan.spectral else 1
    shapes = [(math.prod(frequencies), parts * places_out * channels_out, parts * places_in * channels_in, alone)]
    columns_in, columns_out = columns_in * places_in, columns_out * places_out
    for number in reversed(range(len(frequencies))):
        axis, before, parts = plan.spectral[number], math.prod(frequencies[:number]), 1 if number == 0 else 2
        shapes.append((before, 2 * frequencies[number], parts * size[axis], columns_in))
        shapes.append((before, parts * output_size[axis], 2 * frequencies[number], columns_out))
        columns_in, columns_out = columns_in * size[axis], columns_out * output_size[axis]
    return shapes


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


def _weights_of_frequencies(
    convolution: Convolution, size: Sequence[int], periods: Sequence[int], plan: Plan
) -> Tensor:
    """Matrices ``[frequencies, (part, places out, channels out), (part, places in, channels in)]``."""
    weight = convolution.weight
    channels_out, channels_in = weight.shape[:2]
    axes = [2 + axis for axis in (*plan.spectral, *plan.dense, *plan.alone)]
    spectral_axes = len(plan.spectral)
    spectrum = weight.permute(*axes[:spectral_axes], 0, 1, *axes[spectral_axes:])
    spectrum = spectrum.reshape(spectrum.shape[: 5 - len(plan.alone)])
    if plan.spectral:
        spectrum = spectrum.to(torch.complex128)
    for number, (period, frequencies) in enumerate(zip(periods, _frequencies(periods), strict=True)):
        angles = _angles(period, torch.arange(spectrum.shape[number]), frequencies)
        waves = torch.polar(torch.ones_like(angles), angles)
        spectrum = torch.tensordot(waves, spectrum, dims=([1], [number])).movedim(0, number)
    spectrum = spectrum.reshape(-1, *spectrum.shape[spectral_axes:])
    output_size = convolution.output_size(size)
    places_in = places_out = 1
    for axis in plan.dense:
        spectrum = _spread(
            spectrum, size[axis], output_size[axis], convolution.stride[axis], convolution.padding[axis][0]
        )
        places_in, places_out = places_in * size[axis], places_out * output_size[axis]
    # [frequencies, out, in, (places out, places in)...] -> [frequencies, places out, out, places in, in]
    last = 3 + 2 * len(plan.dense)
    dense = spectrum.permute(0, *range(3, last, 2), 1, *range(4, last, 2), 2)
    dense = dense.reshape(len(dense), places_out * channels_out, places_in * channels_in)
    if not plan.spectral:
        return dense
    upper = torch.cat([dense.real, -dense.imag], dim=2)
    lower = torch.cat([dense.imag, dense.real], dim=2)
    return torch.cat([upper, lower], dim=1)


def _spread(spectrum: Tensor, size: int, output_size: int, stride: int, padding: int) -> Tensor:
    """Turn the first kernel axis, which is the fourth, into axes ``[places out, places in]`` at the end."""
    kernel = spectrum.shape[3]
    place_in_kernel = torch.arange(size) - stride * torch.arange(output_size)[:, None] + padding
    inside = (place_in_kernel >= 0) & (place_in_kernel < kernel)
    spectrum = spectrum.movedim(3, -1)
    return spectrum[..., place_in_kernel.clamp(0, kernel - 1)] * inside
