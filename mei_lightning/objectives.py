"""What a stimulus is optimised for: scores ``[rows]``, and reducers of responses over time."""

import operator
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mei_lightning.models.base import RetinaModel
from mei_lightning.models.read_out import SessionReadOut, session_responses
from mei_lightning.neurons import NeuronOrGroup, check_neuron_indices, group_of


class Reducer:
    """Responses over time to one number; derive from it and write ``forward`` for one of your own.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
    """

    def __init__(self, axis: int = 0) -> None:
        self.axis = axis

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(axis={self.axis})"


class MeanReducer(Reducer):
    """The mean response over time.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
    """

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        return responses.mean(dim=self.axis)


class MaxReducer(Reducer):
    """The largest response over time.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
    """

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``."""
        return responses.amax(dim=self.axis)


class SliceMeanReducer(Reducer):
    """The mean response in a window of response frames.

    Args:
        axis: the time axis of the responses; 0 in all objectives of this package.
        start: first response frame of the window.
        length: number of response frames in the window.

    Raises:
        ValueError: if the window is empty or starts before the response.
    """

    def __init__(self, axis: int, start: int, length: int) -> None:
        super().__init__(axis)
        if start < 0 or length < 1:
            raise ValueError(f"SliceMeanReducer(start={start}, length={length}) needs start >= 0 and length >= 1.")
        self.start = start
        self.length = length

    def forward(self, responses: Tensor) -> Tensor:
        """Reduce responses ``[time', ...]`` to ``[...]``.

        Raises:
            ValueError: if the window reaches outside the response.
        """
        frames = responses.shape[self.axis]
        if self.start + self.length > frames:
            raise ValueError(
                f"SliceMeanReducer(start={self.start}, length={self.length}) needs response frames {self.start} to "
                f"{self.start + self.length - 1}, but the response has {frames} frames. Choose a window inside it, "
                "or a stimulus with more time steps."
            )
        return responses.narrow(self.axis, self.start, self.length).mean(dim=self.axis)

    def __repr__(self) -> str:
        return f"SliceMeanReducer(axis={self.axis}, start={self.start}, length={self.length})"


class Objective(nn.Module):
    """A score for each row of a stimulus; subclass it and write ``forward``.

    Objectives add, subtract and scale: ``IncreaseObjective(...) - 0.5 * IncreaseObjective(...)``.
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        raise NotImplementedError

    def for_rows(self, rows: Sequence[int]) -> "Objective":
        """The objective of only these rows; itself, unless rows have targets of their own."""
        return self

    def __add__(self, other: "Objective") -> "Objective":
        return CombinedObjective([self, other], [1.0, 1.0])

    def __sub__(self, other: "Objective") -> "Objective":
        return CombinedObjective([self, other], [1.0, -1.0])

    def __mul__(self, factor: float) -> "Objective":
        return CombinedObjective([self], [float(factor)])

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return self * -1.0


class CombinedObjective(Objective):
    """The weighted sum of objectives.

    Args:
        objectives: the terms.
        weights: a factor for each of them.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(weights)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        terms = [weight * term(stimulus) for weight, term in zip(self.weights, self.objectives, strict=True)]
        return torch.stack(terms).sum(dim=0)

    def for_rows(self, rows: Sequence[int]) -> Objective:
        """The same sum for only these rows."""
        terms = [term.for_rows(rows) for term in self.objectives if isinstance(term, Objective)]
        return CombinedObjective(terms, self.weights)


class FunctionObjective(Objective):
    """A plain function as an objective.

    Args:
        function: maps stimuli ``[rows, channels, time, height, width]`` to scores ``[rows]``. An ``nn.Module`` is
            frozen for the time of the fit; the models that any other function uses are for you to freeze.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of the stimuli."""
        return self.function(stimulus)


class RowByRowObjective(FunctionObjective):
    """A function of a single stimulus ``[1, channels, time, height, width]`` with one number as its score."""

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of the stimuli."""
        return torch.stack([self.function(row).reshape(()) for row in stimulus.split(1)])


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


def as_objective(objective: object) -> Objective:
    """An objective from an ``Objective``, from an object with openretina's ``forward``, or from a plain function.

    An object that is not an ``Objective`` is called with one row at a time, since openretina's objectives take a
    batch for time.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, nn.Module):
        return FunctionObjective(objective)
    if callable(forward := getattr(objective, "forward", None)):
        return RowByRowObjective(forward)
    if callable(objective):
        return FunctionObjective(objective)
    raise TypeError(
        f"{objective!r} is not an objective: give an Objective, or a function that maps stimuli "
        "[rows, channels, time, height, width] to scores [rows]."
    )
