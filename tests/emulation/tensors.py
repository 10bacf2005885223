"""What ``torch.Tensor`` answers without an operation: where it is, and how it goes elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from emulation.patching import replaced
from emulation.refusals import refusal_of_numpy

if TYPE_CHECKING:
    from emulation.device import EmulatedDevice

CPU = torch.device("cpu")


@contextmanager
def patched_tensors(emulated: "EmulatedDevice") -> Iterator[None]:
    """All tensors know whether they are on an emulated device, and can be taken there."""
    with ExitStack() as patches:
        for name, member in _members_of_tensors(emulated).items():
            patches.enter_context(replaced(torch.Tensor, name, member))
        patches.enter_context(_NamedDevices(emulated))
        patches.enter_context(replaced(DeviceContext, "__init__", _init_of_default_device(emulated)))
        # ``torch.tensor(..., device=...)`` as two operations, one that makes it on the CPU and one that copies it, as
        # for PyTorch's own fake tensors.
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        patches.callback(torch._C._set_only_lift_cpu_tensors, before)
        yield


def _members_of_tensors(emulated: "EmulatedDevice") -> dict[str, Any]:
    def device(self: torch.Tensor) -> torch.device:
        return emulated.device if emulated.holds(self) else CPU

    def is_on(kind: str) -> property:
        return property(lambda self: self.device.type == kind)

    def get_device(self: torch.Tensor) -> int:
        return 0 if emulated.holds(self) else -1

    return {
        "device": property(device),
        "is_cpu": is_on("cpu"),
        "is_cuda": is_on("cuda"),
        "is_mps": is_on("mps"),
        "get_device": get_device,
        **_transfers(emulated),
        **_readings(emulated),
    }


def _transfers(emulated: "EmulatedDevice") -> dict[str, Any]:
    to_in_place = torch.Tensor.to
    new_tensor_on_host = torch.Tensor.new_tensor

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        copies = kwargs.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = emulated.resolve(device) or self.device, dtype or self.dtype
        if device == self.device:
            return to_in_place(self, dtype, copy=copies, memory_format=memory_format or torch.preserve_format)
        return _Transfer.apply(self, emulated, device, dtype, not non_blocking)  # type: ignore[no-any-return]

    def cpu(self: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.to(CPU)

    def cuda(self: torch.Tensor, device: Any = None, non_blocking: bool = False, **_: Any) -> torch.Tensor:
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def new_tensor(self: torch.Tensor, data: Any, **kwargs: Any) -> torch.Tensor:
        place = emulated.resolve(kwargs.pop("device", None)) or self.device
        return new_tensor_on_host(self, data, **kwargs).to(place)

    return {"to": to, "cpu": cpu, "cuda": cuda, "new_tensor": new_tensor}


def _readings(emulated: "EmulatedDevice") -> dict[str, Any]:
    deepcopy_of_memory = torch.Tensor.__deepcopy__
    array, numpy, tolist = torch.Tensor.__array__, torch.Tensor.numpy, torch.Tensor.tolist

    def refused_on_device(read: Callable[..., Any]) -> Callable[..., Any]:
        def reading(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if emulated.holds(self):
                emulated.refuse(refusal_of_numpy(emulated.device))
            return read(self, *args, **kwargs)

        return reading

    def tolist_after_wait(self: torch.Tensor) -> Any:
        return tolist(self.detach().cpu())

    def deepcopy(self: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        copied = deepcopy_of_memory(self, memo)
        if emulated.holds(self):
            emulated.memory.take(copied)
        return copied

    return {
        "numpy": refused_on_device(numpy),
        "__array__": refused_on_device(array),
        "tolist": tolist_after_wait,
        "__deepcopy__": deepcopy,
    }


class _Transfer(torch.autograd.Function):
    """To the other side, and back with the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        tensor: torch.Tensor,
        emulated: "EmulatedDevice",
        device: torch.device,
        dtype: torch.dtype,
        waits: bool,
    ) -> torch.Tensor:
        ctx.emulated, ctx.device, ctx.dtype, ctx.waits = emulated, tensor.device, tensor.dtype, waits
        return emulated.transfer(tensor, device, dtype, waits)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return ctx.emulated.transfer(gradients[0], ctx.device, ctx.dtype, ctx.waits), None, None, None, None


class _NamedDevices(TorchFunctionMode):
    """Calls such as ``torch.zeros_like(tensor, device="cpu")``: the device is the one that the caller has named."""

    def __init__(self, emulated: "EmulatedDevice") -> None:
        super().__init__()
        self.emulated = emulated

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        device = torch.device(self.emulated.resolve(kwargs["device"]))
        with self.emulated.naming(device):
            return func(*args, **{**kwargs, "device": device})


def _init_of_default_device(emulated: "EmulatedDevice") -> Callable[[DeviceContext, Any], None]:
    init = DeviceContext.__init__

    def init_with_resolved_device(self: DeviceContext, device: Any) -> None:
        init(self, emulated.resolve(device))

    return init_with_resolved_device
