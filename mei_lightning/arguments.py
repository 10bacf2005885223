"""What arguments have to be, and what to say if they are something else."""

import difflib
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from torch import Tensor

from mei_lightning.exceptions import InvalidTypeError, InvalidValueError, NothingThereError

_LONGEST = 60
"""So many characters of a value stand in a message."""


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number that is not too small."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: object) -> bool:
    """Whether a value is a positive, finite number."""
    return is_number(value) and float(value) > 0  # type: ignore[arg-type]


def in_short(value: object) -> str:
    """A value as a message names it, in one line."""
    if isinstance(value, np.ndarray | Tensor) and value.ndim:
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return text if len(text) <= _LONGEST and "\n" not in text and " at 0x" not in text else type(value).__name__


def plain(value: object) -> object:
    """An array or tensor as lists of plain numbers, or as a number if it has no dimensions; else the value itself."""
    return value.tolist() if isinstance(value, np.ndarray | Tensor | np.generic) else value


def whole_number(name: str, value: object, least: int | None = None, way_out: str = "") -> int:
    """A whole number, also from an array or tensor without dimensions.

    Args:
        name: of the argument.
        value: its value.
        least: the least that it may be.
        way_out: a sentence for the message, of what to give.

    Raises:
        TypeError: if it is none.
        ValueError: if it is too small.
    """
    given = plain(value)
    way_out = f" {way_out}" if way_out else ""
    if not isinstance(given, Integral) or isinstance(given, bool):
        raise InvalidTypeError(f"{name}={in_short(value)} must be a whole number.{way_out}")
    if least is not None and given < least:
        raise InvalidValueError(f"{name}={given} must be at least {least}.{way_out}")
    return int(given)


def whole_numbers(name: str, value: object, least: int | None = None) -> list[int]:
    """Whole numbers from a list, an array, or a single one; errors are those of ``whole_number``."""
    return [whole_number(name, one, least) for one in several(value)]


def several(value: object) -> list[object]:
    """What a list, an array or anything else that can be gone through holds; of a single value, a text too, itself."""
    values = plain(value)
    alone = isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable)
    return [values] if alone else list(values)  # type: ignore[call-overload]


def number(name: str, value: object) -> float:
    """A finite number, also from an array or tensor without dimensions.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not finite.
    """
    given = plain(value)
    if not isinstance(given, Real) or isinstance(given, bool):
        raise InvalidTypeError(f"{name}={in_short(value)} must be a number.")
    if not math.isfinite(given):
        raise InvalidValueError(f"{name}={given} must be finite.")
    return float(given)


def positive_number(name: str, value: object, way_out: str = "") -> float:
    """A positive, finite number, also from an array or tensor without dimensions.

    Args:
        name: of the argument.
        value: its value.
        way_out: the end of the message's sentence, of what else to give.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not positive and finite.
    """
    given = plain(value)
    if not isinstance(given, Real) or isinstance(given, bool):
        raise InvalidTypeError(f"{name}={in_short(value)} must be one positive, finite number{way_out}.")
    if not 0 < float(given) < math.inf:
        raise InvalidValueError(f"{name}={given} must be positive and finite{way_out}.")
    return float(given)


Pair = tuple[float | None, float | None]


def pairs(name: str, value: object) -> list[Pair | None] | Pair:
    """``(low, high)`` for each of several things, or a single one for all; None stands for no limit.

    Raises:
        TypeError: if it is neither.
    """
    given = several(value)
    if len(given) == 2 and any(isinstance(plain(one), Real) for one in given):
        return _pair(name, value, given)
    if not isinstance(plain(value), Iterable) or isinstance(value, str | bytes | Mapping):
        raise _no_pairs(name, value)
    return [None if one is None else _pair(name, value, several(one)) for one in given]


def _pair(name: str, value: object, pair: list[object]) -> Pair:
    limits = [plain(limit) for limit in pair]
    if len(limits) != 2 or not all(
        limit is None or (isinstance(limit, Real) and not isinstance(limit, bool)) for limit in limits
    ):
        raise _no_pairs(name, value)
    low, high = (None if limit is None else float(limit) for limit in limits)  # type: ignore[arg-type]
    return low, high


def _no_pairs(name: str, value: object) -> InvalidTypeError:
    return InvalidTypeError(
        f"{name}={in_short(value)}: give one (low, high) for each channel, e.g. {name}=[(-1, 1), None], or a single "
        "one for all."
    )


def load_array(path: Path) -> np.ndarray:
    """The array in a file (``.npy``).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    if not path.is_file():
        raise NothingThereError(f"There is no array at {path}.")
    try:
        return np.load(path)  # type: ignore[no-any-return]
    except (ValueError, EOFError) as error:
        raise InvalidValueError(f"{path} holds no array of numbers: {error}") from error


def flag(name: str, value: object) -> bool:
    """True or False, also NumPy's.

    Raises:
        TypeError: if it is neither.
    """
    answer = plain(value)
    if not isinstance(answer, bool):
        raise InvalidTypeError(f"{name}={in_short(value)} must be True or False.")
    return answer


def check_instance(name: str, value: object, kind: type, example: str, form: str = "{}") -> None:
    """Refuse a value that is no instance of a class, such as one of its subclasses or the name of one.

    Args:
        name: of the argument.
        value: its value, or a part of it.
        kind: the class.
        example: what to give, if nothing nearer is known.
        form: how it has to be given.

    Raises:
        TypeError: that names the value and what to give.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type) and issubclass(value, kind):
        raise InvalidTypeError(
            f"{name}={form.format(value.__name__)} is a class, where an instance of it is needed: give "
            f"{name}={form.format(f'{value.__name__}(...)')}."
        )
    if isinstance(value, str):
        names = [found.__name__ for found in _subclasses(kind)]
        example = next((f"{near}(...)" for near in difflib.get_close_matches(value, names, 1)), example)
    given = repr(value) if isinstance(value, str | int | float) else f"a value of type {type(value).__name__}"
    given = given if len(given) <= _LONGEST else f"a value of type {type(value).__name__}"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise InvalidTypeError(
        f"{name}: {given} is not {article} {kind.__name__}. Give {name}={form.format(example)}, for instance, or leave "
        "it out."
    )


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return direct + [found for own in direct for found in _subclasses(own)]
