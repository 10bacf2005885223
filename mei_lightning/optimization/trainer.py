"""Trainers inside of functions: one that says and keeps nothing, and how an interrupt ends any of them."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer

from mei_lightning.shared_state import SharedByThreads

_QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGUSR1") if hasattr(signal, name)]
"""Which callbacks listen to."""


def _quieten_lightning() -> Callable[[], None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    return lambda: logger.setLevel(level)


_QUIET_LIGHTNING = SharedByThreads(_quieten_lightning)


def silent_lightning() -> SharedByThreads:
    """Keep Lightning from saying, each time that a trainer is made, what hardware there is, and what else it offers."""
    return _QUIET_LIGHTNING


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Keep Lightning's own use of what PyTorch deprecates from the user, who cannot do anything about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is deprecated", module="lightning\\.pytorch\\.utilities")
        yield


@contextmanager
def raising_interrupts() -> Iterator[None]:
    """Let an interrupt of a fit be the ``KeyboardInterrupt`` that it is, once all callbacks have done their work.

    Lightning ends the process in place of that. It also leaves it deaf to further interrupts, and after any error puts
    back the signal handlers of callbacks that are gone.

    Raises:
        KeyboardInterrupt: if the fit was interrupted.
    """
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                # None is a handler that is not Python's.
                if handler is not None:
                    signal.signal(number, handler)


@contextmanager
def quiet_trainer(accelerator: str, **options: Any) -> Iterator[Trainer]:
    """Make a trainer for one device; until the end Lightning is silent, and an interrupt a ``KeyboardInterrupt``.

    Args:
        accelerator: as for Lightning's ``Trainer``.
        options: others, as for ``Trainer``.
    """
    with silent_lightning(), without_deprecations(), raising_interrupts():
        # Alone, whatever a cluster has allocated.
        plugins = [LightningEnvironment()] if "SLURM_NTASKS" in os.environ else None
        yield Trainer(**{"accelerator": accelerator, "devices": 1, "plugins": plugins, **_QUIET, **options})
