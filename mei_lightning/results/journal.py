"""Records of what many processes have done, in a folder that any of them appends to without a lock."""

import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """A folder of journals, one for each process that appends, whose lines are records.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._latest = 0
        self._bytes_read: dict[str, int] = {}
        self._own: tuple[int, Path] | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Write a record, with a ``time`` that is later than those of all records that this object has read."""
        self._latest = max(time.time_ns(), self._latest + 1)
        line = json.dumps({**record, "time": self._latest})
        # A journal for each process: on network file systems two cannot append to one file.
        if self._own is None or self._own[0] != os.getpid():
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.jsonl"
            self._own = os.getpid(), self.path / name
        with self._own[1].open("ab") as journal:
            # Ends a line that a full disk has cut.
            journal.write(f"\n{line}\n".encode())

    def read(self, take_in: Callable[[dict[str, Any]], None]) -> None:
        """Read what has been recorded since the last call.

        Args:
            take_in: is given each record; a ValueError, LookupError or TypeError of it means that there is something
                wrong with the record.

        Warns:
            UserWarning: for each record that cannot be read.
        """
        with os.scandir(self.path) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.endswith(".jsonl") and entry.stat().st_size > self._bytes_read.get(entry.name, 0)
            )
        for name in names:
            for line in self._new_lines(name):
                try:
                    record = json.loads(line)
                    take_in(record)
                    self._latest = max(self._latest, int(record["time"]))
                except (ValueError, LookupError, TypeError) as error:
                    warnings.warn(
                        f"A record in {self.path / name} cannot be read ({error}): its neuron counts as not written.",
                        stacklevel=4,
                    )

    def _new_lines(self, name: str) -> list[bytes]:
        with (self.path / name).open("rb") as journal:
            journal.seek(self._bytes_read.get(name, 0))
            text = journal.read()
        # The last line may be in the making.
        text = text[: text.rfind(b"\n") + 1]
        self._bytes_read[name] = self._bytes_read.get(name, 0) + len(text)
        return list(filter(None, text.split(b"\n")))
