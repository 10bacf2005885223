"""Who uses the threads of a CPU during a run."""

from collections.abc import Callable
from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.acceleration.blocks import threads_reserved_for_blocks


class ThreadsForBlocks(Callback):
    """Reserves a CPU's threads for blocks of rows from the first step on, until the trainer is done or fails.

    Args:
        are_there_blocks: whether steps will be computed in blocks; asked before the first one.
    """

    def __init__(self, are_there_blocks: Callable[[], bool]) -> None:
        self.are_there_blocks = are_there_blocks
        self._reserved = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reserve."""
        if self.are_there_blocks():
            self._reserved.enter_context(threads_reserved_for_blocks())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore."""
        self._reserved.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._reserved.close()
