"""A share of the neurons of a run, for processes that know nothing of each other."""

import re
from typing import Any, NamedTuple

from mei_lightning.arguments import in_short, several, whole_number
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError

_FORM = "give which one of how many, counted from 1, e.g. shard='3/16'"


class Shard(NamedTuple):
    """One of several shares of the neurons that are asked for: every ``total``-th, from the ``number``-th on.

    Args:
        number: which one, from 1 to ``total``.
        total: how many there are.
    """

    number: int
    total: int

    @classmethod
    def of(cls, value: Any) -> "Shard":
        """The shard that a pair of numbers or a text, such as "3/16", names.

        Raises:
            TypeError: if it is neither.
            ValueError: if there is no such shard.
        """
        given = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", value) if isinstance(value, str) else None
        parts = several(value) if given is None else [int(part) for part in given.groups()]
        if len(parts) != 2:
            raise InvalidTypeError(f"shard={in_short(value)}: {_FORM}.")
        number, total = (whole_number("shard", part, way_out=f"{_FORM.capitalize()}.") for part in parts)
        if not 1 <= number <= total:
            from_zero = " Numbers count from 1, as of a job array with --array=1-16." if number == 0 < total else ""
            raise InvalidValueError(f"shard={in_short(value)}: {_FORM}.{from_zero}")
        return cls(number, total)

    def numbers(self, neurons: int) -> range:
        """The numbers of its neurons, of so many that are asked for; none if there are more shards than neurons."""
        return range(self.number - 1, neurons, self.total)

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def shard_in(directory: object, shard: Any, per_member: bool, repeats: int) -> Shard:
    """The shard that is asked for, of a run in a directory.

    Raises:
        TypeError, ValueError: as ``Shard.of``.
        ValueError: if there is no directory, or members of an ensemble, or repeats, are to be compared.
    """
    asked = Shard.of(shard)
    if directory is None:
        raise InvalidValueError(
            f"shard={str(asked)!r} needs a directory, the same for all shards: give directory='results', say."
        )
    if per_member:
        raise InvalidValueError(
            f"shard={str(asked)!r} with per_member=True: the comparison needs the MEIs of all shards. Divide the run "
            "of the ensemble (in directory), and that of each member (members=[0] in directory/member_0, and so on); "
            "then the call with per_member=True, without shard, finds all done and compares."
        )
    if repeats:
        raise InvalidValueError(
            f"shard={str(asked)!r} with repeats={repeats}: the comparison needs the MEIs of all shards. Divide the "
            "run (in directory), and each repeat (with the next seed, in directory/repeat_1, and so on); then the call "
            f"with repeats={repeats}, without shard, finds all done and compares."
        )
    return asked
