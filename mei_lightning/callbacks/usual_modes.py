"""What PyTorch is told to do with all tensors, which a run does without."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.devices import usual_modes


class UsualModes(Callback):
    """Lets a trainer compute in ``usual_modes`` until it is done or fails."""

    def __init__(self) -> None:
        self._set = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave other modes."""
        self._set.enter_context(usual_modes())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore."""
        self._set.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._set.close()
