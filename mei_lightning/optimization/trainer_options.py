"""Options of a trainer, and callbacks of Lightning's own, that go with a search, and those that do not."""

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
    WeightAveraging,
)

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.optimization.optimizers import OptimizerFactory

_REFUSED_OPTIONS = {
    "accumulate_grad_batches": "adds the gradients of several evaluations of the same stimulus up",
    "overfit_batches": "leaves out steps between two checks",
    "limit_train_batches": "leaves out steps between two checks; max_steps limits a search",
}
_TUNES = "tunes the training of a network, where there is none"
_CHANGES_STEPS = "changes stimuli behind the back of what keeps the best of them"
_REFUSED_CALLBACKS: dict[type[Callback], str] = {
    BaseFinetuning: _TUNES,
    BatchSizeFinder: _TUNES,
    GradientAccumulationScheduler: _REFUSED_OPTIONS["accumulate_grad_batches"],
    LearningRateFinder: _TUNES,
    ModelPruning: _CHANGES_STEPS,
    SpikeDetection: "takes the end of rows, which the loss is a sum of, for a spike",
    StochasticWeightAveraging: _CHANGES_STEPS,
    WeightAveraging: _CHANGES_STEPS,
}


def check_trainer(trainer: Trainer, make_optimizer: OptimizerFactory) -> None:
    """Refuse options of a trainer, and callbacks of Lightning's own, with which stimuli would be others or worse.

    Args:
        trainer: the trainer.
        make_optimizer: makes the optimizer of the stimuli.

    Raises:
        ValueError: that names the option or the callback.
    """
    for name, what_it_does in _REFUSED_OPTIONS.items():
        value = getattr(trainer, name)
        # A whole 1 is one step.
        usual = value == 0 if name == "overfit_batches" else value == 1
        if name == "limit_train_batches":
            usual = bool(trainer.fast_dev_run) or (usual and isinstance(value, float))  # type: ignore[attr-defined]
        if not usual:
            raise InvalidValueError(f"Trainer({name}={value}) {what_it_does}. Leave it out.")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, what_it_does in _REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise InvalidValueError(f"{type(callback).__name__} {what_it_does}. Leave it out.")
        if isinstance(callback, LearningRateMonitor):
            optimizer = make_optimizer([torch.zeros(1, requires_grad=True)])
            if "lr" not in optimizer.param_groups[0]:
                raise InvalidValueError(
                    f"LearningRateMonitor shows learning rates, and {type(optimizer).__name__} has none. Leave it out."
                )
        monitored = getattr(callback, "monitor", None)
        if str(monitored).startswith("score/") and getattr(callback, "mode", "max") != "max":
            name = type(callback).__name__
            raise InvalidValueError(
                f"{name}(monitor='{monitored}', mode='{callback.mode}') waits for scores to fall, and they rise: give "
                f"{name}(monitor='{monitored}', mode='max')."
            )


def is_monitored(trainer: Trainer) -> bool:
    """Whether a callback waits for a metric, as ``EarlyStopping`` and ``ModelCheckpoint`` can, at each check."""
    return any(getattr(callback, "monitor", None) for callback in trainer.callbacks)  # type: ignore[attr-defined]
