"""Rows over devices: each process optimises neurons of its own, and nothing is synchronised but who does what."""

import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, Literal

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from mei_lightning.optimization.launcher import Launcher

SHARDED = "sharded"
NOTEBOOK = f"{SHARDED}_notebook"
IN_NOTEBOOKS: Literal["fork", "spawn"] = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
"""How a notebook starts processes: copies of it, which know all that it has defined, or new ones where none are."""
_OF_CONNECTIONS = re.compile(r"gloo[/\\]transport")


def tells_of_a_lost_process(error: BaseException) -> bool:
    """Whether an error means that another process of the run has ended: its connection to this one is broken."""
    return isinstance(error, RuntimeError) and _OF_CONNECTIONS.search(str(error)) is not None


class ShardedStrategy(DDPStrategy):
    """One process for each device, on one or several nodes, each with rows of its own.

    Unlike data-parallel training, where each process holds a copy of the parameters and gradients are averaged, no
    process knows the others' stimuli: an average over devices would divide a row's gradient by their number.

    In a script or on the command line ``Trainer(strategy="sharded", devices=8, num_nodes=2)``; in a notebook
    ``strategy="sharded_notebook"``, which forks the processes, or spawns them where the system has no fork.

    Processes talk through gloo on GPUs, too. It notices at once if one of them is killed, where NCCL waits for it: with
    its timeout shortened to seconds, processes would also be killed that wait for a slow disk or a slow neighbour. NCCL
    is faster at averaging gradients, and here only a few numbers are exchanged.

    Args:
        process_group_backend: ``"nccl"`` where gloo cannot be used.
        **options: as for Lightning's ``DDPStrategy``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(strategy="sharded", devices=2, accelerator="cpu", logger=False)
        >>> isinstance(trainer.strategy, ml.ShardedStrategy), trainer.world_size
        (True, 2)
    """

    def __init__(self, process_group_backend: str | None = "gloo", **options: Any) -> None:
        super().__init__(process_group_backend=process_group_backend, **options)

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if self._start_method != "popen":
            self._launcher = Launcher(self, self._start_method)

    def configure_ddp(self) -> None:
        """Leave the module as it is: no parameter has copies that would have to agree."""

    def on_exception(self, exception: BaseException) -> None:
        """Note with a broken connection what it means to the user."""
        # Not every process: the first one, and the second one in case that it is the first that has ended.
        if tells_of_a_lost_process(exception) and self.global_rank < 2:
            exception.add_note(
                f"Another process of the run has ended{self._killed_processes()}, so that this one ends, too. The "
                "neurons that are done are on disk: the same command continues the run."
            )

    def _killed_processes(self) -> str:
        """Which processes that this one has launched were ended by a signal, in brackets."""
        children = self.launcher.procs if isinstance(self.launcher, _SubprocessScriptLauncher) else []
        codes = {rank: child.poll() for rank, child in enumerate(children, start=self.global_rank + 1)}
        killed = [f"process {rank}: {signal.Signals(-code).name}" for rank, code in codes.items() if code and code < 0]
        return f" ({', '.join(killed)})" if killed else ""

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make the names known to Lightning's ``Trainer``."""
        for name, start_method in ((SHARDED, "popen"), (NOTEBOOK, IN_NOTEBOOKS)):
            if name not in strategy_registry:
                strategy_registry.register(
                    name, cls, description="Each device optimises rows of its own", start_method=start_method
                )


ShardedStrategy.register_strategies(StrategyRegistry)


def strategy_for(devices: Any, num_nodes: int = 1) -> str:
    """Lightning's choice for one device; where there may be more, ``"sharded"``, or its kind for notebooks there.

    Args:
        devices: as for Lightning's ``Trainer``: a number, a list of devices, or text such as ``"auto"``.
        num_nodes: the number of machines.
    """
    one_device = str(devices) == "1" or (isinstance(devices, Sequence) and not isinstance(devices, str | bytes))
    one_device = one_device and (isinstance(devices, str | int) or len(devices) == 1)
    if one_device and num_nodes == 1:
        return "auto"
    return NOTEBOOK if hasattr(sys, "ps1") else SHARDED


def cluster_plugins(num_nodes: int = 1) -> list[ClusterEnvironment]:
    """What a ``Trainer`` needs on a cluster: under SLURM its environment, without Lightning's own requeueing.

    Lightning saves a checkpoint inside the signal handler, which deadlocks where processes are many; ``TimeLimit``
    requeues after an orderly end. A process that srun has not started, as after ``salloc -n 4``, has no others beside
    it, however many tasks are allocated: it starts those that it needs itself.

    Args:
        num_nodes: the number of machines.
    """
    if "SLURM_NTASKS" not in os.environ:
        return []
    if TorchElasticEnvironment.detect():
        return [TorchElasticEnvironment()]
    if num_nodes == 1 and int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1) == 1:
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)]


def deal(waiting: list[int], free: Sequence[int]) -> list[list[int]]:
    """Take the next neurons from those waiting, and give each to the device with the most free places.

    Every device computes the same, so that none has to be told.

    Args:
        waiting: neurons that nobody has begun; those that are dealt are removed.
        free: the number of free places of each device.

    Returns:
        For each device its neurons.
    """
    left = list(free)
    dealt: list[list[int]] = [[] for _ in free]
    while waiting and max(left) > 0:
        device = left.index(max(left))
        dealt[device].append(waiting.pop(0))
        left[device] -= 1
    return dealt
