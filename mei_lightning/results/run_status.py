"""How far a run is: what is done of what is asked for, by which shard, how fast, and how long the rest takes."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mei_lightning.exceptions import BusyStoreError, NotPermittedError
from mei_lightning.results.claim import is_claimed, turn
from mei_lightning.results.dataset import check_store
from mei_lightning.results.schema import INTERRUPTED, PENDING
from mei_lightning.results.starts import Start, starts_of
from mei_lightning.results.store import MEIStore
from mei_lightning.shard import Shard

_NANOSECONDS_IN_A_MINUTE = 60e9
_SECONDS_FOR_A_TURN = 5.0
_FAILURES = ("no gradient", "not finite")


def run_status(store: str | Path) -> dict[str, Any]:
    """What is done in the store of a run, by which shard, how fast, and how long the rest takes.

    It reads the records of all processes, also while they write, and changes nothing in the store.

    Args:
        store: where the MEIs are, e.g. ``"results/meis.zarr"``.

    Returns:
        ``neurons``, how many are asked for, ``done``, how many are done, ``statuses``, how many neurons ended how,
        "pending" and "interrupted" among them, ``neurons_per_minute`` of all that run now, ``minutes_left`` until the
        last of them ends (NaN if that is not known, or a shard with something left to do does not run), and ``shards``,
        a table with a row for each shard of the latest division, or a single one, "1/1", of an undivided run. Its
        columns are ``shard``, ``state`` ("done", "running", "stopped", "not begun", or "unknown" where nothing can be
        written beside the store), ``neurons``, ``done``, ``failed`` (no gradient, or not finite), ``starts`` (how often
        it was begun), ``neurons_per_minute`` since the last start, and ``minutes_left``.

    Raises:
        FileNotFoundError: if there is no store.
        ValueError: if it is none that a run fills.

    Example:
        >>> chosen = [("session_1", number) for number in range(3)]
        >>> options = {"search": "quick", "max_steps": 4, "directory": "results", "progress_bar": False}
        >>> meis = ml.find_meis("simulated", chosen, shard=(1, 2), **options)
                   step limit  median score  median steps
        ...
        >>> status = ml.run_status("results/meis.zarr")
        >>> status["done"], status["neurons"], status["statuses"]
        (2, 3, {'pending': 1, 'step limit': 2})
        >>> print(status["shards"][["shard", "state", "neurons", "done"]].to_string(index=False))
        shard     state  neurons  done
          1/2      done        2     2
          2/2 not begun        1     0
    """
    path = check_store(store)
    statuses, times = MEIStore(path).progress()
    starts = starts_of(path)
    divided = starts[-1].shard if starts else None
    count = 1 if divided is None else divided.total
    parts = [Shard(number, count) for number in range(1, count + 1)]
    claimed = _claimed(path, parts if divided is not None else [None])
    table = pd.DataFrame(
        [
            _status_of(part, statuses, times, [it for it in starts if it.shard == asked], running)
            for part, asked, running in zip(parts, parts if divided is not None else [None], claimed, strict=True)
        ]
    )
    going = table["state"] == "running"
    waiting = table["state"].isin(["stopped", "not begun"]) & (table["neurons"] > 0)
    left = table.loc[table["state"] != "done", "minutes_left"]
    return {
        "neurons": len(statuses),
        "done": int(_is_done(statuses).sum()),
        "statuses": {str(name): int(n) for name, n in zip(*np.unique(statuses, return_counts=True), strict=True)},
        "neurons_per_minute": float(table.loc[going, "neurons_per_minute"].sum()),
        "minutes_left": math.nan if waiting.any() else float(left.max(skipna=False)) if len(left) else 0.0,
        "shards": table,
    }


def _status_of(
    part: Shard, statuses: np.ndarray, times: np.ndarray, starts: Sequence[Start], running: bool | None
) -> dict[str, Any]:
    numbers = list(part.numbers(len(statuses)))
    own = statuses[numbers]
    done = _is_done(own)
    left = len(own) - int(done.sum())
    state = "running" if running else "done" if not left else "not begun" if not starts else "stopped"
    if left and starts and running is None:
        state = "unknown"
    begun = starts[-1].time if starts else 0
    since = times[numbers][done & (times[numbers] > begun)]
    # A process that works is at it until now, and another one was until its last neuron.
    until = max(time.time_ns(), since.max(initial=0)) if running else since.max(initial=0)
    minutes = (until - begun) / _NANOSECONDS_IN_A_MINUTE
    rate = len(since) / minutes if begun and len(since) and minutes > 0 else math.nan
    return {
        "shard": str(part),
        "state": state,
        "neurons": len(own),
        "done": int(done.sum()),
        "failed": int(np.isin(own, _FAILURES).sum()),
        "starts": len(starts),
        "neurons_per_minute": rate,
        "minutes_left": 0.0 if not left else left / rate,
    }


def _is_done(statuses: np.ndarray) -> np.ndarray:
    return ~np.isin(statuses, (PENDING, INTERRUPTED))


def _claimed(store: Path, parts: Sequence[Shard | None]) -> list[bool | None]:
    """Whether each part is being written now; None if that cannot be found out."""
    try:
        with turn(store, _SECONDS_FOR_A_TURN):
            return [is_claimed(store, part) for part in parts]
    except (BusyStoreError, NotPermittedError):
        return [None] * len(parts)
