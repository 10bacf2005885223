"""Stimuli in TensorBoard as they form."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from matplotlib.figure import Figure
from torch import Tensor

from mei_lightning.callbacks.pictures import Picture, show, shows_pictures
from mei_lightning.callbacks.results_writer import ResultsWriter
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.optimization.population import PopulationModule
from mei_lightning.optimization.stimulus_module import StimulusModule
from mei_lightning.plots.frames import COLORS
from mei_lightning.plots.meis import plot_meis
from mei_lightning.plots.stimuli import contact_sheet, plot_stimulus_composition
from mei_lightning.plots.video import animated_png_bytes
from mei_lightning.results.configuration import as_text
from mei_lightning.wording import first_few

_EXTREMES = 4


class StimulusLogger(Callback):
    """Shows the best stimuli of a few neurons in TensorBoard, and the distribution of scores over all of them.

    For each shown neuron: the stimulus as an animation, a contact sheet of its frames, and its composition in space
    and time. Of a population, also the MEIs of the neurons with the highest and the lowest scores, whenever a tenth
    more neurons are done. At the end of the run its configuration appears among the hyperparameters. Of other loggers,
    those that take pictures, as that of wandb does, get them too; of those that do not, it says so.

    Args:
        neurons: labels of the neurons to show, e.g. ``["session_1/3"]``; by default the first four.
        every_n_checks: how many of the module's checks (epochs) lie between two pictures.

    Raises:
        ValueError: if ``every_n_checks`` is not positive; at the start of the fit, if a neuron is not in the run.
        TypeError: at the start of the fit, if the module is no ``StimulusModule``.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.loggers import TensorBoardLogger
        >>> from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        >>> module = ml.StimulusModule(lambda stimuli: stimuli[:, 0, 0, 0, 0], torch.randn(2, 2, 6, 8, 8), max_steps=4)
        >>> logger = TensorBoardLogger("logs")
        >>> pictures = ml.StimulusLogger([module.labels[0]], every_n_checks=10)
        >>> Trainer(logger=logger, callbacks=[pictures], max_epochs=-1, enable_progress_bar=False).fit(module)
        >>> sorted(EventAccumulator(logger.log_dir).Reload().Tags()["images"])
        ['row_0/composition', 'row_0/frames', 'row_0/stimulus']
    """

    def __init__(self, neurons: Sequence[str] | None = None, every_n_checks: int = 2) -> None:
        if every_n_checks < 1:
            raise InvalidValueError(f"StimulusLogger(every_n_checks={every_n_checks}) must be at least 1.")
        self.neurons = None if neurons is None else list(neurons)
        self.every_n_checks = every_n_checks
        self._done_when_extremes_shown = 0
        self._first_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the names."""
        labels = _module(pl_module).labels
        for neuron in self.neurons or ():
            if neuron not in labels:
                raise InvalidValueError(
                    f"StimulusLogger cannot show {neuron!r}; the run has {first_few(labels, most=20)}."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which loggers show no pictures."""
        self._done_when_extremes_shown = 0
        self._first_step = trainer.global_step
        if blind := [type(logger).__name__ for logger in trainer.loggers if not shows_pictures(logger)]:
            rank_zero_info(
                f"{' and '.join(blind)}: numbers, but no pictures. TensorBoardLogger and WandbLogger show the stimuli."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log at each n-th check."""
        if trainer.current_epoch % self.every_n_checks == 0:
            module = _module(pl_module)
            stimuli = _stimuli_in_computation(module, self._shown(module))
            if trainer.is_global_zero:
                self._log(trainer, module, stimuli)
        if trainer.is_global_zero and isinstance(pl_module, PopulationModule) and pl_module.streams:
            growth = max(0.1 * self._done_when_extremes_shown, 2 * _EXTREMES)
            if pl_module.neurons_done >= self._done_when_extremes_shown + growth:
                self._log_extremes(trainer)
                self._done_when_extremes_shown = pl_module.neurons_done

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the result and the configuration, unless there was nothing left to do."""
        module = _module(pl_module)
        if trainer.global_step == self._first_step:
            return
        if trainer.is_global_zero:
            self._log(trainer, module, _final_stimuli(trainer, module, self._shown(module)))
            if len(module.labels) > 2 * _EXTREMES:
                self._log_extremes(trainer)
        scores = module.scores()
        final = {"final/score_mean": scores.mean()} if len(scores) else {}
        for logger in _tensorboard_loggers(trainer):
            logger.log_hyperparams(
                {name: as_text(value) for name, value in module.hparams.items()},
                {**final, "final/steps": trainer.global_step},
            )
            logger.save()

    def _shown(self, module: StimulusModule) -> list[str]:
        return module.labels[:4] if self.neurons is None else self.neurons

    def _log(self, trainer: Trainer, module: StimulusModule, stimuli: Mapping[str, Tensor]) -> None:
        scores = module.scores()
        for logger in _tensorboard_loggers(trainer):
            if len(scores):
                logger.experiment.add_histogram("scores", scores, trainer.global_step)
        if any(map(shows_pictures, trainer.loggers)):
            for label, stimulus in stimuli.items():
                self._log_stimulus(trainer, label, stimulus, module.stimulus_format)

    @staticmethod
    def _log_extremes(trainer: Trainer) -> None:
        if (store := _store_of(trainer)) is None or not any(map(shows_pictures, trainer.loggers)):
            return
        meis = xr.open_zarr(store, chunks=None)
        done = meis.isel(neuron=np.isfinite(meis["score"].values) & (meis["status"] != "pending").values)
        by_score = done.isel(neuron=np.argsort(done["score"].values, kind="stable"))
        for what, part in (("lowest", slice(_EXTREMES)), ("highest", slice(-_EXTREMES, None))):
            if (shown := by_score.isel(neuron=part).load()).sizes["neuron"]:
                show(trainer.loggers, f"population/{what}_scores", plot_meis(shown), trainer.global_step)

    @staticmethod
    def _log_stimulus(trainer: Trainer, label: str, stimulus: Tensor, facts: StimulusFormat | None) -> None:
        pictures: dict[str, Picture] = {"frames": contact_sheet(stimulus, facts)}
        if stimulus.shape[1] > 1 and len(stimulus) <= COLORS:
            pictures["stimulus"] = animated_png_bytes(stimulus, stimulus_format=facts)
        figure = pictures["composition"] = Figure(figsize=(6, 5.5), layout="constrained")
        axes = figure.subplot_mosaic([["space", "space"], ["time", "spectrum"]], height_ratios=(1.2, 1))
        plot_stimulus_composition(stimulus, axes["time"], axes["spectrum"], axes["space"], stimulus_format=facts)
        for kind, picture in pictures.items():
            show(trainer.loggers, f"{label}/{kind}", picture, trainer.global_step)


def _module(pl_module: LightningModule) -> StimulusModule:
    if not isinstance(pl_module, StimulusModule):
        raise InvalidTypeError(
            f"StimulusLogger shows the stimuli of a StimulusModule, not of a {type(pl_module).__name__}."
        )
    return pl_module


def _stimuli_in_computation(module: StimulusModule, labels: Sequence[str]) -> dict[str, Tensor]:
    """The best stimuli so far of those neurons that are being computed, also on other devices."""
    numbers = {module.labels.index(label): label for label in labels}
    if isinstance(module, PopulationModule):
        found = module.stimuli_in_computation(list(numbers))
    else:
        rows = module.best_rows()
        found = {number: module.best_stimulus[rows[number]].detach() for number in numbers}
    return {numbers[number]: stimulus.cpu() for number, stimulus in found.items()}


def _final_stimuli(trainer: Trainer, module: StimulusModule, labels: Sequence[str]) -> dict[str, Tensor]:
    """The stimuli that a run ends with, from where they are kept."""
    if (store := _store_of(trainer)) is None:
        return _stimuli_in_computation(module, labels)
    meis = xr.open_zarr(store, chunks=None).sel(neuron=list(labels))
    meis = meis.isel(neuron=(meis["status"] != "pending").values)
    return dict(zip(meis["neuron"].values.tolist(), torch.from_numpy(meis["stimulus"].values), strict=True))


def _store_of(trainer: Trainer) -> Path | None:
    writers = [callback for callback in trainer.callbacks if isinstance(callback, ResultsWriter)]  # type: ignore[attr-defined]
    return writers[0].store.path if writers else None


def _tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
