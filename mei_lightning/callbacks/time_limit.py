"""An orderly end before a cluster's time limit."""

import os
import re
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""What tells a process that its time is nearly over; None on Windows, which has no such signal, nor SLURM."""


class TimeLimit(Callback):
    """Ends the run at the next check once the process has been told, by SIGUSR1, that its time is nearly over.

    All processes end together, and what they have found is on disk. In a SLURM job (``#SBATCH --signal=USR1@300`` sends
    the signal 300 s before the limit) the job is then put back into the queue, where the same command continues it.
    Nothing is done inside the signal handler but to remember the signal. Without effect on Windows, which lacks it.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> module = ml.MEIModule("simulated", [("session_1", 0)], max_steps=4)
        >>> callbacks = [ml.TimeLimit(), ml.ResultsWriter("results", report=False)]
        >>> Trainer(callbacks=callbacks, logger=False, enable_progress_bar=False).fit(module)
        >>> module.meis().status.item()  # there was time enough; else "interrupted"
        'step limit'
    """

    _previous: Any = None

    def __init__(self) -> None:
        self._told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen for the signal."""
        self._told = False
        if SIGNAL is not None and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(SIGNAL, self._remember)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run on all devices if one of them has been told."""
        self._told = trainer.strategy.reduce_boolean_decision(self._told, all=False)
        if self._told:
            rank_zero_info("The time is nearly over (SIGUSR1): the run ends here. The same command continues it.")
            trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the job back into the queue."""
        job = os.environ.get("SLURM_JOB_ID", "")
        if self._told and trainer.is_global_zero and re.fullmatch(r"\d+", job):
            task = os.environ.get("SLURM_ARRAY_TASK_ID")
            array = os.environ.get("SLURM_ARRAY_JOB_ID")
            requeue = ["scontrol", "requeue", f"{array}_{task}" if array and task else job]
            try:
                subprocess.run(requeue, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                rank_zero_warn(f"'{' '.join(requeue)}' failed ({error}). Submit the job again to continue the run.")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signal back."""
        if SIGNAL is not None and self._previous is not None:
            signal.signal(SIGNAL, self._previous)
            self._previous = None

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self._told = True
