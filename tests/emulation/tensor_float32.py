"""TF32: what NVIDIA's matrix units make of float32 if they may, with 10 explicit bits of mantissa in place of 23."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from emulation.operations import Operation, name_of

_DROPPED_BITS = 13

_CONVOLUTIONS = {
    "aten::convolution": (0, 1),
    "aten::convolution_backward": (0, 1, 2),
}
_PRODUCTS = {
    "aten::mm": (0, 1),
    "aten::bmm": (0, 1),
    "aten::mv": (0, 1),
    "aten::addmm": (1, 2),
    "aten::addmv": (1, 2),
    "aten::addbmm": (1, 2),
    "aten::baddbmm": (1, 2),
}
"""Operations, and which of their arguments are multiplied; biases are added in float32."""


@contextmanager
def tensor_float32(*, convolutions: bool, products: bool) -> Iterator[None]:
    """Within it, convolutions and matrix products may be in TF32, as a user says so for all of a program."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    _allow(convolutions, products)
    try:
        yield
    finally:
        _allow(*before)


def _allow(convolutions: bool, products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


def rounded_operands(operation: Operation, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the device's matrix units read them, with the flags as they are now."""
    name = name_of(operation)
    if name in _CONVOLUTIONS and _allowed_in_convolutions():
        multiplied = _CONVOLUTIONS[name]
    elif name in _PRODUCTS and _allowed_in_products():
        multiplied = _PRODUCTS[name]
    else:
        return args
    return tuple(to_tensor_float32(value) if number in multiplied else value for number, value in enumerate(args))


def to_tensor_float32(values: torch.Tensor) -> torch.Tensor:
    """Round float32 and complex64 to the nearest TF32; other types stay."""
    if values.dtype == torch.complex64:
        return torch.view_as_complex(to_tensor_float32(torch.view_as_real(values)))
    if values.dtype != torch.float32:
        return values
    bits = values.clone().view(torch.int32)
    bits = (bits + (1 << (_DROPPED_BITS - 1))) & (-1 << _DROPPED_BITS)
    return bits.view(torch.float32)


# Since PyTorch 2.9 there are two ways to set each flag. The older one raises when it is read after some uses of the
# newer one; the newer one knows what was set by either.
def _allowed_in_convolutions() -> bool:
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32  # type: ignore[attr-defined]


def _allowed_in_products() -> bool:
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(torch.backends.cudnn, "conv") else matmul.allow_tf32
