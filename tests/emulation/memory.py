"""Which memory is the device's, and how much of it is in use."""

import weakref

import torch

MEBIBYTE = 2**20


class DeviceMemory:
    """The memory of one emulated device.

    Args:
        size: how many bytes there are.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.most_used = 0

    def holds(self, tensor: torch.Tensor) -> bool:
        return getattr(tensor.untyped_storage(), "_emulated_memory", None) is self

    def take(self, tensor: torch.Tensor) -> None:
        """Make the memory of a tensor the device's, until nobody uses it any more.

        Raises:
            torch.OutOfMemoryError: if that is more than is left.
        """
        storage = tensor.untyped_storage()
        if self.holds(tensor):
            return
        size = storage.nbytes()
        if self.used + size > self.size:
            raise torch.OutOfMemoryError(self._too_much(size))
        storage._emulated_memory = self  # type: ignore[attr-defined]
        self.used += size
        self.most_used = max(self.most_used, self.used)
        weakref.finalize(storage, self._give_back, size).atexit = False

    def free_and_size(self) -> tuple[int, int]:
        return self.size - self.used, self.size

    def _give_back(self, size: int) -> None:
        self.used -= size

    def _too_much(self, size: int) -> str:
        free, total = self.free_and_size()
        return (
            f"CUDA out of memory. Tried to allocate {size / MEBIBYTE:.2f} MiB. GPU 0 has a total capacity of "
            f"{total / MEBIBYTE:.2f} MiB of which {free / MEBIBYTE:.2f} MiB is free."
        )
