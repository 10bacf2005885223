"""How tests lose or interrupt a process. Processes which import this module see no settings of the tests."""

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback


class IsKilled(Callback):
    """Kills one of several processes in the midst of a run, as a system does that is short of memory.

    Args:
        rank: which one.
        note: a file to make just before.
    """

    def __init__(self, rank: int, note: str = os.devnull):
        self.rank = rank
        self.note = Path(note)

    def on_train_batch_end(self, trainer, *_):
        # The first neurons are done after 25 steps at most, the next ones are not.
        if trainer.world_size > 1 and trainer.global_rank == self.rank and trainer.global_step == 30:
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class IsToldThatTimeIsNearlyOver(Callback):
    """In the midst of a run, as SLURM tells all processes."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 30:
            os.kill(os.getpid(), signal.SIGUSR1)


class PressesCtrlC(Callback):
    """In the midst of a run, on the last of its processes.

    Args:
        step: after which.
        also: further processes to signal, as a terminal signals all, by their ids.
    """

    def __init__(self, step: int = 6, also: tuple[int, ...] = ()):
        self.step = step
        self.also = also

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and trainer.global_rank == trainer.world_size - 1:
            for process in (os.getpid(), *self.also):
                os.kill(process, signal.SIGINT)
