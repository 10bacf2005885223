"""What a run will take, before it is begun: rows, memory, disk and time."""

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.callbacks.convergence import RowConvergence
from mei_lightning.devices import chosen_accelerator
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.trainer import silent_lightning
from mei_lightning.problem import MEIProblem
from mei_lightning.results.schema import VARIABLES
from mei_lightning.shard import Shard

_MOST_IN_SAMPLE = 8
_LONGEST_SAMPLE = 60.0


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Args:
        neurons: that are to be found.
        rows: the most that a device computes at a time.
        memory: bytes, at the peak of the sample: of the process, or of a GPU; None where the system does not say.
        disk: bytes of the store with all neurons, without compression.
        sample: neurons that were tried.
        sample_done: how many of them were done in the end.
        sample_seconds: that they took.
        seconds: that the run takes, without what comes before the first step; the least that it takes if no neuron of
            the sample was done in time.
    """

    neurons: int
    rows: int
    memory: int | None
    disk: int
    sample: int
    sample_done: int
    sample_seconds: float
    seconds: float

    def lines(self) -> list[str]:
        """To read, a fact in each line."""
        memory = "unknown" if self.memory is None else _size(self.memory)
        about = "about" if self.sample_done else "more than"
        return [
            f"neurons: {self.neurons}",
            f"rows that a device computes at a time: at most {self.rows}",
            f"memory: {memory} at the peak of the sample",
            f"disk: {_size(self.disk)}, of the whole store without compression",
            f"time: {about} {_duration(self.seconds)}, as measured on {self.sample} neurons, of which "
            f"{self.sample_done} were done in {_duration(self.sample_seconds)}; many rows at a time can be faster",
        ]


def estimate_run(
    problem: MEIProblem,
    rule: RowConvergence,
    accelerator: str = "auto",
    processes: int = 1,
    shard: Shard | None = None,
) -> Estimate:
    """Find the MEIs of a few neurons, spread over those that are asked for, for a minute at most; keep nothing.

    Args:
        problem: what is to be found for which neurons.
        rule: when a row has converged.
        accelerator: as for ``find_meis``.
        processes: that share the neurons, each on a device like the one that this is measured on.
        shard: the share of the neurons that is to be found, if the run is divided.
    """
    everyone = range(len(problem.labels))
    asked = everyone if shard is None else shard.numbers(len(everyone))
    spread = np.linspace(0, len(asked) - 1, min(len(asked), _MOST_IN_SAMPLE)).round().astype(int)
    sample = [asked[place] for place in spread]
    module, watch = PopulationModule(problem), _Watch()
    module.leave_out({}, of_others=set(everyone).difference(sample))
    if sample:
        with silent_lightning():
            trainer = Trainer(
                accelerator=chosen_accelerator(accelerator),
                devices=1,
                max_epochs=-1,
                callbacks=[rule, watch],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
        trainer.fit(module)
    for_each = watch.seconds / max(watch.done, 1) if watch.done else watch.seconds / max(len(sample), 1)
    return Estimate(
        neurons=len(asked),
        rows=module.most_rows if sample else 0,
        memory=watch.memory,
        disk=_bytes_of_store(problem),
        sample=len(sample),
        sample_done=watch.done,
        sample_seconds=watch.seconds,
        seconds=for_each * len(asked) / processes,
    )


class _Watch(Callback):
    """Ends the sample in time, and notes how long it took, how many were done and how much memory was in use."""

    seconds = 0.0
    done = 0
    memory: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if not trainer.global_step:
            self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if time.monotonic() - self._started > _LONGEST_SAMPLE:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, PopulationModule)
        self.seconds = time.monotonic() - self._started
        self.done = pl_module.neurons_done
        self.memory = _peak_of_memory(pl_module.device)


def _bytes_of_store(problem: MEIProblem) -> int:
    kind = torch.empty(0, dtype=problem.dtype).numpy().dtype
    sizes = problem.description.sizes
    stimuli = len(problem.labels) * int(np.prod(problem.shape)) * kind.itemsize
    return stimuli + sum(it.empty(sizes, kind).nbytes for it in VARIABLES)


def _peak_of_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} minutes" if seconds < 7200 else f"{seconds / 3600:.3g} hours"
