"""Ctrl-C on several processes."""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.optimization.launcher import Launcher


class InterruptedTogether(KeyboardInterrupt):
    """An interrupt that all processes of a run raise at the same place, so that they can still talk to each other."""


class InterruptTogether(Callback):
    """Ends a run of several processes at the next check after Ctrl-C, on all of them together.

    A process that stops in the midst of a step leaves the others waiting for it. Ctrl-C once more ends it there all the
    same; processes that a notebook has started leave that to the notebook's. A run of one process ends at once anyway.

    Raises:
        InterruptedTogether: at the end of an epoch.
    """

    _previous: Any = None

    def __init__(self) -> None:
        self._told = False
        self._ends_when_told_twice = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen for the signal."""
        self._told = False
        self._ends_when_told_twice = not isinstance(trainer.strategy.launcher, Launcher)
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._remember)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise on all processes if one of them has been told."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._told, all=False):
            raise InterruptedTogether

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signal back, unless Lightning has taken it already."""
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signal back."""
        self._give_back()

    def _give_back(self) -> None:
        if self._previous is not None and signal.getsignal(signal.SIGINT) == self._remember:
            signal.signal(signal.SIGINT, self._previous)
        self._previous = None

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self._told and self._ends_when_told_twice:
            raise KeyboardInterrupt
        self._told = True
