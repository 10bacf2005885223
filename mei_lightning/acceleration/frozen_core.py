"""Cores whose layers are understood, computed as they are best computed once their weights are fixed."""

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mei_lightning.acceleration.blocks import ROWS_FIRST, ROWS_LAST, in_blocks
from mei_lightning.acceleration.spectral_convolution import Convolution, SpectralConvolution, estimated_costs

_CONVOLUTIONS = "openretina.modules.layers.convolutions"
_CORE = "openretina.modules.core.base_core.SimpleCoreWrapper"
_BIAS = "openretina.modules.layers.scaling.Bias3DLayer"


class NotUnderstood(Exception):
    """A layer that is not one of those that can be rewritten."""


@dataclass(frozen=True)
class Layer:
    """A convolution and what comes after it.

    Args:
        convolution: with batch norm and biases folded into it.
        elu: the ``alpha`` of the ELU after it, or None without one.
        pool: rows and columns of the windows of the spatial max-pooling after that, or None without one.
    """

    convolution: Convolution
    elu: float | None = None
    pool: tuple[int, int] | None = None


class FrozenCore(nn.Module):
    """The features of a core for stimuli of one size, from copies of its weights.

    Args:
        layers: one after the other.
        channels: of the stimulus.
        size: frames, rows and columns of the stimulus.
        put_out: the numbers of the layers whose features are put out, one after the other's.

    Attributes:
        pools: for each layer the rows and columns of its max-pooling's windows, or None.
        gain: how many times less time than the original it takes, by estimate.
        multiplications: how many the original's convolutions take for a stimulus.
    """

    def __init__(self, layers: Sequence[Layer], channels: int, size: Sequence[int], put_out: Sequence[int]) -> None:
        super().__init__()
        self.stimulus_shape = (channels, *size)
        self._put_out = frozenset(put_out)
        self.pools = [layer.pool for layer in layers]
        self.multiplications = 0
        costs: list[tuple[float, float]] = []
        self.convolutions = nn.ModuleList()
        for layer in layers:
            if layer.convolution.weight.shape[1] != channels:
                raise NotUnderstood(f"a convolution of {layer.convolution.weight.shape[1]} of {channels} channels")
            costs.append(estimated_costs(layer.convolution, size))
            if math.isinf(costs[-1][1]):
                raise NotUnderstood("a convolution whose matrices would be too large")
            self.convolutions.append(SpectralConvolution(layer.convolution, size, elu=layer.elu))
            channels, size = len(layer.convolution.weight), layer.convolution.output_size(size)
            self.multiplications += layer.convolution.weight.numel() * math.prod(size)
            if layer.pool is not None:
                size = size[0], size[1] // layer.pool[0], size[2] // layer.pool[1]
        direct, best = (sum(cost) for cost in zip(*costs, strict=True))
        self.gain = direct / best

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it computes in, and takes stimuli in."""
        return next(self.buffers()).dtype

    def forward(self, stimulus: Tensor) -> Tensor:
        """Features ``[rows, features, time', height', width']`` of stimuli ``[rows, *stimulus_shape]``."""
        values = stimulus.permute(ROWS_LAST)
        on_cpu = stimulus.device.type == "cpu"
        features = in_blocks(self._features, values) if on_cpu else self._features(values)
        return features.permute(ROWS_FIRST)

    def _features(self, values: Tensor) -> Tensor:
        values = values.contiguous()
        features = []
        for number, (convolution, pool) in enumerate(zip(self.convolutions, self.pools, strict=True)):
            values = convolution(values)
            if pool is not None:
                values = _max_pool(values, pool)
            if number in self._put_out:
                features.append(values)
        return features[0] if len(features) == 1 else torch.cat(features, dim=3)


def frozen_core(core: nn.Module, stimulus_shape: Sequence[int]) -> FrozenCore:
    """A core in evaluation mode, rewritten for stimuli of one size.

    Args:
        core: openretina's ``SimpleCoreWrapper``, our digital twin's core, or an ``nn.Sequential`` of such layers:
            convolutions, batch norm, ELU, max-pooling over space. One whose attribute ``puts_out_each_part`` is True
            puts out the features of each of its children. In double precision on the CPU, as the result is.
        stimulus_shape: ``(channels, time, height, width)``.

    Raises:
        NotUnderstood: if the core has another layer, or a convolution that would need too much memory.
    """
    channels, *size = stimulus_shape
    layers: list[Layer] = []
    put_out: list[int] = []
    for part in core.children() if getattr(core, "puts_out_each_part", False) else [core]:
        layers += _layers_of(part)
        put_out.append(len(layers) - 1)
    if not layers:
        raise NotUnderstood("no convolution")
    return FrozenCore(layers, channels, size, put_out)


def _layers_of(core: nn.Module) -> list[Layer]:
    layers: list[Layer] = []
    for module in _parts(core):
        last = layers[-1] if layers else None
        if convolutions := _convolutions_of(module):
            layers += [Layer(convolution) for convolution in convolutions]
        elif last is None:
            raise NotUnderstood(f"a {type(module).__name__} before the first convolution")
        elif last.elu is None and last.pool is None and (affine := _scale_and_shift(module)) is not None:
            scale, shift = affine
            convolution = last.convolution
            layers[-1] = replace(
                last,
                convolution=replace(
                    convolution,
                    weight=convolution.weight * scale[:, None, None, None, None],
                    bias=convolution.bias * scale + shift,
                ),
            )
        elif last.elu is None and last.pool is None and type(module) is nn.ELU:
            layers[-1] = replace(last, elu=module.alpha)
        elif last.pool is None and type(module) is nn.MaxPool3d:
            layers[-1] = replace(last, pool=_pool_of(module))
        else:
            raise NotUnderstood(f"a {type(module).__name__}")
    return layers


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The layers that a module puts its input through, one after the other, without those that do nothing."""
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise NotUnderstood(f"a {type(module).__name__} with hooks")
    if is_method_of(module, "forward", f"{_CORE}.forward"):
        core: Any = module
        if core.color_squashing_layer is not None or core._downsample_input_kernel_size is not None:
            raise NotUnderstood("a core that mixes colours or pools its input")
        if core._cut_first_n_frames:
            raise NotUnderstood("a core that cuts frames")
        yield from _parts(core.features)
    elif type(module).forward is nn.Sequential.forward:
        for part in module.children():
            yield from _parts(part)
    elif (
        not (isinstance(module, nn.Dropout | nn.Dropout3d) and not module.training) and type(module) is not nn.Identity
    ):
        yield module


@torch.no_grad()
def _convolutions_of(module: Any) -> list[Convolution]:
    if type(module) is nn.Conv3d:
        return [_convolution(module, module.weight, module.bias)]
    if is_method_of(module, "forward", f"{_CONVOLUTIONS}.TorchFullConv3D.forward"):
        return [_convolution(module.conv, module.conv.weight, module.conv.bias)]
    if is_method_of(module, "forward", f"{_CONVOLUTIONS}.TimeIndependentConv3D.forward"):
        return [_convolution(module.conv, module.conv.weight, module.conv.bias)]
    if is_method_of(module, "forward", f"{_CONVOLUTIONS}.TorchSTSeparableConv3D.forward"):
        speed = module._log_speed_default.double().exp()
        time_bias = module.time_conv.bias
        return [
            _convolution(module.space_conv, module.space_conv.weight, module.space_conv.bias),
            _convolution(
                module.time_conv,
                module.time_conv.weight.double() * speed,
                None if time_bias is None else time_bias.double() * speed,
            ),
        ]
    if is_method_of(module, "forward", f"{_CONVOLUTIONS}.STSeparableBatchConv3d.forward"):
        temporal = importlib.import_module(_CONVOLUTIONS).compute_temporal_kernel(
            module._log_speed_default,
            module.sin_weights,
            module.cos_weights,
            module.temporal_kernel_size,
            module.subsampling_factor,
        )
        return [_convolution(module, temporal.double() * module.weight_spatial.double(), module.bias)]
    return []


def _convolution(module: Any, weight: Tensor, bias: Tensor | None) -> Convolution:
    """A convolution with the stride and the padding that a module states."""
    if getattr(module, "groups", 1) != 1 or getattr(module, "padding_mode", "zeros") != "zeros":
        raise NotUnderstood("a convolution in groups, or padded with something else than zeros")
    if math.prod(getattr(module, "dilation", (1,))) != 1:
        raise NotUnderstood("a dilated convolution")
    weight = weight.detach().double().cpu()
    if module.padding == "same":
        padding = tuple(((length - 1) // 2, length // 2) for length in weight.shape[2:])
    elif module.padding == "valid":
        padding = ((0, 0),) * 3
    else:
        padding = tuple((zeros, zeros) for zeros in _triple(module.padding))
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double().cpu()
    return Convolution(weight, bias, _triple(module.stride), padding)


def _triple(value: Any) -> tuple[int, int, int]:
    first, second, third = (value,) * 3 if isinstance(value, int) else value
    return first, second, third


def _scale_and_shift(module: Any) -> tuple[Tensor, Tensor] | None:
    """What a module multiplies each channel with, and adds to it; None for any other module."""
    if type(module) is nn.BatchNorm3d and not module.training and module.track_running_stats:
        assert module.running_mean is not None
        assert module.running_var is not None
        scale = (module.running_var.double() + module.eps).rsqrt()
        shift = -module.running_mean.double() * scale
        if module.affine:
            scale, shift = scale * module.weight.double(), shift * module.weight.double() + module.bias.double()
        return scale.detach().cpu(), shift.detach().cpu()
    if is_method_of(module, "forward", f"{_BIAS}.forward"):
        shift = module.bias.detach().double().cpu().flatten()
        return torch.ones_like(shift), shift
    return None


def _pool_of(module: nn.MaxPool3d) -> tuple[int, int]:
    frames, rows, columns = _triple(module.kernel_size)
    stride = module.kernel_size if module.stride is None else module.stride
    if (
        frames != 1
        or _triple(stride) != (frames, rows, columns)
        or any(_triple(module.padding))
        or _triple(module.dilation) != (1, 1, 1)
        or module.ceil_mode
        or module.return_indices
    ):
        raise NotUnderstood("a max-pooling over time, or of windows that overlap")
    return rows, columns


def _max_pool(values: Tensor, window: tuple[int, int]) -> Tensor:
    """The largest of each window of rows and columns, from ``[time, height, width, channels, rows]`` to the same."""
    images = values.flatten(3).permute(0, 3, 1, 2)
    return F.max_pool2d(images, window).permute(0, 2, 3, 1).unflatten(3, values.shape[3:])


def is_method_of(module: nn.Module, name: str, where: str) -> bool:
    """Whether a method of a module was written as ``package.module.Class.method``."""
    method = getattr(module, name)
    return f"{method.__module__}.{getattr(method, '__qualname__', name)}" == where
