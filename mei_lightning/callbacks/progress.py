"""One progress bar for the whole run."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from mei_lightning.bars import Bar, new_bar
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stimulus_module import StimulusModule


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar for the run in place of one for each epoch, green once all is done.

    It counts the neurons of the run, or of its shard, that are done, on all devices and in earlier runs, and says how
    many are done a minute and how long the others will take; of a module without named neurons, steps up to the step
    limit. Where standard error is neither a terminal nor a notebook (nohup, SLURM) there is a line of it every half
    minute.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> module = ml.MEIModule("simulated", [("session_1", 0), ("session_1", 2)], max_steps=4)
        >>> writer = ml.ResultsWriter("results", report=False)
        >>> trainer = Trainer(callbacks=[ml.StepProgressBar(), writer], logger=False)
        >>> trainer.fit(module)  # MEIs: 100% 2/2 neurons, 120 a minute, in 00:01
        >>> trainer.progress_bar_callback.train_progress_bar.n
        2
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: which neurons are done already is known once all callbacks and the module have begun."""
        self._train_progress_bar = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show where the run begins, or go on where the last epoch ended."""
        if self._train_progress_bar is None:
            self._train_progress_bar = self._bar(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by a step, or by the neurons that are done."""
        self.train_progress_bar.update(_done(trainer, pl_module) - self.train_progress_bar.n)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the module has not counted yet."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show where the run ended."""
        self.on_train_epoch_start(trainer, pl_module)
        bar = self.train_progress_bar
        bar.update(_done(trainer, pl_module) - bar.n)
        if not isinstance(pl_module, PopulationModule):
            # Rows that have converged need no more of them.
            bar.total = bar.n
        if bar.n == bar.total:
            bar.colour = "green"
        bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Show where the run stopped, and leave what is said next to a line of its own."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.stopped = True
            self._train_progress_bar.close()

    def _bar(self, trainer: Trainer, module: LightningModule) -> Bar:
        assert isinstance(module, StimulusModule)
        if isinstance(module, PopulationModule):
            total: int | None = module.neurons_asked
            unit = "neurons"
        else:
            limits = [limit for limit in (trainer.max_steps, module.max_steps) if limit is not None and limit > 0]
            total, unit = min(limits, default=None), "steps"
        return new_bar("MEIs", total, unit, done=_done(trainer, module), disable=self.is_disabled)


def _done(trainer: Trainer, module: LightningModule) -> int:
    return module.neurons_done if isinstance(module, PopulationModule) else trainer.global_step
