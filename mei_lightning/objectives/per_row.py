"""Settings that may differ from row to row."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from mei_lightning.exceptions import InvalidValueError

Values: TypeAlias = Sequence[float] | Sequence[Sequence[float]]


def for_each_row(name: str, values: float | Values, rows: int, dimensions: int) -> list[Any]:
    """A setting of each row, from one for each or one for all, with so many dimensions."""
    given = np.asarray(values, dtype=np.float64)
    if not np.isfinite(given).all():
        raise InvalidValueError(f"{name} has values that are not finite.")
    if given.ndim == dimensions:
        given = np.broadcast_to(given, (rows, *given.shape))
    if given.ndim != dimensions + 1 or len(given) != rows:
        raise InvalidValueError(
            f"{name} of shape {np.shape(values)}: give one for all, or one for each of the {rows} rows."
        )
    return given.tolist()
