"""One progress bar for the whole run."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stimulus_module import StimulusModule

_SECONDS_BETWEEN_LINES = 30.0


class StepProgressBar(TQDMProgressBar):
    """Lightning's progress bar for the run in place of one for each epoch, green once all is done.

    It counts the neurons that are done, on all devices and in earlier runs, and says how many are done a minute and how
    long the others will take; of a module without named neurons, steps up to the step limit. Where standard error is
    neither a terminal nor a notebook (nohup, SLURM) there is a line of it every half minute.
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

    def _bar(self, trainer: Trainer, module: LightningModule) -> Tqdm:
        assert isinstance(module, StimulusModule)
        if isinstance(module, PopulationModule):
            total: int | None = len(module.labels)
            unit = "neurons"
        else:
            limits = [limit for limit in (trainer.max_steps, module.max_steps) if limit is not None and limit > 0]
            total, unit = min(limits, default=None), "steps"
        # In a notebook, too.
        redraws = hasattr(sys, "ps1") or sys.stderr.isatty()
        return (_Bar if redraws else _Lines)(
            desc="MEIs",
            total=total,
            initial=_done(trainer, module),
            unit=unit,
            disable=self.is_disabled,
            dynamic_ncols=redraws,
            file=sys.stderr,
            bar_format="{desc}: {percentage:3.0f}%" + "|{bar}|" * redraws + " {n_fmt}/{total_fmt} {unit}{pace}",
            mininterval=0.1 if redraws else _SECONDS_BETWEEN_LINES,
            miniters=0,
            smoothing=0,
        )


def _done(trainer: Trainer, module: LightningModule) -> int:
    return module.neurons_done if isinstance(module, PopulationModule) else trainer.global_step


class _Bar(Tqdm):
    """Says how many are done a minute, and how long the others will take, unless it is stopped."""

    stopped = False

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = super().format_dict
        done, seconds = facts["n"] - facts["initial"], facts["elapsed"]
        elapsed = self.format_interval(seconds)
        pace = f", stopped after {elapsed}" if self.stopped else f", {elapsed}"
        if not self.stopped and done > 0 and seconds > 0:
            left = (facts["total"] - facts["n"]) * seconds / done if facts["total"] else 0
            time = f"{self.format_interval(left)} left" if left > 0 else f"in {elapsed}"
            pace = f", {60 * done / seconds:.3g} a minute, {time}"
        return {**facts, "pace": pace}


class _Lines(_Bar):
    """A line whenever a bar would be redrawn."""

    def display(self, *_: Any, **__: Any) -> None:
        self.fp.write(f"{self}\n")
        self.fp.flush()

    def close(self) -> None:
        if not self.disable:
            self.display()
            # Then tqdm has no line of a terminal to clear.
            self.sp = None
        super().close()
