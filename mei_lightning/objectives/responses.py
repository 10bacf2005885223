"""The response of neurons as an objective: the same neurons for all rows, or each row's own."""

from collections.abc import Callable, Sequence
from copy import copy
from inspect import signature
from typing import Self

import torch
from torch import Tensor, nn

from mei_lightning.arguments import in_short, whole_numbers
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import RetinaModel, sessions_of
from mei_lightning.models.precision import as_used
from mei_lightning.models.read_out import SessionReadOut, session_responses
from mei_lightning.neurons import Neuron, NeuronOrGroup, check_neuron_indices, group_label, groups_of
from mei_lightning.objectives.base import Objective, in_words, settings_in_words, sum_in_words, terms_of, weighed
from mei_lightning.objectives.reducers import Reducer, check_reducer


def check_model(model: object) -> None:
    """Raise a TypeError unless an objective can call a model."""
    if not callable(model) or isinstance(model, type):
        raise InvalidTypeError(f"model={in_short(model)} is no model: give one, e.g. load_model('digital_twin').")


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
        TypeError: if the model cannot be called, the reducer is not one, or an index is not a whole number.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> objective = ml.IncreaseObjective(model, [0, 2], None, ml.MeanReducer())
        >>> objective(torch.tensor([1.0, 2.0, 5.0]).reshape(1, 1, 1, 1, 3))  # the mean of neurons 0 and 2
        tensor([3.])
    """

    def __init__(
        self, model: nn.Module, neuron_indices: Sequence[int] | int, data_key: str | None, response_reducer: Reducer
    ) -> None:
        super().__init__()
        self.model = model
        check_model(model)
        check_reducer("response_reducer", response_reducer)
        self.neuron_indices = whole_numbers("neuron_indices", neuron_indices)
        if not self.neuron_indices:
            raise InvalidValueError("neuron_indices is empty: name at least one neuron.")
        self.data_key = data_key
        self.response_reducer = response_reducer

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        responses = session_responses(self.model, stimulus, self.data_key)
        check_neuron_indices(self.neuron_indices, responses.shape[-1], self.data_key)
        traces = responses[:, :, self.neuron_indices].mean(dim=-1)
        return self.response_reducer.forward(traces.T)


class DecreaseObjective(IncreaseObjective):
    """The negative mean response of some neurons of one session, the same neurons for every row.

    What maximises it suppresses the neurons.

    Args:
        model: as for ``IncreaseObjective``.
        neuron_indices: one neuron of the session, or a group whose mean response counts.
        data_key: the session; None for a model without sessions.
        response_reducer: turns responses ``[time', rows]`` into ``[rows]``.

    Raises:
        IndexError, ValueError, TypeError: as for ``IncreaseObjective``.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> objective = ml.DecreaseObjective(model, [0, 2], None, ml.MeanReducer())
        >>> objective(torch.tensor([1.0, 2.0, 5.0]).reshape(1, 1, 1, 1, 3))
        tensor([-3.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        return -super().forward(stimulus)


class GroupResponses(nn.Module):
    """Mean responses of groups of neurons, each group to one stimulus of a batch.

    Only the responses of these neurons are computed, and what sessions share only once, if the model is a
    ``RetinaModel`` that can do so. The weights are those that the model has when this is made.

    Args:
        model: called as ``model(stimulus, data_key=session)``, or ``model(stimulus)`` for neurons without a session;
            returns responses ``[batch, time', neurons]`` (or ``[batch, neurons]``).
        rows: for each group the index of its stimulus in the batch.
        groups: for each group its neurons.

    Raises:
        ValueError: if a ``RetinaModel`` has no such session.
        IndexError: if a ``RetinaModel`` has no such neuron; in ``forward``, if any other model has not.
    """

    group_of_member: Tensor
    sizes: Tensor

    def __init__(self, model: nn.Module, rows: Sequence[int], groups: Sequence[Sequence[Neuron]]) -> None:
        super().__init__()
        members = [neuron for group in groups for neuron in group]
        row_of_member = [row for row, group in zip(rows, groups, strict=True) for _ in group]
        group_of_member = [number for number, group in enumerate(groups) for _ in group]
        if isinstance(model, RetinaModel):
            self.read_out = model.read_out(row_of_member, members)
        else:
            self.read_out = SessionReadOut(model, row_of_member, members)
        self.register_buffer("group_of_member", torch.tensor(group_of_member), persistent=False)
        self.register_buffer("sizes", torch.tensor([len(group) for group in groups]), persistent=False)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Responses ``[groups, time']`` to stimuli ``[rows, channels, time, height, width]``."""
        responses = self.read_out(stimulus)
        sums = responses.new_zeros(len(self.sizes), responses.shape[1]).index_add(0, self.group_of_member, responses)
        return sums / self.sizes[:, None]


class NeuronObjective(Objective):
    """The response of each row's own neuron, or the mean response of its own group of neurons.

    Derive from it for another score of these responses: write ``score``, from traces ``[rows, time']`` to scores
    ``[rows]``. Further arguments of the constructor, kept as attributes of the same names, become part of the results'
    configuration. Those that differ from row to row follow the rows in ``select_rows``::

        class Weighed(NeuronObjective):
            def __init__(self, model, neurons, response_reducer, factors):
                super().__init__(model, neurons, response_reducer)
                self.factors = list(factors)

            def select_rows(self, rows):
                super().select_rows(rows)
                self.factors = [self.factors[row] for row in rows]

            def score(self, traces):
                return super().score(traces) * traces.new_tensor(self.factors)

    Objectives add, subtract and scale: ``NeuronObjective(...) - 0.5 * OneHotObjective(...)`` is one of neurons too.

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
        TypeError: if the model cannot be called, or the reducer is not one.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> stimulus = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 6.0]]).reshape(2, 1, 1, 1, 3)
        >>> objective = ml.NeuronObjective(model, [0, [1, 2]], ml.MeanReducer())  # a neuron, and a group
        >>> objective(stimulus)
        tensor([3., 4.])
        >>> others = ml.NeuronObjective(model, [1, 0], ml.MeanReducer())
        >>> (objective - 0.5 * others)(torch.ones(2, 1, 1, 1, 3))
        tensor([0.5000, 0.5000])
    """

    def __init__(self, model: nn.Module, neurons: Sequence[NeuronOrGroup], response_reducer: Reducer) -> None:
        super().__init__()
        self.model = model
        check_model(model)
        check_reducer("response_reducer", response_reducer)
        self.groups = groups_of(neurons, sessions_of(model))
        if not self.groups:
            raise InvalidValueError("neurons is empty: name at least one neuron.")
        self.response_reducer = response_reducer
        self.make_read_out()

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows; override it for settings that differ from row to row.

        It is called on a copy, which gets its read-out afterwards: put new values in place of the old ones, rather
        than change those.

        Args:
            rows: their numbers, in any order; a row may be named several times.
        """
        self.groups = [self.groups[row] for row in rows]

    def make_read_out(self) -> None:
        """Make what computes responses, of ``self.model``; override it to read out more than the rows' own neurons."""
        self.responses = GroupResponses(self.model, range(len(self.groups)), self.groups)

    def traces(self, stimulus: Tensor) -> Tensor:
        """Responses ``[rows, time']`` of the rows' neurons (a group's mean)."""
        return self.responses(stimulus)

    def score(self, traces: Tensor) -> Tensor:
        """Scores ``[rows]`` of responses ``[rows, time']``."""
        return self.response_reducer.forward(traces.T)

    def traces_and_scores(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Responses ``[rows, time']`` of the rows' neurons, and scores ``[rows]``, from one pass of the model."""
        traces = self.traces(stimulus)
        return traces, as_used(self.score(traces), traces)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        return self.traces_and_scores(stimulus)[1]

    def on(self, model: nn.Module) -> Self:
        """The same objective on another model of the same neurons."""
        return self._derived(model, range(len(self.groups)))

    def for_rows(self, rows: Sequence[int]) -> Self:
        """The objective of only these rows' neurons."""
        return self._derived(self.model, rows)

    def _derived(self, model: nn.Module, rows: Sequence[int]) -> Self:
        # A copy in place of a call of the constructor, so that a subclass may have any arguments.
        other = copy(self)
        for parts in ("_modules", "_buffers", "_parameters"):
            setattr(other, parts, dict(getattr(self, parts)))
        other.model = model
        other.select_rows(rows)
        other.make_read_out()
        return other

    def sum_of_own_kind(self, terms: Sequence[Objective], weights: Sequence[float]) -> Objective:
        """The weighted sum of terms of which this is one, as an objective of neurons."""
        return CombinedNeuronObjective(terms, weights)

    def describe(self) -> str:
        """The score in words, for results: its name and settings, without model and neurons."""
        settings = settings_in_words(self, list(signature(type(self)).parameters)[3:])
        return f"{type(self).__name__}({', '.join([repr(self.response_reducer), *settings])})"

    def describe_fully(self) -> str:
        """The score in words, with the neurons and the model."""
        return f"{self.describe()} of {', '.join(map(group_label, self.groups))} on {in_words(self.model)}"


class CombinedNeuronObjective(NeuronObjective):
    """The weighted sum of objectives of which one at least is of neurons: that of the first such term's neurons.

    ``NeuronObjective(model, neurons, reducer) - 0.5 * OneHotObjective(model, neurons, reducer)`` makes it. The model,
    the neurons, the traces and the reducer are those of the first term that is of neurons. On another model, the terms
    of neurons that were on the same model go there; all others are computed as they are.

    Args:
        objectives: the terms.
        weights: a factor for each of them.

    Raises:
        ValueError: if terms have different numbers of rows.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        # The terms have read-outs of their own.
        nn.Module.__init__(self)
        of_neurons = [term for term in objectives if isinstance(term, NeuronObjective)]
        first = of_neurons[0]
        if len({len(term.groups) for term in of_neurons}) > 1:
            rows = ", ".join(f"{type(term).__name__} {len(term.groups)}" for term in of_neurons)
            raise InvalidValueError(
                f"The objectives to combine have different numbers of rows ({rows}): make each for as many neurons."
            )
        self.model = first.model
        self.groups = first.groups
        self.response_reducer = first.response_reducer
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(weights)
        self._first = list(objectives).index(first)
        self._moves = [isinstance(term, NeuronObjective) and term.model is first.model for term in objectives]

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, each term with its own settings of them."""
        super().select_rows(rows)
        self.objectives = nn.ModuleList(term.for_rows(rows) for term in terms_of(self.objectives))

    def make_read_out(self) -> None:
        """Let the terms that were on the same model make theirs, of the model that it is now."""
        terms = zip(terms_of(self.objectives), self._moves, strict=True)
        self.objectives = nn.ModuleList(self._on_model(term) if moves else term for term, moves in terms)

    def _on_model(self, term: Objective) -> Objective:
        assert isinstance(term, NeuronObjective)
        return term if term.model is self.model else term.on(self.model)

    def traces(self, stimulus: Tensor) -> Tensor:
        """Responses ``[rows, time']`` of the rows' neurons, as the first term of neurons has them."""
        return self._first_of_neurons.traces(stimulus)

    def traces_and_scores(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Responses ``[rows, time']`` of the rows' neurons, and scores ``[rows]``; each term runs its model once."""
        traces, own = self._first_of_neurons.traces_and_scores(stimulus)
        terms = enumerate(self.objectives)
        return traces, weighed(self.weights, [own if place == self._first else term(stimulus) for place, term in terms])

    @property
    def _first_of_neurons(self) -> NeuronObjective:
        first = self.objectives[self._first]
        assert isinstance(first, NeuronObjective)
        return first

    def describe(self) -> str:
        """The weights, and the terms in words; with their neurons and model where they are not the sum's."""
        return sum_in_words(self.weights, [self._term_in_words(term) for term in terms_of(self.objectives)])

    def _term_in_words(self, term: Objective) -> str:
        shares_all = isinstance(term, NeuronObjective) and term.model is self.model and term.groups == self.groups
        return term.describe() if shares_all else term.describe_fully()

    def weighted_terms(self) -> list[tuple[float, Objective]]:
        """The terms, with their weights."""
        return list(zip(self.weights, terms_of(self.objectives), strict=True))


ObjectiveFactory = Callable[[nn.Module, Sequence[NeuronOrGroup], Reducer], NeuronObjective]
"""Makes the objective of some neurons: a ``NeuronObjective``, or a subclass whose further arguments are filled in."""
