"""What a store says of each neuron besides its stimulus: every variable once.

A further one is an entry in ``VARIABLES``, and a field of ``MEIResult`` of the same name or a function of the others.
Stores, the table of measures and the report have it by that.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

PENDING = "pending"
INTERRUPTED = "interrupted"
STATUSES = ("converged", "step limit", "no gradient", "not finite", "given up", INTERRUPTED)
"""How a neuron can end; until then it is pending."""

STIMULUS_DIMENSIONS = ("neuron", "channel", "time", "y", "x")
DIMENSIONS = (*STIMULUS_DIMENSIONS, "response_time", "restart")


@dataclass(frozen=True)
class Variable:
    """A variable with a value, or values, for each neuron.

    Args:
        name: of the variable, and of the field of ``MEIResult`` that it is from.
        pending: its value before there is a result.
        long_name: what it is.
        units: of its values.
        dimensions: of the values of one neuron.
        dtype: of its values; None for that of the stimuli.
        derived: makes it from the values of a neuron's other variables, by name, in place of a field.
        in_table: whether the table of measures has it, if it fits into columns.
        in_report: whether the report shows it, if it fits into columns. What is in the table is in any report of a
            store that has been analysed.
    """

    name: str
    pending: Any
    long_name: str
    units: str | None = None
    dimensions: tuple[str, ...] = ()
    dtype: DTypeLike | None = np.float64
    derived: Callable[[Mapping[str, Any]], Any] | None = field(default=None, kw_only=True)
    in_table: bool = field(default=True, kw_only=True)
    in_report: bool = field(default=True, kw_only=True)

    def fits_into_columns(self) -> bool:
        """Whether it is one value for each neuron, or one for each neuron and channel."""
        return self.dimensions in ((), ("channel",))

    def empty(self, sizes: Mapping[Any, int], stimulus_type: np.dtype) -> np.ndarray:
        """Its values, ``[neuron, ...]``, before there is a result."""
        shape = [sizes[dimension] for dimension in ("neuron", *self.dimensions)]
        return np.full(shape, self.pending, stimulus_type if self.dtype is None else self.dtype)

    def attributes(self) -> dict[str, str]:
        """What a dataset says of it."""
        return {"long_name": self.long_name, **({} if self.units is None else {"units": self.units})}

    def recorded(self, value: Any, stimulus_type: np.dtype) -> Any:
        """A neuron's value as its record in JSON holds it."""
        if self.dtype is None:
            return base64.b64encode(np.asarray(value, dtype=stimulus_type).tobytes()).decode()
        return np.asarray(value, dtype=self.dtype).tolist()

    def read(self, record: Mapping[str, Any], empty: np.ndarray) -> Any:
        """A neuron's value from its record, like the ``empty`` values of any neuron."""
        if record["status"] == PENDING:
            return self.pending
        if self.dtype is None:
            return np.frombuffer(base64.b64decode(record[self.name]), dtype=empty.dtype).reshape(empty.shape)
        return record[self.name]


def values_of(
    record: Mapping[str, Any], variables: Sequence[Variable], empty: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The values of a neuron by name, from its record.

    Args:
        record: of the neuron.
        variables: what is wanted.
        empty: the values of each variable for a neuron without a result.

    Raises:
        ValueError, LookupError, TypeError: if there is something wrong with the record.
        RuntimeError: if a variable cannot be derived from the others.
    """
    values = {it.name: it.read(record, empty[it.name]) for it in variables if it.derived is None}
    for it in variables:
        if it.derived is None:
            continue
        try:
            values[it.name] = it.pending if record["status"] == PENDING else it.derived(values)
        except Exception as error:
            raise RuntimeError(f"{it.name} of neuron {record['number']} cannot be derived: {error}") from error
    return values


def _spread(values: Mapping[str, Any]) -> float:
    scores = np.array(values["restart_scores"])
    optimised = scores[~np.isnan(scores)]
    if len(optimised) < 2:
        return np.nan
    with np.errstate(all="ignore"):
        return float(optimised.std() / np.abs(np.float64(values["score"])))


VARIABLES = (
    Variable("score", np.nan, "score of the stimulus"),
    Variable("status", PENDING, "how the optimisation ended", dtype=f"U{max(map(len, (PENDING, *STATUSES)))}"),
    Variable("steps", 0, "steps of the best restart", dtype=np.int64, in_table=False),
    Variable(
        "score_spread",
        np.nan,
        "standard deviation of the restarts' scores as a share of the score",
        derived=_spread,
        in_table=False,
    ),
    # In the table it is the measure seed_stability.
    Variable("restart_similarity", np.nan, "mean similarity of the restarts' stimuli", in_table=False),
    Variable("best_restart", -1, "restart that the stimulus is from", dtype=np.int64, in_table=False, in_report=False),
    Variable("seed", -1, "seed of the best restart", dtype=np.int64, in_table=False, in_report=False),
    Variable("response", np.nan, "response to the stimulus", "model units", ("response_time",), None),
    Variable("restart_scores", np.nan, "score of each restart; NaN if it was given up early", None, ("restart",)),
)
"""In the order of the report's columns."""


def table_variables() -> list[Variable]:
    """The variables that the table of measures has."""
    return [it for it in VARIABLES if it.in_table and it.fits_into_columns()]


def report_variables() -> list[Variable]:
    """The variables that the report shows of a run."""
    return [it for it in VARIABLES if it.in_report and it.fits_into_columns()]
