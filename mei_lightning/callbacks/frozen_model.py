"""A model that is frozen while the trainer runs, and comes out as it went in."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from mei_lightning.models.base import frozen


class FrozenModel(Callback):
    """Puts a model into evaluation mode without gradients into its weights, until the trainer is done or fails.

    Then it is where it was before, too, with its own flags.

    Args:
        model: the model, or an objective that holds it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._frozen = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze."""
        self._frozen.enter_context(frozen(self.model))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore."""
        self._frozen.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore."""
        self._frozen.close()
