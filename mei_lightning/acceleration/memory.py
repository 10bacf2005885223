"""How many rows fit into the memory of a device."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from mei_lightning.acceleration.blocks import ROWS_PER_BLOCK, using_threads
from mei_lightning.objectives import Objective

_MOST_ROWS_ELSEWHERE = 256
_BLOCKS_PER_THREAD = 4
"""More would leave fewer rows to fill the last block with, and take longer from one check to the next."""

_SHARE = 0.5
_COPIES_OF_STIMULUS = 16


def most_rows(device: torch.device, in_blocks: bool) -> int:
    """The most rows that are worth computing at a time, if there is room: on a CPU at least as for two threads.

    Args:
        device: where.
        in_blocks: whether that is in blocks (``ObjectiveInBlocks``). If not, more rows would leave a CPU's
            caches: 256 rows take twice the time per row of 32.
    """
    if device.type != "cpu":
        return _MOST_ROWS_ELSEWHERE
    return ROWS_PER_BLOCK * max(torch.get_num_threads(), 2) * (_BLOCKS_PER_THREAD if in_blocks else 1)


def rows_that_fit(
    objective: Objective, row: Tensor, device: torch.device, processes: int = 1, in_blocks: bool = False
) -> int:
    """The number of rows, at most ``most_rows``, that take up to half of the memory that a device has free.

    Estimated from what rows keep for their gradient, doubled for what is made on the way, and the stimulus with
    its gradient, best iterate and optimizer state.

    Args:
        objective: on the device.
        row: the stimulus of its first row, ``[1, channels, time, height, width]``, on the device.
        device: where the rows will be computed.
        processes: how many processes of this run share the memory.
        in_blocks: whether only the rows of one block for each thread keep something at a time.
    """
    available = _SHARE * free_memory(device) / processes
    per_row: float = _COPIES_OF_STIMULUS * row.nbytes
    if in_blocks:
        available -= 2 * torch.get_num_threads() * _bytes_kept(objective, row, ROWS_PER_BLOCK)
    else:
        per_row += 2 * _bytes_kept_for_each(objective, row, available)
    return int(min(most_rows(device, in_blocks), max(1, available / per_row)))


def rows_with_room(row: Tensor, device: torch.device) -> int:
    """The number of rows whose stimuli, with gradients, best iterates and optimizer state, alone fill a memory."""
    return int(min(free_memory(device) / (_COPIES_OF_STIMULUS * row.nbytes), sys.maxsize))


def _bytes_kept_for_each(objective: Objective, row: Tensor, available: float) -> float:
    alone, more = _bytes_kept(objective, row, 1), 1 + ROWS_PER_BLOCK
    if 2 * more * alone >= available:
        return alone
    # Part of the model may compute as much for one row as for a block of them.
    return (_bytes_kept(objective, row, more) - alone) / ROWS_PER_BLOCK


def _bytes_kept(objective: Objective, row: Tensor, rows: int) -> int:
    """Bytes that some rows keep for their gradient."""
    kept: dict[int, int] = {}

    def weigh(values: Tensor) -> Tensor:
        if values.requires_grad or values.grad_fn is not None:
            kept[values.untyped_storage().data_ptr()] = values.untyped_storage().nbytes()
        return values

    stimulus = row.detach().repeat(rows, 1, 1, 1, 1).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda values: values)
    # What other threads keep would not be seen.
    with using_threads(1), torch.enable_grad(), hooks:
        score = objective.for_rows([0] * rows).to(row.device)(stimulus)
    del score
    return sum(kept.values())


def free_memory(device: torch.device) -> float:
    """Bytes of memory that are free on a device; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    limits = [_available_memory(), _available_in_control_group()]
    return min(limits)


def _available_memory() -> float:
    try:
        facts = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    return next((1024.0 * int(fact.split()[1]) for fact in facts if fact.startswith("MemAvailable")), float("inf"))


def _available_in_control_group() -> float:
    # A container, or a cluster's job, may have less than the machine.
    group = Path("/sys/fs/cgroup")
    try:
        return float((group / "memory.max").read_text(encoding="utf-8")) - float(
            (group / "memory.current").read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return float("inf")
