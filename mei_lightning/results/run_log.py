"""The TensorBoard log of a run that may be started several times."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import FileWriter, SummaryWriter

from mei_lightning.results.configuration import Configuration
from mei_lightning.shard import Shard


def run_name(configuration: Configuration, convergence: object, shard: Shard | None = None) -> str:
    """A name for a run, or for a shard of it, that is the same at each start, and another one for other settings."""
    # In the words of version 0.1, so that a run that it began is continued.
    words = {**configuration.words, "convergence": repr(convergence)}
    settings = json.dumps({**configuration, **words}, sort_keys=True)
    readable = re.sub(r"[^\w.-]+", "_", configuration["model"])
    of_shard = "" if shard is None else f"-shard_{shard.number}_of_{shard.total}"
    return f"{readable}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}{of_shard}"


class RunLogger(TensorBoardLogger):
    """Lightning's logger, which goes on with the curves of an earlier start in the same directory.

    It makes no file before there is something to log, so that a run that is refused, or has nothing left to do, leaves
    none.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The writer, with steps counted from where the directory's last one was."""
        if self._experiment is None:
            self._experiment = _Writer(log_dir=self.log_dir, **self._kwargs)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log all but the epoch, which begins anew with each start, and is a few steps."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class _Writer(SummaryWriter):
    _may_begin = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._may_begin = True

    def _get_file_writer(self) -> FileWriter | None:
        if not self._may_begin:
            return None
        if self.file_writer is None:
            last = last_step(self.log_dir)
            # PyTorch says of no type that it is more than None.
            file: Any = _File(self.log_dir, self.max_queue, self.flush_secs, self.filename_suffix)
            file.last = last
            writers: Any = {file.get_logdir(): file}
            self.file_writer, self.all_writers = file, writers
        return self.file_writer


class _File(FileWriter):
    last = 0
    _shift: int | None = None

    def add_event(self, event: Event, step: int | None = None, walltime: float | None = None) -> None:
        if step is not None:
            if self._shift is None:
                # A run that is resumed from a checkpoint goes on counting by itself.
                self._shift = self.last if int(step) <= self.last else 0
            step = int(step) + self._shift
        super().add_event(event, step, walltime)


def last_step(directory: str | Path) -> int:
    """The highest step in the event files of a directory, 0 without any."""
    files = Path(directory).glob("events.out.tfevents.*")
    return max((Event.FromString(it).step for file in files for it in RawEventFileLoader(str(file)).Load()), default=0)
