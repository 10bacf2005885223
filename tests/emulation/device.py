"""The emulated device: what each operation of PyTorch does there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mei_lightning
from emulation.counts import Counts
from emulation.memory import DeviceMemory
from emulation.operations import COPIES, Operation, launches_kernel, name_of, tensors_in, waits
from emulation.refusals import refusal_of_operands, refusal_of_type
from emulation.runtime import patched_runtime
from emulation.tensor_float32 import rounded_operands
from emulation.tensors import patched_tensors

GIBIBYTE = 2**30
CPU = torch.device("cpu")


class EmulatedDevice(TorchDispatchMode):
    """Within ``with EmulatedDevice("cuda"):``, PyTorch and Lightning find one such device.

    Args:
        kind: "cuda" or "mps".
        memory: bytes that it has; an operation that needs more raises ``torch.OutOfMemoryError``.
        source: the folder by whose lines kernels, waits and copies are counted; the package's by default.

    Attributes:
        counts: kernels, waits and copies so far.
        memory: how much of the memory is in use.
        refused: what the device has refused so far. Each has raised, but the exception may have been handled.
    """

    def __init__(
        self, kind: Literal["cuda", "mps"] = "cuda", memory: int = 80 * GIBIBYTE, source: Path | None = None
    ) -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.memory = DeviceMemory(memory)
        self.counts = Counts(source or Path(mei_lightning.__file__).parent)
        self.refused: list[str] = []
        self._named: torch.device | None = None

    def __enter__(self) -> "EmulatedDevice":
        self._patches = ExitStack()
        self._patches.enter_context(patched_runtime(self))
        self._patches.enter_context(patched_tensors(self))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._patches.close()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        return self.memory.holds(tensor)

    def resolve(self, device: Any) -> Any:
        """The device itself for its name without a number, for which PyTorch would ask the CUDA that is not there."""
        is_named = isinstance(device, str | torch.device) and str(device) == self.device.type
        return self.device if is_named else device

    def refuse(self, error: Exception) -> None:
        """Note what is refused, and raise it."""
        self.refused.append(str(error))
        raise error

    def transfer(self, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype, waits: bool) -> torch.Tensor:
        """A copy on the other side, without a gradient."""
        with self.naming(device):
            return torch.ops.aten._to_copy.default(tensor.detach(), dtype=dtype, non_blocking=not waits)

    def __torch_dispatch__(self, func: Operation, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        operands = tensors_in(args) + tensors_in(kwargs)
        on_device = self._is_result_on_device(func, operands, kwargs)
        if error := refusal_of_operands(self, func, args, kwargs, operands, on_device):
            self.refuse(error)
        self._count(func, args, kwargs, operands, on_device)
        if "device" in kwargs:
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        result = func(*(rounded_operands(func, args) if on_device else args), **kwargs)
        if on_device:
            self._take(result)
        return result

    @contextmanager
    def naming(self, device: torch.device) -> Iterator[None]:
        """Within it, a device that operations name is this one, and named by the caller."""
        before, self._named = self._named, device
        try:
            yield
        finally:
            self._named = before

    def _is_result_on_device(self, func: Operation, operands: list[torch.Tensor], kwargs: dict[str, Any]) -> bool:
        name, device = name_of(func), kwargs.get("device")
        if name == "aten::copy_":
            return self.holds(operands[0])
        if self._named is not None and (device is not None or name == "aten::_to_copy"):
            return self._named == self.device
        # PyTorch's own C++ code takes the device's tensors for the CPU's, so "cpu" may mean where the operands are.
        named = device is not None and device.type == self.device.type
        return named or any(map(self.holds, operands))

    def _count(
        self, func: Operation, args: Any, kwargs: dict[str, Any], operands: list[torch.Tensor], on_device: bool
    ) -> None:
        name = name_of(func)
        if name in COPIES and self.holds(operands[-1]) != on_device:
            non_blocking = kwargs.get("non_blocking") or (name == "aten::copy_" and len(args) > 2 and args[2])
            if on_device:
                self.counts.add("copy", "to the device")
            if not non_blocking:
                self.counts.add("wait", "to the device" if on_device else "to the host")
            return
        if not on_device:
            return
        if launches_kernel(func):
            self.counts.add("kernel", name.removeprefix("aten::"))
        if waits(func, args, kwargs):
            self.counts.add("wait", name.removeprefix("aten::"))

    def _take(self, result: Any) -> None:
        for tensor in tensors_in(result):
            if error := refusal_of_type(self.device, tensor.dtype):
                self.refuse(error)
            self.memory.take(tensor)
