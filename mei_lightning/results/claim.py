"""Who may write what in a store: one run all of it, or processes a shard each."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mei_lightning.exceptions import BusyStoreError
from mei_lightning.results.lock import RunLock
from mei_lightning.shard import Shard

_SECONDS_BETWEEN_TRIES = 0.1
_LONGEST_TURN = 900.0
"""Seconds to wait for a turn: another process makes the store in its own, or draws the pictures of a whole run."""


class Claim:
    """The right of a run to write a store, or of a process to write one shard of it.

    A run keeps all others out. Shards of the same number of shards write side by side, each of them once. Who takes
    a claim, makes the store, or summarises it for others, does so when it is its turn.

    Args:
        store: the store.
        shard: the shard; None for all of the store.
    """

    def __init__(self, store: Path, shard: Shard | None = None) -> None:
        self.store = store
        self.shard = shard
        self._lock = RunLock(store) if shard is None else _lock_of(store, shard)

    def acquire(self) -> None:
        """Take it; when it is one's turn.

        Raises:
            BlockingIOError: if another process has it, or one that would be in the way.
            PermissionError: if the directory cannot be written to.
            OSError: if there is no space.
        """
        self._lock.acquire()
        try:
            if self.shard is not None:
                _check_free(RunLock(self.store))
            for other in _shards_beside(self.store):
                if self.shard is None or self.shard.total != other.total:
                    _check_free(_lock_of(self.store, other))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give it back, if this object has it."""
        self._lock.release()


@contextmanager
def turn(store: Path, seconds: float = _LONGEST_TURN) -> Iterator[None]:
    """A time in which no other process begins, makes the store or summarises it.

    Args:
        store: the store.
        seconds: how long to wait for it.

    Raises:
        BlockingIOError: if others take longer.
        PermissionError: if the directory cannot be written to.
        OSError: if there is no space.
    """
    lock = RunLock(store, "turn", f"{store} is being begun or summarised by another process")
    last = time.monotonic() + seconds
    while True:
        try:
            lock.acquire()
            break
        except BusyStoreError:
            if time.monotonic() >= last:
                raise
            time.sleep(_SECONDS_BETWEEN_TRIES)
    try:
        yield
    finally:
        lock.release()


def is_claimed(store: Path, shard: Shard | None = None) -> bool:
    """Whether a process is writing a store, or a shard of it, at this moment; when it is one's turn."""
    lock = RunLock(store) if shard is None else _lock_of(store, shard)
    if not lock.path.exists():
        return False
    with suppress(BusyStoreError):
        _check_free(lock)
        return False
    return True


def _lock_of(store: Path, shard: Shard) -> RunLock:
    taken = f"Shard {shard} of {store} is being computed by another process"
    return RunLock(store, f"shard_{shard.number}_of_{shard.total}", taken)


def _shards_beside(store: Path) -> list[Shard]:
    """Those that have a lock file, also one that a killed process has left."""
    pattern = re.compile(rf"{re.escape(store.name)}\.shard_(\d+)_of_(\d+)\.lock")
    found = [pattern.fullmatch(path.name) for path in store.parent.iterdir()]
    return [Shard(int(match[1]), int(match[2])) for match in found if match]


def _check_free(lock: RunLock) -> None:
    """Refuse a lock that somebody has; of one that nobody has the file is gone then."""
    if lock.path.exists():
        lock.acquire()
        lock.release()
