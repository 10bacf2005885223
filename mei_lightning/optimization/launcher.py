"""Processes that a notebook or a script starts for a run: what they need of it, before there are any."""

import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from torch import Tensor

from mei_lightning.exceptions import InvalidValueError


class Launcher(_MultiProcessingLauncher):
    """Lightning's launcher, which says beforehand, and to the user, what would go wrong in the processes."""

    @property
    def is_interactive_compatible(self) -> bool:
        """Whether a notebook may use it; with what it cannot do there, ``launch`` refuses to begin."""
        return True

    def launch(self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Run a function in processes of its own.

        Raises:
            ValueError: if CUDA has begun in the process that would be forked, or if something cannot be sent to
                processes that begin anew.
            KeyboardInterrupt: once the processes have ended, too; the second one ends them at once.
        """
        if self._start_method == "fork":
            check_fork()
        else:
            check_can_be_sent((args, kwargs, trainer))
        try:
            return super().launch(function, *args, trainer=trainer, **kwargs)
        except KeyboardInterrupt:
            self._end_processes()
            raise

    def _end_processes(self) -> None:
        try:
            for process in self.procs:
                # Not every notebook interrupts all processes. On Windows this would kill them.
                if sys.platform != "win32" and process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGINT)
            for process in self.procs:
                process.join()
        except KeyboardInterrupt:
            for process in self.procs:
                process.terminate()
            raise


@contextmanager
def ended_together(trainer: Trainer) -> Iterator[None]:
    """After an interrupt of a script's processes let the first one alone go on.

    Lightning, which ends the others, would take that for their failure, and end this one seconds later.

    Raises:
        KeyboardInterrupt: in the first process.
        SystemExit: in the others.
    """
    try:
        yield
    except KeyboardInterrupt:
        if trainer.global_rank > 0:
            sys.exit(1)
        if isinstance(launcher := trainer.strategy.launcher, _SubprocessScriptLauncher):
            launcher.procs.clear()
        raise


def check_fork() -> None:
    """Refuse to fork a process in which CUDA has begun.

    Raises:
        ValueError: that says the way out.
    """
    if torch.cuda.is_initialized():
        raise InvalidValueError(
            "Several devices in a notebook are computed in copies of its process (fork), and CUDA, which has begun in "
            "this one, does not work in copies. Restart the kernel, and have nothing on a GPU before the run: leave "
            'the model on the CPU (no .to("cuda"), no tensors there). Or use one device (devices=1), or the command '
            "line (mei-lightning fit --trainer.devices 2)."
        )


def check_can_be_sent(value: Any) -> None:
    """Refuse what cannot be sent to a process that begins anew, which finds functions and classes by their names.

    Args:
        value: what will be sent.

    Raises:
        ValueError: that names the function, class or object, and the way out.
    """
    try:
        _DryRun(io.BytesIO()).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InvalidValueError(
            f"The processes for several devices begin anew on this system (spawn), and cannot be sent everything: "
            f"{error}. Define functions and classes at the top of a module (a file that you import them from), or use "
            "one device (devices=1)."
        ) from error


class _DryRun(pickle.Pickler):
    """Pickles all but tensors, which can be sent and may be large."""

    def persistent_id(self, obj: Any) -> str | None:
        return "a tensor" if isinstance(obj, Tensor) else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType | type) and not _can_be_found(obj):
            place = f", line {obj.__code__.co_firstlineno}" if isinstance(obj, FunctionType) else ""
            raise pickle.PicklingError(f"{obj.__qualname__} (of {obj.__module__}{place}) has no name in a module")
        return NotImplemented


def _can_be_found(obj: FunctionType | type) -> bool:
    # What a notebook defines is in a module that has no file, and that no other process can import.
    of_notebook = obj.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    return not of_notebook and "<" not in obj.__qualname__
