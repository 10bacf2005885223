"""What a device refuses, with the errors of PyTorch."""

from typing import TYPE_CHECKING, Any

import torch

from emulation.operations import COPIES, INDEXING, Operation, is_in_place, name_of, takes_host_scalars, tensors_in

if TYPE_CHECKING:
    from emulation.device import EmulatedDevice


def refusal_of_operands(
    emulated: "EmulatedDevice",
    operation: Operation,
    args: Any,
    kwargs: dict[str, Any],
    operands: list[torch.Tensor],
    on_device: bool,
) -> Exception | None:
    """The error of an operation whose operands are not all where its result will be."""
    name, device = name_of(operation), emulated.device
    generator = kwargs.get("generator")
    if generator is not None and on_device:
        return RuntimeError(f"{name}: Expected a '{device.type}' device type for generator but found 'cpu'")
    if not on_device or name in COPIES or not operands:
        return None
    on_host = [operand for operand in operands if not emulated.holds(operand)]
    if name in INDEXING:
        if not emulated.holds(args[0]):
            return RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        indices = {id(index) for index in tensors_in(args[1])}
        on_host = [operand for operand in on_host if id(operand) not in indices]
    writes_to_host = is_in_place(operation) and any(operand is args[0] for operand in on_host)
    if writes_to_host or any(map(torch.Tensor.dim, on_host)) or (on_host and not takes_host_scalars(operation)):
        shapes = [tuple(operand.shape) for operand in on_host]
        return RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two devices, {device} and cpu! "
            f"(on the cpu: shapes {shapes})"
        )
    return None


def refusal_of_type(device: torch.device, dtype: torch.dtype) -> Exception | None:
    """The error of a tensor of a type that the device does not have."""
    if device.type == "mps" and dtype == torch.float64:
        return TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
            "Please use float32 instead."
        )
    if device.type == "mps" and dtype == torch.complex128:
        return TypeError(
            "Trying to convert ComplexDouble to the MPS backend but it does not have support for that dtype."
        )
    return None


def refusal_of_numpy(device: torch.device) -> Exception:
    """The error of ``tensor.numpy()``."""
    return TypeError(
        f"can't convert {device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
    )
