"""Which processes have worked on a store, and when: its starts and ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mei_lightning.results.journal import Journal
from mei_lightning.shard import Shard

_FOLDER = "starts"


@dataclass(frozen=True)
class Start:
    """A start of a run, or of one of its shards.

    Args:
        shard: which one; None for an undivided run.
        time: nanoseconds since 1970.
    """

    shard: Shard | None
    time: int


def note_start(store: Path, shard: Shard | None) -> None:
    """Keep in a store that a process begins to write it.

    Raises:
        OSError: if there is no space.
        PermissionError: if the store is read-only.
    """
    folder = store / _FOLDER
    # Stores of version 0.1 have none.
    folder.mkdir(exist_ok=True)
    Journal(folder).append({"shard": None if shard is None else list(shard)})


def starts_of(store: Path) -> Sequence[Start]:
    """All starts that a store knows of, the first one first."""
    found: list[Start] = []

    def take_in(record: dict[str, Any]) -> None:
        shard = record["shard"]
        found.append(Start(None if shard is None else Shard.of(shard), int(record["time"])))

    if (store / _FOLDER).is_dir():
        Journal(store / _FOLDER).read(take_in)
    return sorted(found, key=lambda start: start.time)
