"""Where and in which precision tensors are made that do not say so."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.devices import usual_defaults


class UsualDefaults(Callback):
    """Keeps PyTorch's usual defaults, whatever is set, until the trainer is done or fails."""

    def __init__(self) -> None:
        self._set = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the defaults."""
        self._set.enter_context(usual_defaults())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore."""
        self._set.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._set.close()
