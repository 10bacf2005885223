"""Input gradients of convolutions with fixed weights, in the way that is fastest for each shape.

PyTorch's own gradient of a convolution over space and time with respect to an input of few channels, such as a
stimulus, takes several times as long as the convolution itself.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv3d_input
from torch.overrides import TorchFunctionMode

_REPETITIONS = 2
_CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class FastConvolutions(TorchFunctionMode):
    """While active, convolutions over space and time whose weights need no gradient get a faster input gradient.

    For each size of input and kernel the ways are timed once, when it is first seen. From then on the same one is
    taken whatever the number of rows, so that rows do not depend on their neighbours.

    Attributes:
        ways: the name of the way that was chosen for each size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ways: dict[tuple[Any, ...], str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, a convolution with its gradient replaced."""
        kwargs = kwargs or {}
        if func is torch.conv3d:
            given = dict(zip(_CONVOLUTION_ARGUMENTS, args, strict=False)) | kwargs
            padding = given.get("padding", 0)
            if (
                torch.is_grad_enabled()
                # What it would cast is still to come, between here and PyTorch's own convolution.
                and not torch.is_autocast_enabled(given["input"].device.type)
                and given["input"].requires_grad
                and given["input"].ndim == 5
                and not given["weight"].requires_grad
                and (given.get("bias") is None or not given["bias"].requires_grad)
                and given.get("groups", 1) == 1
                and all(_triple(given.get(name, 1)) == (1, 1, 1) for name in ("stride", "dilation"))
                and not isinstance(padding, str)
            ):
                values, weight = given["input"], given["weight"]
                way = self._way(values, weight, _triple(padding))
                return _Convolution.apply(values, weight, given.get("bias"), _triple(padding), WAYS[way])
        return func(*args, **kwargs)

    def _way(self, values: Tensor, weight: Tensor, padding: tuple[int, int, int]) -> str:
        key = (*values.shape[1:], *weight.shape, *padding, values.dtype, values.device)
        if key not in self.ways:
            shape = torch.conv3d(values[:1].detach(), weight, None, 1, padding).shape
            gradient = values.new_ones(len(values), *shape[1:])
            seconds = {name: _seconds(way, gradient, weight, padding, values.shape) for name, way in WAYS.items()}
            self.ways[key] = min(seconds, key=lambda name: seconds[name])
        return self.ways[key]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int, int],
        way: Callable[..., Tensor],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding, ctx.shape, ctx.way = padding, values.shape, way
        return torch.conv3d(values, weight, bias, 1, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weight,) = ctx.saved_tensors
        return ctx.way(gradient, weight, ctx.padding, ctx.shape), None, None, None, None


def own_gradient(gradient: Tensor, weight: Tensor, padding: tuple[int, int, int], shape: torch.Size) -> Tensor:
    """PyTorch's own."""
    return conv3d_input(shape, weight, gradient, padding=padding)


def flipped_convolution(gradient: Tensor, weight: Tensor, padding: tuple[int, int, int], shape: torch.Size) -> Tensor:
    """As the convolution of the gradient, padded, with the reversed kernel."""
    # Padding by an argument of the convolution takes many times longer.
    zeros = [size - 1 - before for size, before in zip(weight.shape[2:], padding, strict=True)]
    padded = F.pad(gradient, [zeros[axis] for axis in (2, 2, 1, 1, 0, 0)])
    return torch.conv3d(padded, weight.flip(2, 3, 4).transpose(0, 1).contiguous())


def frame_by_frame(gradient: Tensor, weight: Tensor, padding: tuple[int, int, int], shape: torch.Size) -> Tensor:
    """As a convolution over space with an output for each frame of the kernel, added up with their shifts in time."""
    rows, _, frames = gradient.shape[:3]
    channels, kernel_frames = weight.shape[1:3]
    vertical, horizontal = (size - 1 - before for size, before in zip(weight.shape[3:], padding[1:], strict=True))
    images = F.pad(gradient.transpose(1, 2).flatten(0, 1), (horizontal, horizontal, vertical, vertical))
    kernels = weight.flip(3, 4).permute(2, 1, 0, 3, 4).flatten(0, 1).contiguous()
    parts = torch.conv2d(images, kernels).unflatten(1, (kernel_frames, channels)).unflatten(0, (rows, frames))
    total = gradient.new_zeros(rows, frames + kernel_frames - 1, channels, *shape[3:])
    for frame in range(kernel_frames):
        total[:, frame : frame + frames] += parts[:, :, frame]
    return total[:, padding[0] : padding[0] + shape[2]].transpose(1, 2)


WAYS: dict[str, Callable[[Tensor, Tensor, tuple[int, int, int], torch.Size], Tensor]] = {
    "own": own_gradient,
    "flipped": flipped_convolution,
    "frame by frame": frame_by_frame,
}


def _seconds(way: Callable[..., Tensor], gradient: Tensor, *arguments: Any) -> float:
    """The shortest of a few times that a way takes; infinite if it does not work."""
    best = float("inf")
    try:
        for _ in range(_REPETITIONS):
            _wait(gradient.device)
            start = time.perf_counter()
            way(gradient, *arguments)
            _wait(gradient.device)
            best = min(best, time.perf_counter() - start)
    except RuntimeError:
        return float("inf")
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _triple(value: Any) -> tuple[int, int, int]:
    first, second, third = (value,) * 3 if isinstance(value, int) else value if len(value) == 3 else (value[0],) * 3
    return first, second, third
