"""Where tensors go that name no device."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.devices import cpu_by_default


class CPUByDefault(Callback):
    """Makes new tensors on the CPU unless a device is named, whatever is set, until the trainer is done or fails."""

    def __init__(self) -> None:
        self._set = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the default."""
        self._set.enter_context(cpu_by_default())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore."""
        self._set.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._set.close()
