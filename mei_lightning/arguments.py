"""What arguments have to be, and what to say if they are something else."""

import difflib
import math
from numbers import Integral, Real

from mei_lightning.exceptions import InvalidTypeError


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number that is not too small."""
    return isinstance(value, Integral) and int(value) >= least


def is_positive(value: object) -> bool:
    """Whether a value is a positive, finite number."""
    return isinstance(value, Real) and 0 < float(value) < math.inf


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
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise InvalidTypeError(
        f"{name}: {given} is not {article} {kind.__name__}. Give {name}={form.format(example)}, for instance, or leave "
        "it out."
    )


def _subclasses(kind: type) -> list[type]:
    direct: list[type] = kind.__subclasses__()
    return direct + [found for own in direct for found in _subclasses(own)]
