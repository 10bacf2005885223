"""Stimuli in TensorBoard as they form."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from mei_lightning.module import StimulusModule
from mei_lightning.plotting import contact_sheet, plot_stimulus_composition
from mei_lightning.video import COLORS, animated_png_bytes


class StimulusLogger(Callback):
    """Shows the best stimuli of a few neurons in TensorBoard, and the distribution of scores over all of them.

    For each shown neuron: the stimulus as an animation, a contact sheet of its frames, and its composition in space
    and time. At the end of the run its configuration appears among the hyperparameters. Does nothing with other
    loggers.

    Args:
        neurons: labels of the neurons to show, e.g. ``["session_1/3"]``; by default the first four.
        every_n_checks: how many of the module's checks (epochs) lie between two pictures.

    Raises:
        ValueError: if ``every_n_checks`` is not positive; at the start of the fit, if a neuron is not in the run.
    """

    def __init__(self, neurons: Sequence[str] | None = None, every_n_checks: int = 2) -> None:
        if every_n_checks < 1:
            raise ValueError(f"StimulusLogger(every_n_checks={every_n_checks}) must be at least 1.")
        self.neurons = None if neurons is None else list(neurons)
        self.every_n_checks = every_n_checks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the names."""
        labels = _module(pl_module).labels
        for neuron in self.neurons or ():
            if neuron not in labels:
                raise ValueError(f"StimulusLogger cannot show {neuron!r}; the run has {', '.join(labels[:20])}.")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log at each n-th check."""
        if trainer.current_epoch % self.every_n_checks == 0:
            self._log(trainer, _module(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the result and the configuration."""
        module = _module(pl_module)
        self._log(trainer, module)
        for logger in _tensorboard_loggers(trainer):
            best = module.best_score[module.best_rows()]
            logger.log_hyperparams(
                {name: str(value) for name, value in module.hparams.items()},
                {"final/score_mean": best[best.isfinite()].mean(), "final/steps": trainer.global_step},
            )
            logger.save()

    def _log(self, trainer: Trainer, module: StimulusModule) -> None:
        rows = module.best_rows()
        labels = module.labels
        shown = list(labels[:4]) if self.neurons is None else self.neurons
        for logger in _tensorboard_loggers(trainer):
            writer = logger.experiment
            scores = module.best_score[rows]
            if (finite := scores[scores.isfinite()]).numel():
                writer.add_histogram("scores", finite, trainer.global_step)
            for label in shown:
                stimulus = module.best_stimulus[rows[labels.index(label)]].detach().cpu()
                self._log_stimulus(writer, label, stimulus, module, trainer.global_step)

    @staticmethod
    def _log_stimulus(
        writer: SummaryWriter, label: str, stimulus: torch.Tensor, module: StimulusModule, step: int
    ) -> None:
        facts = module.stimulus_format
        sheet = contact_sheet(stimulus, facts)
        writer.add_image(f"{label}/frames", sheet, step, dataformats="HWC")
        if stimulus.shape[1] > 1 and len(stimulus) <= COLORS:
            _add_animation(writer, f"{label}/stimulus", animated_png_bytes(stimulus, stimulus_format=facts), step)
        figure = Figure(figsize=(6, 5.5), layout="constrained")
        axes = figure.subplot_mosaic([["space", "space"], ["time", "spectrum"]], height_ratios=(1.2, 1))
        plot_stimulus_composition(stimulus, axes["time"], axes["spectrum"], axes["space"], stimulus_format=facts)
        writer.add_figure(f"{label}/composition", figure, step)


def _module(pl_module: LightningModule) -> StimulusModule:
    if not isinstance(pl_module, StimulusModule):
        raise TypeError(f"StimulusLogger shows the stimuli of a StimulusModule, not of a {type(pl_module).__name__}.")
    return pl_module


def _tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _add_animation(writer: SummaryWriter, tag: str, png: bytes, step: int) -> None:
    # SummaryWriter.add_video needs an old moviepy; TensorBoard shows an animated PNG as it is.
    image = Summary.Image(colorspace=3, encoded_image_string=png)
    writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
