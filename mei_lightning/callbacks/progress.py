"""One progress bar for the whole run."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar, counting steps up to the step limit in place of the steps of an epoch."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Show the step limit as the length of the bar."""
        super().on_train_start(trainer)
        self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.set_description("MEIs")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Go on where the last epoch ended."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by a step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged metrics, without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return dict(metrics)
