"""Scores of many stimuli on a model, in batches on any device: of each one's own neurons, or of all neurons."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mei_lightning.memory import rows_that_fit
from mei_lightning.models.base import RetinaModel, frozen
from mei_lightning.models.fast_path import prepare
from mei_lightning.neurons import Neuron
from mei_lightning.objectives import NeuronObjective, Reducer

Groups = Sequence[Sequence[Neuron]]
Scores = NDArray[np.floating[Any]]


class Stimuli(Protocol):
    """Stimuli that are read, or made, as they are used: an array, a variable of a store, or anything like it."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, numbers: list[int]) -> Any:
        """Those of some numbers, as an array ``[len(numbers), channels, time, height, width]``."""


def scores_of_own_neurons(
    model: RetinaModel,
    groups: Groups,
    reducer: Reducer,
    stimuli: Stimuli,
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Scores:
    """The score of each stimulus for its own neuron, or group of neurons, computed by the model itself.

    Args:
        model: the model.
        groups: for each stimulus its neurons.
        reducer: how their mean response over time becomes a score.
        stimuli: as many as groups.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        ``[stimuli]``, in double precision.
    """
    with frozen(model):
        module = _OwnNeurons(NeuronObjective(model, [list(group) for group in groups], reducer), stimuli)
        return np.concatenate(_predict(module, accelerator, progress_bar))


def scores_of_all_neurons(
    model: RetinaModel,
    groups: Groups,
    reducer: Reducer,
    stimuli: Stimuli,
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Scores:
    """The score of every stimulus for every neuron, or group of neurons.

    What all neurons share, such as the core of a core-readout model, is computed once for each stimulus, on a copy of
    the model that is prepared to be faster; its responses are within 1e-5 of the model's. Memory does not grow with
    the number of stimuli, but for the result.

    Args:
        model: the model.
        groups: the neurons, or groups of neurons.
        reducer: how their mean response over time becomes a score.
        stimuli: any number.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        ``[groups, stimuli]``, in double precision.
    """
    with frozen(model):
        module = _AllNeurons(model, groups, reducer, stimuli)
        return np.concatenate(_predict(module, accelerator, progress_bar), axis=-1)


class _Scoring(LightningModule):
    """Reads stimuli in batches; ``rows`` of a batch have to be known when predictions begin."""

    rows: int

    def __init__(self, stimuli: Stimuli, dtype: torch.dtype) -> None:
        super().__init__()
        self.stimuli = stimuli
        self.stimulus_type = dtype

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(range(len(self.stimuli)), batch_size=self.rows, collate_fn=list)  # type: ignore[arg-type]

    def read(self, numbers: list[int], device: torch.device) -> Tensor:
        return torch.as_tensor(np.asarray(self.stimuli[numbers])).to(device, self.stimulus_type)

    @property
    def target_device(self) -> torch.device:
        return self.trainer.strategy.root_device


class _OwnNeurons(_Scoring):
    def __init__(self, objective: NeuronObjective, stimuli: Stimuli) -> None:
        super().__init__(stimuli, _floating_type(objective.model))
        self.objective = objective

    def configure_model(self) -> None:
        objective = self.objective.for_rows([0]).to(self.target_device)
        self.rows = rows_that_fit(objective, self.read([0], self.target_device), self.target_device)

    def predict_step(self, numbers: list[int]) -> Tensor:
        return self.objective.for_rows(numbers).to(self.device)(self.read(numbers, self.device))


class _AllNeurons(_Scoring):
    group_of_member: Tensor
    sizes: Tensor

    def __init__(self, model: RetinaModel, groups: Groups, reducer: Reducer, stimuli: Stimuli) -> None:
        super().__init__(stimuli, _floating_type(model))
        # In a tuple, so that the model is not moved.
        self._model = (model,)
        self.members = [neuron for group in groups for neuron in group]
        self.reducer = reducer
        sizes = torch.tensor([len(group) for group in groups])
        self.register_buffer("sizes", sizes)
        self.register_buffer("group_of_member", torch.arange(len(groups)).repeat_interleave(sizes))

    def configure_model(self) -> None:
        first = self.read([0], self.target_device)
        prepared = prepare(self._model[0], first.shape, self.target_device)
        self.read_out = prepared.read_out(None, self.members)
        one_neuron = NeuronObjective(prepared, self.members[:1], self.reducer).to(self.target_device)
        self.rows = rows_that_fit(one_neuron, first, self.target_device)

    def predict_step(self, numbers: list[int]) -> Tensor:
        responses = self.read_out(self.read(numbers, self.device))
        sums = responses.new_zeros(len(self.sizes), *responses.shape[1:]).index_add(0, self.group_of_member, responses)
        traces = sums / self.sizes[:, None, None]
        return self.reducer.forward(traces.flatten(0, 1).T).view(traces.shape[:2])


def _floating_type(model: nn.Module) -> torch.dtype:
    return next(
        (values.dtype for values in model.state_dict().values() if values.is_floating_point()),
        torch.get_default_dtype(),
    )


def _predict(module: LightningModule, accelerator: str, progress_bar: bool) -> list[Scores]:
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=progress_bar,
        enable_model_summary=False,
    )
    batches = trainer.predict(module)
    assert batches is not None
    return [batch.double().cpu().numpy() for batch in batches]  # type: ignore[union-attr]
