"""When a row has converged."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mei_lightning.arguments import is_number, is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.optimization.row_state import RowState, Status
from mei_lightning.optimization.stimulus_module import StimulusModule


class RowConvergence(Callback):
    """Retires a row when its best value has gained too little over a number of steps.

    The gain is relative to the value at which the row last gained enough. Once no row is left, the module stops the
    trainer. It counts in ``on_train_batch_end``, before the module chooses which rows go on.

    Args:
        relative_gain: the least relative gain that counts, e.g. 0.001 for 0.1 %.
        patience: the number of steps in which it has to be reached.

    Raises:
        ValueError: unless ``relative_gain >= 0`` and ``patience >= 1``.

    Example:
        >>> cell = [("session_1", 0)]
        >>> soon = ml.RowConvergence(relative_gain=0.01, patience=2)
        >>> early = ml.find_meis("simulated", cell, search="quick", callbacks=[soon], progress_bar=False)
        >>> usual = ml.find_meis("simulated", cell, search="quick", progress_bar=False)
        >>> early.status.item(), usual.status.item(), bool(early.steps < usual.steps)
        ('converged', 'converged', True)
    """

    def __init__(self, relative_gain: float = 1e-3, patience: int = 5) -> None:
        if not is_number(relative_gain) or relative_gain < 0 or not is_whole(patience, 1):
            raise InvalidValueError(
                f"RowConvergence(relative_gain={relative_gain!r}, patience={patience!r}) needs relative_gain >= 0 and "
                "patience >= 1."
            )
        self.relative_gain = relative_gain
        self.patience = patience
        self._state: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"RowConvergence(relative_gain={self.relative_gain:g}, patience={self.patience})"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to count."""
        self._state = {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the steps without gain."""
        assert isinstance(pl_module, StimulusModule)
        rows = pl_module.rows
        value, steps = self._counts(rows)
        # The very first value is a gain over nothing, and minus infinity has no relative gain.
        least = value + self.relative_gain * value.abs()
        gained = torch.where(value.isfinite(), rows.best_value > least, rows.best_value.isfinite())
        value.copy_(torch.where(gained, rows.best_value, value))
        steps.add_(rows.active).masked_fill_(gained, 0)
        rows.retire(steps >= self.patience, Status.CONVERGED)

    def _counts(self, rows: RowState) -> tuple[Tensor, Tensor]:
        """For each row the value at which it last gained enough, and its steps since."""
        if len(self._state.get("begun", ())) != len(rows):
            self._state = {
                "value": torch.full_like(rows.best_value, -torch.inf),
                "steps": torch.zeros_like(rows.steps),
                "begun": rows.begun.clone(),
            }
        state = self._state = {name: values.to(rows.status.device) for name, values in self._state.items()}
        anew = state["begun"] != rows.begun
        state["value"].masked_fill_(anew, -torch.inf)
        state["steps"].masked_fill_(anew, 0)
        state["begun"].copy_(rows.begun)
        return state["value"], state["steps"]

    def state_dict(self) -> dict[str, Any]:
        """What has been counted."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._state = dict(state_dict)
