"""Kernels, waits and copies of an emulated device, by the line of source that they come from."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ELSEWHERE = "elsewhere"
_THIS_FOLDER = f"{Path(__file__).parent}/"


class Counts:
    """How often what has happened, where.

    Args:
        source: the folder whose lines are told apart.
    """

    def __init__(self, source: Path) -> None:
        self._folder = f"{source}/"
        self._is_paused = False
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._events: dict[str, Counter[tuple[str, str]]] = {"kernel": Counter(), "wait": Counter(), "copy": Counter()}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing in the meantime."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def add(self, kind: str, what: str) -> None:
        """Count a "kernel", a "wait" of the host for the device, or a "copy" from the host to the device."""
        if self._is_paused:
            return
        self._events[kind][what, self._line()] += 1

    def by_line(self, kind: str) -> Counter[str]:
        """How often by line, as ``file:line`` relative to the folder."""
        lines: Counter[str] = Counter()
        for (_, line), count in self._events[kind].items():
            lines[line] += count
        return lines

    @property
    def kernels(self) -> int:
        """Kernels that the device has been given."""
        return self._events["kernel"].total()

    @property
    def waits(self) -> int:
        """How often the host has waited until the device was done."""
        return self._events["wait"].total()

    @property
    def copies(self) -> int:
        """Copies from the host to the device."""
        return self._events["copy"].total()

    def report(self, most: int = 25) -> str:
        """The lines with most of each kind, to be printed."""
        parts = []
        for kind, events in self._events.items():
            parts.append(f"{kind}: {events.total()}")
            parts += [f"  {count:6d}  {what:28s} {line}" for (what, line), count in events.most_common(most)]
        return "\n".join(parts)

    def _line(self) -> str:
        frame = sys._getframe(2)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self._folder) and not name.startswith(_THIS_FOLDER):
                return f"{name[len(self._folder) :]}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return ELSEWHERE
