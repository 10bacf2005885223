"""Weighted sums of objectives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives.base import Objective
from mei_lightning.objectives.responses import NeuronObjective


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
        return _sum(self.weights, [term(stimulus) for term in self.objectives])

    def for_rows(self, rows: Sequence[int]) -> Objective:
        """The same sum for only these rows."""
        return CombinedObjective([term.for_rows(rows) for term in _terms(self.objectives)], self.weights)

    def describe(self) -> str:
        """The weights, and the terms in words."""
        return _in_words(self.weights, [term.describe() for term in _terms(self.objectives)])


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
        self.objectives = nn.ModuleList(term.for_rows(rows) for term in _terms(self.objectives))

    def make_read_out(self) -> None:
        """Let the terms that were on the same model make theirs, of the model that it is now."""
        terms = zip(_terms(self.objectives), self._moves, strict=True)
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
        return traces, _sum(self.weights, [own if place == self._first else term(stimulus) for place, term in terms])

    @property
    def _first_of_neurons(self) -> NeuronObjective:
        first = self.objectives[self._first]
        assert isinstance(first, NeuronObjective)
        return first

    def describe(self) -> str:
        """The weights, and the terms in words; with their neurons and model where they are not the sum's."""
        return _in_words(self.weights, [self._term_in_words(term) for term in _terms(self.objectives)])

    def _term_in_words(self, term: Objective) -> str:
        shares_all = isinstance(term, NeuronObjective) and term.model is self.model and term.groups == self.groups
        return term.describe() if shares_all else term.describe_fully()


def weighted_sum(objectives: Sequence[Objective], weights: Sequence[float]) -> Objective:
    """A sum of objectives, of neurons if one of them is; sums among them become terms of this one.

    Args:
        objectives: the terms.
        weights: a factor for each of them.

    Raises:
        ValueError: if terms have different numbers of rows.
    """
    weighted = [
        (weight * factor, term)
        for weight, objective in zip(weights, objectives, strict=True)
        for factor, term in _factors_and_terms(objective)
    ]
    factors, terms = zip(*weighted, strict=True)
    if any(isinstance(term, NeuronObjective) for term in terms):
        return CombinedNeuronObjective(terms, factors)
    return CombinedObjective(terms, factors)


def _factors_and_terms(objective: Objective) -> list[tuple[float, Objective]]:
    if isinstance(objective, CombinedObjective | CombinedNeuronObjective):
        return list(zip(objective.weights, _terms(objective.objectives), strict=True))
    return [(1.0, objective)]


def _terms(objectives: nn.ModuleList) -> list[Objective]:
    return [term for term in objectives if isinstance(term, Objective)]


def _sum(weights: Sequence[float], scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(dim=0)


def _in_words(weights: Sequence[float], terms: Sequence[str]) -> str:
    return " + ".join(f"{weight!r} * {term}" for weight, term in zip(weights, terms, strict=True))
