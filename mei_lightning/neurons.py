"""Naming neurons: a session and an index, alone or as a group that shares one stimulus."""

import hashlib
import operator
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias

from mei_lightning.arguments import in_short, plain
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError, UnknownNeuronError


@dataclass(frozen=True)
class Neuron:
    """A neuron of a model.

    Wherever the package takes one, ``(session, index)`` does as well, and an index for a model without sessions.

    Args:
        session: the name of its session, a text or a whole number, which is kept as text; None for a model without
            sessions.
        index: its number in the session, from 0.

    Raises:
        TypeError: if the session is neither a text nor a whole number.

    Example:
        >>> ml.Neuron("session_1", 5).label
        'session_1/5'
        >>> ml.Neuron(None, 3).label
        '3'
        >>> ml.Neuron(20240105, 5)
        Neuron(session='20240105', index=5)
    """

    session: str | None
    index: int

    def __post_init__(self) -> None:
        if self.session is not None:
            object.__setattr__(self, "session", session_name(self.session))

    @property
    def label(self) -> str:
        """``session/index``, or ``index`` for a model without sessions."""
        return f"{self.session}/{self.index}" if self.session else str(self.index)


def session_name(session: object) -> str:
    """The name of a session, which may be a whole number, such as a date, as a text.

    Raises:
        TypeError: if it is neither.
    """
    name = plain(session)
    if not isinstance(name, str | Integral) or isinstance(name, bool):
        raise InvalidTypeError(f"The name of session {in_short(session)} must be a text or a whole number.")
    return str(name)


NeuronLike: TypeAlias = Neuron | tuple[str | int, int] | int
NeuronOrGroup: TypeAlias = NeuronLike | Sequence[NeuronLike]


def as_neuron(neuron: Any, sessions: Collection[str] = ()) -> Neuron:
    """A neuron from ``(session, index)`` or ``index``.

    Args:
        neuron: what is given.
        sessions: names of a model's sessions, by which a whole number is known to be one.

    Raises:
        ValueError: if it is neither.
    """
    neuron = plain(neuron)
    if isinstance(neuron, Neuron):
        return neuron
    if isinstance(neuron, Integral) and not isinstance(neuron, bool):
        return Neuron(None, int(neuron))
    if isinstance(neuron, Sequence) and len(neuron) == 2:
        session, index = neuron[0], plain(neuron[1])
        if _names_session(session, sessions) and isinstance(index, Integral) and not isinstance(index, bool):
            return Neuron(None if session in (None, "") else session_name(session), int(index))
    raise InvalidValueError(
        f"{in_short(neuron)} is not a neuron: give (session, index), or an index for a model without sessions."
    )


def group_of(target: Any, sessions: Collection[str] = ()) -> tuple[Neuron, ...]:
    """The neurons of a row: a single one, or a group; ``sessions`` as for ``as_neuron``.

    Raises:
        ValueError: if the group is empty or something in it is not a neuron.
    """
    target = plain(target)
    if isinstance(target, Integral | Neuron):
        return (as_neuron(target),)
    if isinstance(target, Sequence) and target and (target[0] is None or isinstance(target[0], str)):
        return (as_neuron(target),)
    if _is_session_and_index(target, sessions):
        return (as_neuron(target, sessions),)
    if not isinstance(target, Sequence) or isinstance(target, str) or not target:
        raise InvalidValueError(
            f"{in_short(target)} names no neuron: give (session, index), an index, or a list of neurons."
        )
    return tuple(as_neuron(member, sessions) for member in target)


def groups_of(neurons: Any, sessions: Collection[str] = ()) -> list[tuple[Neuron, ...]]:
    """The neurons of each row, from a list or an array of neurons and groups, or from a single neuron.

    Args:
        neurons: what is given.
        sessions: as for ``as_neuron``.

    Raises:
        TypeError: if it is neither.
        ValueError: if a group is empty or something in it is not a neuron.
    """
    given = plain(neurons)
    if isinstance(given, Integral | Neuron) or _is_session_and_index(given, sessions):
        return [group_of(given, sessions)]
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        example = f"NeuronSelection(sessions=[{given!r}])" if isinstance(given, str) else "a NeuronSelection"
        raise InvalidTypeError(
            f"neurons={in_short(neurons)} names no neurons: give a list of (session, index), or of indices for a model "
            f"without sessions; {example}; or 'all'."
        )
    return [group_of(target, sessions) for target in given]


def _is_session_and_index(given: Any, sessions: Collection[str]) -> bool:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        return False
    return _names_session(given[0], sessions) and isinstance(plain(given[1]), Integral)


def _names_session(name: object, sessions: Collection[str]) -> bool:
    """Whether it can only be the name of a session: a whole number is one if the model has it, else an index."""
    name = plain(name)
    return name is None or isinstance(name, str) or (isinstance(name, Integral) and str(name) in sessions)


def group_label(group: Sequence[Neuron]) -> str:
    """The neuron's label, or the labels of a group joined by ``+``."""
    return "+".join(neuron.label for neuron in group)


def group_of_label(label: str, sessions: Collection[str]) -> tuple[Neuron, ...]:
    """The neurons that a label names, the reverse of ``group_label``.

    Args:
        label: of a neuron or a group.
        sessions: names of the model's sessions; none for a model without.
    """
    if not sessions:
        return tuple(Neuron(None, int(index)) for index in label.split("+"))
    # The name of a session can have any character in it, so that only the known ones tell where a member ends.
    known = "|".join(map(re.escape, sorted(sessions, key=len, reverse=True)))
    for name in (known, ".+?"):
        if re.fullmatch(rf"(?:(?:{name})/\d+\+)*(?:{name})/\d+", label, re.DOTALL):
            parts = re.findall(rf"({name})/(\d+)(?:\+|\Z)", label, re.DOTALL)
            return tuple(Neuron(session, int(index)) for session, index in parts)
    raise InvalidValueError(f"{in_short(label)} is no label of neurons, such as session/index.")


def seed_of_row(seed: int, group: Sequence[Neuron], restart: int) -> int:
    """A seed of 63 bits that depends on the run's seed, the row's neurons and the restart, and on nothing else."""
    text = f"{seed}|{group_label(group)}|{restart}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def check_neuron_indices(indices: Sequence[int], num_neurons: int, session: str | None) -> None:
    """Raise an IndexError unless every index names one of the session's neurons."""
    for index in indices:
        if not 0 <= operator.index(index) < num_neurons:
            where = "The model" if session is None else f"Session {session!r}"
            raise UnknownNeuronError(
                f"{where} has no neuron {index}: its {num_neurons} neurons are 0 to {num_neurons - 1}."
            )
