"""The response of neurons as an objective: the same neurons for all rows, or each row's own."""

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mei_lightning.models.base import RetinaModel
from mei_lightning.models.read_out import SessionReadOut, session_responses
from mei_lightning.neurons import NeuronOrGroup, check_neuron_indices, group_of
from mei_lightning.objectives.base import Objective
from mei_lightning.objectives.reducers import Reducer


class IncreaseObjective(Objective):
    """The mean response of some neurons of one session, the same neurons for every row.

    Args:
        model: called as ``model(stimulus, data_key=data_key)``, or ``model(stimulus)`` if ``data_key`` is None;
            returns responses ``[rows, time', neurons]`` (or ``[rows, neurons]``).
        neuron_indices: one neuron of the session, or a group whose mean response counts.
        data_key: the session; None for a model without sessions.
        response_reducer: turns responses ``[time', rows]`` into ``[rows]``.

    Raises:
        IndexError: in ``forward``, if the session has no such neuron.
        ValueError: if no neuron is given; in ``forward``, if a reducer's window reaches outside the response.
    """

    def __init__(
        self, model: nn.Module, neuron_indices: Sequence[int] | int, data_key: str | None, response_reducer: Reducer
    ) -> None:
        super().__init__()
        self.model = model
        self.neuron_indices = [operator.index(index) for index in np.atleast_1d(neuron_indices).tolist()]
        if not self.neuron_indices:
            raise ValueError("neuron_indices is empty: name at least one neuron.")
        self.data_key = data_key
        self.response_reducer = response_reducer

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        responses = session_responses(self.model, stimulus, self.data_key)
        check_neuron_indices(self.neuron_indices, responses.shape[-1], self.data_key)
        traces = responses[:, :, self.neuron_indices].mean(dim=-1)
        return self.response_reducer.forward(traces.T)


class DecreaseObjective(IncreaseObjective):
    """The negative mean response of some neurons of one session; arguments as for ``IncreaseObjective``."""

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        return -super().forward(stimulus)


class NeuronObjective(Objective):
    """The response of each row's own neuron, or the mean response of its own group of neurons.

    Only the responses of these neurons are computed, and what sessions share only once, if the model is a
    ``RetinaModel`` that can do so. The weights are those that the model has when the objective is made.

    Args:
        model: as for ``IncreaseObjective``.
        neurons: for each row a neuron, ``(session, index)`` (or ``index`` for a model without sessions), or a
            list of neurons: a group that shares the row's stimulus. Rows may belong to different sessions.
        response_reducer: turns responses ``[time', rows]`` into ``[rows]``.

    Raises:
        ValueError: if there are no rows, a group is empty, or a ``RetinaModel`` has no such session.
        IndexError: if a ``RetinaModel`` has no such neuron; in ``forward``, if any other model has not.
    """

    rows: Tensor
    sizes: Tensor

    def __init__(self, model: nn.Module, neurons: Sequence[NeuronOrGroup], response_reducer: Reducer) -> None:
        super().__init__()
        self.model = model
        self.groups = [group_of(target) for target in neurons]
        if not self.groups:
            raise ValueError("neurons is empty: name at least one neuron.")
        self.response_reducer = response_reducer
        rows = [row for row, group in enumerate(self.groups) for _ in group]
        members = [neuron for group in self.groups for neuron in group]
        if isinstance(model, RetinaModel):
            self.read_out = model.read_out(rows, members)
        else:
            self.read_out = SessionReadOut(model, rows, members)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer("sizes", torch.tensor([len(group) for group in self.groups]), persistent=False)

    def traces(self, stimulus: Tensor) -> Tensor:
        """Responses ``[rows, time']`` of the rows' neurons (a group's mean)."""
        responses = self.read_out(stimulus)
        sums = responses.new_zeros(len(self.groups), responses.shape[1]).index_add(0, self.rows, responses)
        return sums / self.sizes[:, None]

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        return self.response_reducer.forward(self.traces(stimulus).T)

    def on(self, model: nn.Module) -> "NeuronObjective":
        """The same objective on another model of the same neurons."""
        return NeuronObjective(model, [list(group) for group in self.groups], self.response_reducer)

    def for_rows(self, rows: Sequence[int]) -> "NeuronObjective":
        """The objective of only these rows' neurons."""
        return NeuronObjective(self.model, [list(self.groups[row]) for row in rows], self.response_reducer)
