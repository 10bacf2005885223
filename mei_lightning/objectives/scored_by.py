"""Neurons whose rows something else than a reducer scores."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives.base import Objective, in_words
from mei_lightning.objectives.reducers import Reducer
from mei_lightning.objectives.responses import NeuronObjective


class ScoredByFunction(NeuronObjective):
    """Each row's neurons, scored by a function of their responses.

    Args:
        model, neurons, response_reducer: as for ``NeuronObjective``; the reducer has no part in the score.
        function: maps responses ``[rows, time']`` to scores ``[rows]``, each from its own row.

    Raises:
        ValueError: in ``forward``, if the function returns anything else than a score for each row; and as for
            ``NeuronObjective``.
        IndexError: as for ``NeuronObjective``.
    """

    def __init__(
        self,
        model: nn.Module,
        neurons: Sequence[NeuronOrGroup],
        response_reducer: Reducer,
        function: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(model, neurons, response_reducer)
        self.function = function

    def score(self, traces: Tensor) -> Tensor:
        """Scores ``[rows]`` of responses ``[rows, time']``."""
        scores = self.function(traces)
        if not isinstance(scores, Tensor) or scores.shape != traces.shape[:1]:
            made = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"type {type(scores).__name__}"
            raise InvalidValueError(
                f"objective={in_words(self.function)} made a result of {made} of responses [rows, time'] of shape "
                f"{tuple(traces.shape)}: a function of responses returns a score for each row, [rows]."
            )
        return scores

    def describe(self) -> str:
        """The function's qualified name; two functions of the same name are not told apart."""
        return in_words(self.function)


class ScoredByObjective(NeuronObjective):
    """Rows that an objective of the stimulus scores; the responses of each row's own neurons are there for results.

    On another model, only the responses are that model's: the objective has its own.

    Args:
        model, neurons, response_reducer: as for ``NeuronObjective``; the reducer has no part in the score.
        objective: scores the stimuli, each row for itself.

    Raises:
        ValueError, IndexError: as for ``NeuronObjective``.
    """

    def __init__(
        self, model: nn.Module, neurons: Sequence[NeuronOrGroup], response_reducer: Reducer, objective: Objective
    ) -> None:
        super().__init__(model, neurons, response_reducer)
        self.objective = objective

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, with the objective's own settings of them."""
        super().select_rows(rows)
        self.objective = self.objective.for_rows(rows)

    def traces_and_scores(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Responses ``[rows, time']`` of the rows' neurons, and scores ``[rows]``."""
        return self.traces(stimulus), self.objective(stimulus)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``; no responses are computed."""
        scores: Tensor = self.objective(stimulus)
        return scores

    def describe(self) -> str:
        """The objective in words."""
        return self.objective.describe()
