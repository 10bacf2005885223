"""What the command line shows of an error: the message alone, where that says all."""

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jsonargparse
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

TRACEBACK = "MEI_LIGHTNING_TRACEBACK"
"""The environment variable that asks for tracebacks."""

_PACKAGE = Path(__file__).parent
_JSONARGPARSE = Path(jsonargparse.__file__).parent
_OF_INPUT = (ValueError, TypeError, IndexError, OSError, ImportError)
_EXIT_CODE = 2
"""As of arguments that cannot be parsed."""


def is_explained(error: BaseException) -> bool:
    """Whether an error is a refusal, whose message tells the user what to do, and not a defect.

    Refusals are raised by a ``raise`` statement of this package, or are Lightning's ``MisconfigurationException``. An
    error of the same type that comes from anywhere else, such as an index that is out of range in a line of ours or of
    the user's model, is a defect, and its traceback is needed.
    """
    if isinstance(error, MisconfigurationException):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, _OF_INPUT) or not frames:
        return False
    return Path(frames[-1].filename).is_relative_to(_PACKAGE) and (frames[-1].line or "").startswith("raise ")


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

    Raises:
        SystemExit: in place of a refusal.
    """
    try:
        yield
    except Exception as error:
        refusal = refusal_in(error)
        if os.environ.get(TRACEBACK, "0") not in ("", "0") or refusal is None:
            raise
        # The text of an OSError begins with its number.
        message = (refusal.strerror if isinstance(refusal, OSError) else None) or str(refusal)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(_EXIT_CODE)


class OneMessage(Callback):
    """Ends the other processes of a run that the first one refuses, before they complain of its absence."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that this one has launched."""
        launcher = trainer.strategy.launcher
        if is_explained(exception) and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)
