"""Choosing neurons of a model by what they are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mei_lightning.arguments import in_short, several, whole_number, whole_numbers
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.neurons import Neuron, check_neuron_indices, session_name
from mei_lightning.wording import first_few


@dataclass(frozen=True)
class NeuronSelection:
    """Neurons of a model that meet every condition given; without conditions, all of them.

    Args:
        sessions: names of recording sessions.
        indices: indices of neurons, the same in each session.
        where: columns of the model's neuron table with the value they must have, or a list of values, e.g.
            ``{"type": "color_opponent"}`` or, for a boolean column, ``{"good_quality": True}``.
        sample: choose so many at random from those that meet the conditions.
        seed: determines the random choice.
        together: a column of the table: neurons with the same value in it are one group, which shares a stimulus.
            "session" makes each session's population a group.

    Raises:
        TypeError: if an argument is of a wrong type.
        ValueError: if the seed is negative. What a model does not have is refused by ``of``.

    Example:
        >>> model = ml.load_model("simulated")
        >>> chosen = ml.NeuronSelection(sessions=["session_1"], where={"type": "on_off"})
        >>> [neuron.label for neuron in chosen.of(model)]
        ['session_1/4', 'session_1/12', 'session_1/20', 'session_1/28']
        >>> by_type = ml.NeuronSelection(together="type").of(model)  # for find_meis: one stimulus for each type
        >>> len(by_type)
        8
    """

    sessions: Sequence[str | int] | None = None
    indices: Sequence[int] | None = None
    where: Mapping[str, bool | int | float | str | Sequence[bool | int | float | str]] | None = None
    sample: int | None = None
    seed: int = 0
    together: str | None = None

    def __post_init__(self) -> None:
        if self.sessions is not None:
            object.__setattr__(self, "sessions", [session_name(name) for name in several(self.sessions)])
        if self.indices is not None:
            object.__setattr__(self, "indices", whole_numbers("indices", self.indices))
        if self.where is not None and not isinstance(self.where, Mapping):
            raise InvalidTypeError(
                f"where={in_short(self.where)} must name columns of the neuron table and what they hold, e.g. "
                'where={"type": "on_off"}.'
            )
        if self.sample is not None:
            object.__setattr__(self, "sample", whole_number("sample", self.sample))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, least=0))
        if self.together is not None and not isinstance(self.together, str):
            raise InvalidTypeError(f"together={in_short(self.together)} must be the name of a column.")

    def of(self, model: RetinaModel) -> list[Neuron] | list[list[Neuron]]:
        """The chosen neurons of a model, or groups of them, in the order of its table.

        Raises:
            ValueError: if a session, column or value does not exist, nothing is left, or there are fewer neurons
                than the sample asks for.
            IndexError: if a session has no neuron of an index asked for.
        """
        table = model.neurons
        if self.sessions is not None:
            for session in self.sessions:
                model.check_session(session)
            table = table[table["session"].isin(list(self.sessions))]
        if self.indices is not None:
            for session in table["session"].unique():
                check_neuron_indices(self.indices, model.neurons_per_session[session], session or None)
            table = table[table["index"].isin(list(self.indices))]
        for column, value in (self.where or {}).items():
            table = table[_has_value(model.neurons, column, value).loc[table.index]]
        if self.sample is not None:
            if not 1 <= self.sample <= len(table):
                raise InvalidValueError(
                    f"sample={self.sample} is not between 1 and the {len(table)} neurons to choose from."
                )
            table = table.sample(self.sample, random_state=self.seed).sort_index()
        if table.empty:
            raise InvalidValueError(f"No neuron of model '{model.name}' meets all conditions of {self}.")
        neurons = [
            Neuron(session if model.has_sessions else None, int(index))
            for session, index in zip(table["session"], table["index"], strict=True)
        ]
        if self.together is None:
            return neurons
        _check_column(table, self.together)
        groups: dict[object, list[Neuron]] = {}
        for value, neuron in zip(table[self.together], neurons, strict=True):
            groups.setdefault(value, []).append(neuron)
        return list(groups.values())


def _has_value(table: pd.DataFrame, column: str, value: object) -> pd.Series:
    _check_column(table, column)
    values = several(value)
    for wanted in values:
        if isinstance(wanted, Iterable) and not isinstance(wanted, str):
            raise InvalidTypeError(f"where: {column}={in_short(wanted)} must be a value, or a list of values.")
        if not (table[column] == wanted).any():
            existing = first_few(table[column].unique(), most=20)
            raise InvalidValueError(f"No neuron has {column} = {wanted!r}; there is {existing}.")
    return table[column].isin(values)


def _check_column(table: pd.DataFrame, column: str) -> None:
    if not isinstance(column, str) or column not in table:
        raise InvalidValueError(f"The neuron table has no column {column!r}; it has {', '.join(table.columns)}.")
