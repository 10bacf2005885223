"""When a row has converged."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.optimization.stimulus_module import Status, StimulusModule


class RowConvergence(Callback):
    """Retires a row when its best value has gained too little over a number of steps.

    The gain is relative to the value at which the row last gained enough. Once no row is left, the module stops the
    trainer.

    Args:
        relative_gain: the least relative gain that counts, e.g. 0.001 for 0.1 %.
        patience: the number of steps in which it has to be reached.

    Raises:
        ValueError: unless ``relative_gain >= 0`` and ``patience >= 1``.
    """

    def __init__(self, relative_gain: float = 1e-3, patience: int = 5) -> None:
        if not relative_gain >= 0 or patience < 1:
            raise InvalidValueError(
                f"RowConvergence(relative_gain={relative_gain}, patience={patience}) needs relative_gain >= 0 and "
                "patience >= 1."
            )
        self.relative_gain = relative_gain
        self.patience = patience

    def __repr__(self) -> str:
        return f"RowConvergence(relative_gain={self.relative_gain:g}, patience={self.patience})"

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the steps without gain."""
        assert isinstance(pl_module, StimulusModule)
        module = pl_module
        # The very first value is a gain over nothing, and minus infinity has no relative gain.
        started = module.stalled_value.isfinite()
        least = module.stalled_value + self.relative_gain * module.stalled_value.abs()
        gained = torch.where(started, module.best_value > least, module.best_value.isfinite())
        module.stalled_value.copy_(torch.where(gained, module.best_value, module.stalled_value))
        module.stalled_steps.add_(module.active).masked_fill_(gained, 0)
        module.retire(module.stalled_steps >= self.patience, Status.CONVERGED)
