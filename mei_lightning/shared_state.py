"""What a process has once, while several threads want it otherwise."""

import threading
from collections.abc import Callable
from contextlib import ContextDecorator


class SharedByThreads(ContextDecorator):
    """A state of the whole process that is changed while any thread is inside.

    Each thread that put back what it had found would put back what another one had set.

    Args:
        change: changes the state, and returns what changes it back.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._inside = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._change_back = self._change()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._change_back()
