"""A frozen model's answers to many stimuli, in batches that fit into memory, on any device."""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from mei_lightning.memory import rows_that_fit
from mei_lightning.objectives import NeuronObjective


def predict_rows(
    objective: NeuronObjective,
    stimuli: Callable[[list[int]], Tensor],
    values: Callable[[NeuronObjective, Tensor], Tensor],
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Tensor:
    """Compute something of each row of an objective, on one device.

    Args:
        objective: has a neuron, or a group, for each row.
        stimuli: maps numbers of rows to their stimuli ``[rows, channels, time, height, width]``.
        values: maps the objective of some rows and their stimuli to ``[rows, ...]``, e.g. ``NeuronObjective.traces``.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The values of all rows, in their order, on the CPU.
    """
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
    )
    batches = trainer.predict(_Rows(objective, stimuli, values))
    assert batches is not None
    return torch.cat(batches).cpu()  # type: ignore[arg-type]


class _Rows(LightningModule):
    def __init__(
        self,
        objective: NeuronObjective,
        stimuli: Callable[[list[int]], Tensor],
        values: Callable[[NeuronObjective, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.objective = objective
        self.stimuli = stimuli
        self.values = values

    def predict_dataloader(self) -> DataLoader:
        rows = rows_that_fit(self.objective, self.stimuli([0]).cpu(), torch.device("cpu"))
        return DataLoader(range(len(self.objective.groups)), batch_size=rows, collate_fn=list)  # type: ignore[arg-type]

    def predict_step(self, numbers: list[int]) -> Tensor:
        objective = self.objective.for_rows(numbers).to(self.device)
        return self.values(objective, self.stimuli(numbers).to(self.device))
