"""What the command line shows of an error: the message alone, where that says all."""

import difflib
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import jsonargparse
from jsonargparse import ArgumentError

import mei_lightning
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
def messages_in_place_of_tracebacks() -> Iterator[None]:
    """Of refusals print the message only, and exit with 2, unless the user asks for tracebacks.

    Of an argument that cannot be parsed there is the message in any case. If another process of the run has ended, what
    ``ShardedStrategy`` notes of that is printed, and the exit code is 1. After an interrupt it is 130.

    Raises:
        SystemExit: in place of a refusal, of a connection that is broken, or of an interrupt.
    """
    try:
        yield
    except ArgumentError as error:
        print(f"error: {_of_argument(error)}\nOption --help tells what there is.", file=sys.stderr)
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
            raise
        # The text of an OSError begins with its number.
        message = (refusal.strerror if isinstance(refusal, OSError) else None) or str(refusal)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(_EXIT_CODE)


def _of_argument(error: ArgumentError) -> str:
    """What is wrong with an argument: of a name that does not exist what is near, else all that jsonargparse says."""
    cause: BaseException = error
    while (next_one := cause.__cause__ or cause.__context__) is not None:
        cause = next_one
    if isinstance(cause, AttributeError) and isinstance(cause.obj, ModuleType):
        missing, module = cause.name or "", cause.obj
    elif bare := re.fullmatch(r"Expected a dot import path string: (\w+)", str(cause)):
        missing, module = bare[1], mei_lightning
    else:
        return str(error)
    near = difflib.get_close_matches(missing, [name for name in dir(module) if not name.startswith("_")])
    hint = f" Do you mean {' or '.join(f'{module.__name__}.{name}' for name in near)}?" if near else ""
    option = re.match(r'Parser key "(.*?)"', str(error))
    return f"{f'{option[1]}: ' if option else ''}{module.__name__} has no {missing}.{hint}"
