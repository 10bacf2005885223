"""Several norms, or root mean squares, in one call."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mei_lightning.arguments import in_short, plain, positive_number
from mei_lightning.exceptions import InvalidValueError

NAMES = ("norm", "rms")
"""Settings that say how large a stimulus is."""


class Sizes(NamedTuple):
    """Several sizes of a stimulus: the setting that names them, and its values."""

    name: str
    values: list[float]


def check_one_size(norm: object, rms: object) -> None:
    """Raise a ValueError if both say how large a stimulus is."""
    if norm is not None and rms is not None:
        raise InvalidValueError(
            f"norm={in_short(norm)} and rms={in_short(rms)} both say how large a stimulus is, in two ways: give one."
        )


def norm_of_rms(rms: float, entries: int) -> float:
    """The L2 norm of so many entries of a root mean square."""
    root = math.sqrt(entries)
    norm = rms * root
    # Who has divided a norm by the same root gets it back, in spite of rounding.
    rounded = float(f"{norm:.12g}")
    return rounded if rounded / root == rms else norm


def several_sizes(settings: Mapping[str, Any]) -> Sizes | None:
    """The sizes that settings ask for, if one of them is a list; None if it is a single one, or there is none.

    Raises:
        TypeError: if a value is no number.
        ValueError: if a value is not positive and finite, one is named twice, there is none, or both settings are
            given.
    """
    check_one_size(*(settings.get(name) for name in NAMES))
    for name in NAMES:
        values = plain(settings.get(name))
        if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping):
            return Sizes(name, _checked(name, list(values)))
    return None


def _checked(name: str, values: list[object]) -> list[float]:
    if not values:
        raise InvalidValueError(f"{name}=[] is empty: give at least one {name}, or leave it out.")
    numbers = [positive_number(name, value, ", as each value of a list") for value in values]
    for number in numbers:
        if numbers.count(number) > 1:
            raise InvalidValueError(f"{name}={in_short(values)} names {number:g} more than once: name it once.")
    return numbers
