"""How many rows fit into the memory of a device."""

from pathlib import Path

import torch
from torch import Tensor

from mei_lightning.objectives import Objective

MOST_ROWS = {"cpu": 32, "cuda": 256}
"""The most rows by kind of device. On a processor more rows leave its caches: 256 take twice the time per row of 32."""

_SHARE = 0.5
_COPIES_OF_STIMULUS = 10


def rows_that_fit(objective: Objective, row: Tensor, device: torch.device, processes: int = 1) -> int:
    """The number of rows, at most ``MOST_ROWS``, that take up to half of the memory that a device has free.

    Estimated from what one row keeps for its gradient, doubled for what is made on the way, and the stimulus with
    its gradient, best iterate and optimizer state.

    Args:
        objective: of one row.
        row: its stimulus, ``[1, channels, time, height, width]``, on the objective's device.
        device: where the rows will be computed.
        processes: how many processes of this run share the memory.
    """
    kept: dict[int, int] = {}

    def weigh(values: Tensor) -> Tensor:
        if values.requires_grad or values.grad_fn is not None:
            kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    stimulus = row.detach().clone().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(weigh, lambda values: values):
        score = objective(stimulus)
    del score
    bytes_per_row = 2 * sum(kept.values()) + _COPIES_OF_STIMULUS * stimulus.nbytes
    most = MOST_ROWS.get(device.type, MOST_ROWS["cuda"])
    return int(min(most, max(1, _SHARE * free_memory(device) / processes / bytes_per_row)))


def free_memory(device: torch.device) -> float:
    """Bytes of memory that are free on a device; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    limits = [_available_memory(), _available_in_control_group()]
    return min(limits)


def _available_memory() -> float:
    try:
        facts = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((1024.0 * int(fact.split()[1]) for fact in facts if fact.startswith("MemAvailable")), float("inf"))


def _available_in_control_group() -> float:
    # A container, or a cluster's job, may have less than the machine.
    group = Path("/sys/fs/cgroup")
    try:
        return float((group / "memory.max").read_text()) - float((group / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
