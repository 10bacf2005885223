"""One progress bar for the whole run."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stimulus_module import StimulusModule


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar for the run in place of one for each epoch.

    It counts neurons that are done if there are more of them than are computed at a time, otherwise steps up to the
    step limit.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the number of neurons, or the step limit, as the length of the bar."""
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, StimulusModule)
        self._counts_neurons = isinstance(pl_module, PopulationModule) and pl_module.streams
        limits = [limit for limit in (trainer.max_steps, pl_module.max_steps) if limit is not None and limit > 0]
        bar = self.train_progress_bar
        bar.total = len(pl_module.labels) if self._counts_neurons else min(limits, default=None)
        bar.unit = "neuron" if self._counts_neurons else "step"
        bar.set_description("MEIs")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Go on where the last epoch ended."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by a step."""
        if not self._counts_neurons:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Advance by the neurons that are done."""
        if self._counts_neurons and not self.train_progress_bar.disable:
            assert isinstance(pl_module, PopulationModule)
            self.train_progress_bar.update(pl_module.neurons_done - self.train_progress_bar.n)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show where the run ended."""
        self.on_train_epoch_end(trainer, pl_module)
        super().on_train_end(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged metrics, without Lightning's version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return dict(metrics)
