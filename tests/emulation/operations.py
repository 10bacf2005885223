"""What is known of PyTorch's operations: which are views, which launch no kernel, which let the host wait."""

from functools import cache
from typing import Any

import torch

Operation = Any
"""A ``torch._ops.OpOverload``."""

COPIES = {"aten::_to_copy", "aten::copy_"}
"""The two operations that a transfer is made of."""

_WITHOUT_KERNEL = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::detach",
    "aten::detach_",
    "aten::lift_fresh",
    "aten::set_",
    "aten::resize_",
    "aten::_local_scalar_dense",
    "aten::is_same_size",
    "aten::_unsafe_view",
}

_SIZE_DEPENDS_ON_VALUES = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::equal",
    "aten::bincount",
}

INDEXING = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}
"""Operations that take their indices, a list, from the host too."""

_WITHOUT_HOST_SCALARS = {
    "aten::cat",
    "aten::stack",
    "aten::index_select",
    "aten::gather",
    "aten::scatter",
    "aten::scatter_",
    "aten::mm",
    "aten::bmm",
    "aten::addmm",
}
"""Operations that even a single number has to be on the device for."""


def name_of(operation: Operation) -> str:
    return operation._schema.name


def tensors_in(values: Any) -> list[torch.Tensor]:
    """All tensors among the arguments or results of an operation."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors_in(value)]


@cache
def is_view(operation: Operation) -> bool:
    returned = operation._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


@cache
def is_in_place(operation: Operation) -> bool:
    return name_of(operation).endswith("_")


@cache
def launches_kernel(operation: Operation) -> bool:
    return not is_view(operation) and name_of(operation) not in _WITHOUT_KERNEL


@cache
def takes_host_scalars(operation: Operation) -> bool:
    return name_of(operation) not in _WITHOUT_HOST_SCALARS


def waits(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the host has to wait for values, or for how many of them there are."""
    name = name_of(operation)
    if name in INDEXING:
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1])) and not _fills(args)
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    return name in _SIZE_DEPENDS_ON_VALUES


def _fills(args: tuple[Any, ...]) -> bool:
    """``tensor[mask] = number``, for which PyTorch has a kernel that needs no indices."""
    return len(args) > 2 and args[2].numel() == 1 and args[2].device.type == "cpu"
