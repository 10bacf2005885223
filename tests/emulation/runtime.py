"""What ``torch.cuda``, ``torch.backends.mps`` and Lightning say of the devices of this machine."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.accelerators.mps import MPSAccelerator

from emulation.patching import replaced

if TYPE_CHECKING:
    from emulation.device import EmulatedDevice


@contextmanager
def patched_runtime(emulated: "EmulatedDevice") -> Iterator[None]:
    """There is one device, of the emulated kind."""
    patches = _cuda(emulated) if emulated.device.type == "cuda" else _mps(emulated)
    with ExitStack() as stack:
        # Lightning tells CUDA in the environment how to number devices.
        stack.callback(_restore_environment, dict(os.environ))
        for owner, name, value in patches:
            stack.enter_context(replaced(owner, name, value))
        yield


def _restore_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _cuda(emulated: "EmulatedDevice") -> list[tuple[Any, str, Any]]:
    memory = emulated.memory
    answers = {
        "_lazy_init": _nothing,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": _nothing,
        "get_device_name": lambda device=None: "Emulated device",
        "get_device_capability": lambda device=None: (9, 0),
        "synchronize": lambda device=None: emulated.counts.add("wait", "synchronize"),
        "empty_cache": _nothing,
        "mem_get_info": lambda device=None: memory.free_and_size(),
        "memory_allocated": lambda device=None: memory.used,
        "max_memory_allocated": lambda device=None: memory.most_used,
    }
    return [(torch.cuda, name, answer) for name, answer in answers.items()]


def _mps(emulated: "EmulatedDevice") -> list[tuple[Any, str, Any]]:
    memory = emulated.memory
    return [
        (torch.backends.mps, "is_available", lambda: True),
        (torch.backends.mps, "is_built", lambda: True),
        (torch.mps, "synchronize", lambda: emulated.counts.add("wait", "synchronize")),
        (torch.mps, "empty_cache", _nothing),
        (torch.mps, "current_allocated_memory", lambda: memory.used),
        (torch.mps, "driver_allocated_memory", lambda: memory.used),
        (torch.mps, "recommended_max_memory", lambda: memory.size),
        # It remembers what it found, and asks for an Apple processor.
        (MPSAccelerator, "is_available", staticmethod(lambda: True)),
    ]
