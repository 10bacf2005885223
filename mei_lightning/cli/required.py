"""Arguments without a default that a configuration does not give to a class of the user's."""

import inspect
import pydoc
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from mei_lightning.cli.own_code import place_of
from mei_lightning.exceptions import InvalidValueError


def check_required_are_given(config: object) -> None:
    """See whether all classes in a parsed configuration have what they cannot be made without.

    Of an argument without a type jsonargparse does not say that it is missing: its value is None then.

    Args:
        config: what has been parsed, with ``class_path`` and ``init_args`` of each class at any depth.

    Raises:
        ValueError: if an argument without a default and without a type is not given, or given as null.
    """
    if isinstance(config, Namespace):
        if isinstance(name := config.get("class_path"), str):
            _check(name, config.get("init_args") or Namespace())
        config = vars(config)
    if isinstance(config, Mapping):
        config = list(config.values())
    if isinstance(config, list | tuple):
        for part in config:
            check_required_are_given(part)


def _check(name: str, arguments: Namespace) -> None:
    kind = pydoc.locate(name)
    missing = [one for one, value in vars(arguments).items() if value is None and _is_required(kind, one)]
    if missing:
        several = len(missing) > 1
        raise InvalidValueError(
            f"{name.rpartition('.')[2]} needs the argument{'s' * several} {', '.join(missing)}: put "
            f"{'them' if several else 'it'} into init_args, or give {'them' if several else 'it'} a default"
            f"{place_of(name)}."
        )


def _is_required(kind: Any, argument: str) -> bool:
    """Whether the constructor of a class, or that of the class that it hands it on to, has to be given an argument."""
    for made in (vars(one).get("__init__") for one in kind.__mro__) if isinstance(kind, type) else (kind,):
        if inspect.isfunction(made) and (found := inspect.signature(made).parameters.get(argument)):
            return found.default is found.empty and found.annotation in (found.empty, Any)
    return False
