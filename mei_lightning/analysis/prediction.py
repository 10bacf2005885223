"""A frozen model's answers to many stimuli, in batches that fit into memory, on any device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.bars import new_bar
from mei_lightning.devices import check_device, chosen_accelerator, in_usual_modes
from mei_lightning.models.base import RetinaModel, frozen
from mei_lightning.neurons import Neuron
from mei_lightning.objectives import NeuronObjective, Reducer
from mei_lightning.objectives.responses import GroupResponses
from mei_lightning.optimization.out_of_memory import RowsAtATime
from mei_lightning.optimization.trainer import quiet_trainer

Stimuli = Callable[[list[int]], Tensor]
"""Maps numbers of stimuli to the stimuli ``[len(numbers), channels, time, height, width]``."""


def predict_rows(
    objective: NeuronObjective,
    stimuli: Stimuli,
    values: Callable[[NeuronObjective, Tensor], Tensor],
    *,
    title: str,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Tensor:
    """Compute something of each row of an objective, on one device.

    Args:
        objective: has a neuron, or a group, for each row.
        stimuli: maps numbers of rows to their stimuli ``[rows, channels, time, height, width]``.
        values: maps the objective of some rows and their stimuli to ``[rows, ...]``, e.g. ``NeuronObjective.traces``.
            It is called without gradients, and may enable them.
        title: what is computed, for the progress bar.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The values of all rows, in their order, on the CPU.
    """
    with frozen(objective):
        return torch.cat(_predict(_Rows(objective, stimuli, values), title, accelerator, progress_bar))


def predict_pairs(
    objective: NeuronObjective,
    stimuli: Stimuli,
    seen_by: Sequence[Sequence[int]],
    *,
    title: str,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Tensor:
    """The score of each stimulus for those neurons that it is meant for, on one device.

    Where an objective is one of the neurons' own responses, what neurons share is computed once for each stimulus.

    Args:
        objective: has a neuron, or a group, for each row.
        stimuli: maps numbers of stimuli to the stimuli ``[len(numbers), channels, time, height, width]``.
        seen_by: for each stimulus the numbers of the objective's rows that it is scored for, at least one.
        title: what is computed, for the progress bar.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The scores, ``[pairs]``, in the order of the stimuli and of their rows, on the CPU.
    """
    with frozen(objective):
        return torch.cat(_predict(_Pairs(objective, stimuli, seen_by), title, accelerator, progress_bar))


def predict_all_pairs(
    model: RetinaModel,
    groups: Sequence[Sequence[Neuron]],
    reducer: Reducer,
    stimuli: Stimuli,
    count: int,
    *,
    title: str,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Tensor:
    """The score of every stimulus for every neuron, or group of neurons, on one device.

    What all neurons share, such as the core of a core-readout model, is computed once for each stimulus, on a copy of
    the model that is prepared to be faster; its responses are within 1e-5 of the model's. But for the result, memory
    does not grow with the number of stimuli.

    Args:
        model: the model.
        groups: the neurons, or groups of neurons.
        reducer: how the mean response of a group over time becomes a score.
        stimuli: maps numbers below ``count`` to stimuli ``[len(numbers), channels, time, height, width]``.
        count: how many stimuli there are, at least one.
        title: what is computed, for the progress bar.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        ``[groups, count]``, on the CPU.
    """
    with frozen(model):
        module = _AllPairs(model, groups, reducer, stimuli, count)
        return torch.cat(_predict(module, title, accelerator, progress_bar), dim=1)


@in_usual_modes
def _predict(module: "_Rows | _AllPairs", title: str, accelerator: str, progress_bar: bool) -> list[Tensor]:
    quiet = quiet_trainer(
        chosen_accelerator(accelerator),
        callbacks=[_NamedBar(title)] if progress_bar else [],
        enable_progress_bar=progress_bar,
        # Values may be made of gradients.
        inference_mode=False,
    )
    with quiet as trainer, full_precision():
        check_device(trainer.strategy.root_device, module.stimulus_type)
        batches = trainer.predict(module)
    assert batches is not None
    return [batch.cpu() for batch in batches]  # type: ignore[union-attr]


class _NamedBar(TQDMProgressBar):
    """Lightning's progress bar, which says what is computed in place of "Predicting DataLoader 0"."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The package's own bar."""
        (batches,) = trainer.num_predict_batches
        self.predict_progress_bar = new_bar(self._title, int(batches), "batches", disable=self.is_disabled)

    def on_predict_batch_start(self, *_: Any) -> None:
        """Nothing: Lightning would put the number of the loader after the title."""

    def on_predict_batch_end(self, *_: Any) -> None:
        """Advance by a batch."""
        self.predict_progress_bar.update()


def _loader(count: int, batch_size: int) -> DataLoader:
    return DataLoader(range(count), batch_size=batch_size, collate_fn=list)  # type: ignore[arg-type]


class _Rows(LightningModule):
    def __init__(
        self,
        objective: NeuronObjective,
        stimuli: Stimuli,
        values: Callable[[NeuronObjective, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.objective = objective
        self.stimuli = stimuli
        self.values = values
        self.stimulus_type = _floating_type(objective.model)
        self._rows_at_a_time = RowsAtATime()

    def predict_dataloader(self) -> DataLoader:
        rows = rows_that_fit(self.objective, self.stimuli([0]).cpu(), torch.device("cpu"))
        return _loader(len(self.objective.groups), rows)

    def predict_step(self, numbers: list[int]) -> Tensor:
        def evaluate(part: slice) -> Tensor:
            objective = self.objective.for_rows(numbers[part]).to(self.device)
            return self.values(objective, self.stimuli(numbers[part]).to(self.device))

        return torch.cat(self._rows_at_a_time.results(evaluate, len(numbers)))


class _Pairs(_Rows):
    def __init__(self, objective: NeuronObjective, stimuli: Stimuli, seen_by: Sequence[Sequence[int]]) -> None:
        super().__init__(objective, stimuli, NeuronObjective.forward)
        self.seen_by = seen_by

    def predict_dataloader(self) -> DataLoader:
        rows = rows_that_fit(self.objective, self.stimuli([0]).cpu(), torch.device("cpu"))
        return _loader(len(self.seen_by), rows)

    def predict_step(self, numbers: list[int]) -> Tensor:
        def evaluate(part: slice) -> Tensor:
            shown = numbers[part]
            pairs = [(place, row) for place, number in enumerate(shown) for row in self.seen_by[number]]
            places, rows = zip(*pairs, strict=True)
            objective = self.objective.for_rows(rows)
            stimuli = self.stimuli(shown)
            if _scores_own_responses(objective):
                objective.responses = GroupResponses(objective.model, places, objective.groups)
            else:
                stimuli = stimuli[list(places)]
            return objective.to(self.device)(stimuli.to(self.device, self.stimulus_type))

        return torch.cat(self._rows_at_a_time.results(evaluate, len(numbers)))


def _scores_own_responses(objective: NeuronObjective) -> bool:
    """Whether an objective makes its scores of nothing but ``responses``, so that stimuli can be shared."""
    names = ("make_read_out", "traces", "traces_and_scores", "forward")
    return all(getattr(type(objective), name) is getattr(NeuronObjective, name) for name in names)


class _AllPairs(LightningModule):
    group_of_member: Tensor
    sizes: Tensor

    def __init__(
        self,
        model: RetinaModel,
        groups: Sequence[Sequence[Neuron]],
        reducer: Reducer,
        stimuli: Stimuli,
        count: int,
    ) -> None:
        super().__init__()
        # In a tuple, so that the model itself stays where it is.
        self._model = (model,)
        self.members = [neuron for group in groups for neuron in group]
        self.reducer = reducer
        self.stimuli = stimuli
        self.count = count
        self._rows_at_a_time = RowsAtATime()
        self.stimulus_type = _floating_type(model)
        sizes = torch.tensor([len(group) for group in groups])
        self.register_buffer("sizes", sizes)
        self.register_buffer("group_of_member", torch.arange(len(groups)).repeat_interleave(sizes))

    @in_usual_modes
    def configure_model(self) -> None:
        device = self.trainer.strategy.root_device
        first = self._read([0], device)
        prepared = prepare(self._model[0], first.shape, device)
        self.read_out = prepared.read_out(None, self.members)
        one_neuron = NeuronObjective(prepared, self.members[:1], self.reducer).to(device)
        self._rows = rows_that_fit(one_neuron, first, device)

    def predict_dataloader(self) -> DataLoader:
        return _loader(self.count, self._rows)

    def predict_step(self, numbers: list[int]) -> Tensor:
        def evaluate(part: slice) -> Tensor:
            return self._scores(self.read_out(self._read(numbers[part], self.device)))

        return torch.cat(self._rows_at_a_time.results(evaluate, len(numbers)), dim=1)

    def _scores(self, responses: Tensor) -> Tensor:
        sums = responses.new_zeros(len(self.sizes), *responses.shape[1:]).index_add(0, self.group_of_member, responses)
        traces = sums / self.sizes[:, None, None]
        return self.reducer.forward(traces.flatten(0, 1).T).view(traces.shape[:2])

    def _read(self, numbers: list[int], device: torch.device) -> Tensor:
        return self.stimuli(numbers).to(device, self.stimulus_type)


def _floating_type(model: nn.Module) -> torch.dtype:
    values = model.state_dict().values()
    return next((value.dtype for value in values if value.is_floating_point()), torch.get_default_dtype())
