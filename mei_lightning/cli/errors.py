"""What the command line shows of an error: the message alone, where that says all."""

import difflib
import inspect
import os
import pydoc
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import jsonargparse
from jsonargparse import ArgumentError

import mei_lightning
from mei_lightning.cli.argument_groups import misfit_of_group
from mei_lightning.cli.own_code import error_in_own_code, misfit_of_own_class, place_of
from mei_lightning.cli.spelling import as_typed, near
from mei_lightning.cli.wrong_values import refusal_of_value
from mei_lightning.exceptions import MEIError

TRACEBACK = "MEI_LIGHTNING_TRACEBACK"
"""The environment variable that asks for tracebacks."""

_JSONARGPARSE = Path(jsonargparse.__file__).parent
_EXIT_CODE = 2
"""As of arguments that cannot be parsed."""
_INTERRUPTED = 128 + signal.SIGINT
"""As of any program that Ctrl-C ends."""


def is_explained(error: BaseException) -> bool:
    """Whether an error is a refusal, whose message tells the user what to do, and not a defect.

    Refusals are kinds of ``MEIError``, or Lightning's ``MisconfigurationException``. Any other error, such as an index
    that is out of range in a line of ours or of the user's model, is a defect, and its traceback is needed.
    """
    # Not at the top of the module, from where it would take seconds of every --help.
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    return isinstance(error, MEIError | MisconfigurationException)


def refusal_in(error: BaseException) -> BaseException | None:
    """The refusal that an error is or stands for, or None if it is a defect.

    Where an argument may be an instance of one class or another, or None, jsonargparse replaces the error of a class
    by its own, and keeps it as the cause.
    """
    if is_explained(error):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    if error.__cause__ is None or not frames or not Path(frames[-1].filename).is_relative_to(_JSONARGPARSE):
        return None
    return refusal_in(error.__cause__)


@contextmanager
def messages_in_place_of_tracebacks(options: Sequence[str]) -> Iterator[None]:
    """Of refusals print the message only, and exit with 2, unless the user asks for tracebacks.

    Of an argument that cannot be parsed there is the message in any case. Of an error while a module of the user's own
    is imported, or a class of it is made, the message says in which line it is. If another process of the run has
    ended, what ``ShardedStrategy`` notes of that is printed, and the exit code is 1. After an interrupt it is 130.

    Args:
        options: the options of the command, by the time that an error occurs; messages name them as they are typed.

    Raises:
        SystemExit: in place of a refusal, of a connection that is broken, or of an interrupt.
    """
    try:
        yield
    except ArgumentError as error:
        if own := error_in_own_code(error):
            _end_with(own, error)
        print(f"error: {_of_argument(error, options)}\nOption --help tells what there is.", file=sys.stderr)
        sys.exit(_EXIT_CODE)
    except KeyboardInterrupt as interrupt:
        print(f"Interrupted. {interrupt}".strip(), file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except SystemExit as ended:
        # Lightning's own way to end an interrupted fit.
        if isinstance(ended.__context__, KeyboardInterrupt):
            sys.exit(_INTERRUPTED)
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        # As above.
        from mei_lightning.optimization.strategies import tells_of_a_lost_process

        refusal = refusal_in(error)
        if tells_of_a_lost_process(error):
            for note in getattr(error, "__notes__", ()):
                print(f"error: {note}", file=sys.stderr)
            sys.exit(1)
        if refusal is None:
            if own := error_in_own_code(error):
                _end_with(own, error)
            raise
        # The text of an OSError begins with its number.
        message = (refusal.strerror if isinstance(refusal, OSError) else None) or str(refusal)
        notes = getattr(refusal, "__notes__", ())
        print(f"error: {as_typed(' '.join([message, *notes]), options)}", file=sys.stderr)
        sys.exit(_EXIT_CODE)


def _end_with(own: str, error: Exception) -> NoReturn:
    """End with an error in the user's own code, whose traceback is there on request."""
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        raise error
    print(f"error: {own}\n{TRACEBACK}=1 in the environment shows the whole traceback.", file=sys.stderr)
    sys.exit(_EXIT_CODE)


def _of_argument(error: ArgumentError, options: Sequence[str]) -> str:
    """What is wrong with an argument: of a name that does not exist what is near, else all that jsonargparse says."""
    said = re.sub(r'Parser key "([\w.]+)"', r"--\1", str(error))
    if unknown := re.match(r"unrecognized arguments: (--[\w.-]+)|.* does not accept option '([\w.-]+)'", said):
        hint = _do_you_mean(near(unknown[1] or f"--{unknown[2]}", options))
        return f"{said}.{hint}" if hint else said
    if unknown := re.search(r"given class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", said):
        arguments = list(inspect.signature(pydoc.locate(unknown[1])).parameters)  # type: ignore[arg-type]
        close = difflib.get_close_matches(unknown[2], arguments)
        lacks = f"{unknown[1]} has no argument {unknown[2]}{place_of(unknown[1])}"
        return f"{said.partition(':')[0]}: {lacks}.{_do_you_mean(close or arguments)}"
    if misfit := misfit_of_group(said):
        return misfit
    cause: BaseException = error
    while (next_one := cause.__cause__ or cause.__context__) is not None:
        cause = next_one
    if isinstance(cause, AttributeError) and isinstance(cause.obj, ModuleType):
        missing, module = cause.name or "", cause.obj
    elif bare := re.fullmatch(r"Expected a dot import path string: (\w+)", str(cause)):
        missing, module = bare[1], mei_lightning
    else:
        return misfit_of_own_class(said) or as_typed(refusal_of_value(str(error)) or said, options)
    close = difflib.get_close_matches(missing, [name for name in dir(module) if not name.startswith("_")])
    hint = _do_you_mean([f"{module.__name__}.{name}" for name in close])
    option = re.match(r"--([\w.]+):", said)
    return f"{f'{option[0]} ' if option else ''}{module.__name__} has no {missing}.{hint}"


def _do_you_mean(names: Sequence[str]) -> str:
    return f" Do you mean {' or '.join(names)}?" if names else ""
