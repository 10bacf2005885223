"""Rows computed on a CPU in blocks of one size, several at a time, each on one thread.

Products are summed in an order that varies with the size of the matrices and with the number of threads that share
one. In blocks, a row's result is the same to the last bit however many rows and threads there are.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ROWS_PER_BLOCK = 16
"""Rows of a block. More would leave the caches, fewer take longer for each row."""

ROWS_OF_SMALLEST_BLOCK = 4
"""Rows of the smallest block with which the last rows are shared out among threads, and of which all are multiples."""

ROWS_LAST = (2, 3, 4, 1, 0)
"""Axes of values ``[rows, channels, time, height, width]`` in the order in which prepared cores compute."""
ROWS_FIRST = (4, 3, 0, 1, 2)
"""And back."""

_FEW_ROWS = 16
"""Rows that a thread treats at once, operation by operation. More would leave the caches; with fewer, threads spend
their time on waiting for each other between operations."""

_reserved: int | None = None
"""Threads that PyTorch would use, if they were not reserved for blocks."""

_this_thread = threading.local()
"""``in_block``: whether it is computing a block at the moment, which it does not divide any further."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_blocks(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The results of a differentiable function ``[..., rows]`` of values ``[..., rows]``, each row's for itself.

    Args:
        function: computes any block of ``ROWS_PER_BLOCK`` rows. It is called from several threads.
        values: rows last, on a CPU.
    """
    rows = values.shape[-1]
    if _in_block() and rows <= ROWS_PER_BLOCK and rows % ROWS_OF_SMALLEST_BLOCK == 0:
        return function(values)
    if torch.is_grad_enabled() and values.requires_grad:
        return _InBlocks.apply(values, function)  # type: ignore[no-any-return]
    return _joined(on_one_thread_each(function, _blocks(values)), values.shape[-1])


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        def compute(block: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                block = block.detach().requires_grad_()
                return block, function(block)

        ctx.blocks = on_one_thread_each(compute, _blocks(values))
        return _joined([result.detach() for _, result in ctx.blocks], values.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        def compute(block: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
            (values, result), gradient_of_result = block
            values.grad = None
            # Not autograd.grad, in which PyTorch's counter of operations fails.
            result.backward(gradient_of_result, retain_graph=True)
            assert values.grad is not None
            return values.grad

        pairs = list(zip(ctx.blocks, _blocks(gradient), strict=True))
        return _joined(on_one_thread_each(compute, pairs), gradient.shape[-1]), None


def _blocks(values: Tensor) -> tuple[Tensor, ...]:
    return F.pad(values, (0, -values.shape[-1] % ROWS_PER_BLOCK)).split(ROWS_PER_BLOCK, dim=-1)


def _joined(blocks: Sequence[Tensor], rows: int) -> Tensor:
    return torch.cat(list(blocks), dim=-1)[..., :rows]


def sizes_of_blocks(rows: int, smallest: int) -> list[int]:
    """How many rows the blocks have room for that compute so many rows, such that no thread waits long for another.

    Args:
        rows: how many there are.
        smallest: rows of the smallest block that there may be.
    """
    threads = _threads()
    full = rows // (threads * ROWS_PER_BLOCK) * threads
    left = rows - full * ROWS_PER_BLOCK
    size = smallest * math.ceil(left / (threads * smallest))
    return [ROWS_PER_BLOCK] * full + ([size] * math.ceil(left / size) if left else [])


def _threads() -> int:
    return _reserved or torch.get_num_threads()


def on_one_thread_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What a function returns for each item, computed on as many threads as PyTorch uses, each item on one of them."""
    threads = _threads()
    if _in_block():
        return [function(item) for item in items]
    grad_enabled = torch.is_grad_enabled()

    def compute(item: Item) -> Result:
        _this_thread.in_block = True
        try:
            with torch.set_grad_enabled(grad_enabled):
                return function(item)
        finally:
            _this_thread.in_block = False

    run = map if threads == 1 else _pool(os.getpid(), threads).map
    return list(run(compute, items))


def _in_block() -> bool:
    return getattr(_this_thread, "in_block", False)


def map_row_chunks(function: Callable[[slice], None], rows: int, device: torch.device) -> None:
    """Call a function, which treats each row for itself, for all rows: at once, or for a few at a time.

    A CPU whose threads are reserved for blocks treats a few rows on each of them, which stay in its cache.

    Args:
        function: is called with slices of the rows, maybe from several threads.
        rows: how many there are.
        device: where they are.
    """
    if device.type == "cpu" and (_reserved or torch.get_num_threads() == 1):
        parts = [slice(row, row + _FEW_ROWS) for row in range(0, rows, _FEW_ROWS)]

        def compute(own: Sequence[slice]) -> None:
            for part in own:
                function(part)

        # To hand each part to a thread would take as long as a part.
        on_one_thread_each(compute, [parts[number :: _threads()] for number in range(min(_threads(), len(parts)))])
    else:
        function(slice(rows))


@contextmanager
def threads_reserved_for_blocks() -> Iterator[None]:
    """Compute all that is not in blocks on one thread.

    PyTorch's own threads keep a core busy while they wait for more, which slows blocks down by a half; NumPy's are
    stopped from sharing a product that is a part of a block.
    """
    global _reserved
    threads = torch.get_num_threads()
    if _reserved is not None:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        if threads == 1:
            yield
            return
        _reserved = threads
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            _reserved = None


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let PyTorch share its work among so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_threads() -> AbstractContextManager[None]:
    """Use the threads that are reserved for blocks for other things."""
    return using_threads(_threads())


@cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    """Threads of a process (a fork has none of its parent's) in which PyTorch uses no further ones."""
    all_started = threading.Barrier(count)

    def start() -> None:
        # PyTorch sets a new thread up at its first computation, which would undo what is set before.
        torch.get_num_threads()
        torch.set_num_threads(1)

    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "mei_lightning", initializer=start)
    list(pool.map(lambda _: all_started.wait(), range(count)))
    # The number is kept for each thread, but new threads are given the one that was set last.
    torch.set_num_threads(before)
    return pool
