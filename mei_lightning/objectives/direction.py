"""A direction in the space that neurons or inner units span."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives.per_row import Values, for_each_row
from mei_lightning.objectives.reducers import Reducer
from mei_lightning.objectives.responses import GroupResponses, NeuronObjective


class DirectionObjective(NeuronObjective):
    """How far the reduced responses of each row's group point in a given direction: the cosine.

    ``<z, d> / (|z| |d|)``, where z holds a value for each neuron of the row's group. On ``InnerUnits`` z is a feature
    vector of a layer (directions as in Olah, Mordvintsev and Schubert 2017, Distill, "Feature visualization").

    Args:
        model: as for ``NeuronObjective``.
        neurons: for each row the group that spans the space.
        response_reducer: turns responses ``[time', neurons]`` into ``[neurons]``.
        direction: a number for each neuron of the group; one direction for all rows, or one for each.

    Raises:
        ValueError: if a direction does not fit its group, or is zero or not finite; and as for ``NeuronObjective``.
        IndexError: as for ``NeuronObjective``.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> stimuli = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).reshape(2, 1, 1, 1, 2)
        >>> objective = ml.DirectionObjective(model, [[0, 1], [0, 1]], ml.MeanReducer(), direction=[0.0, 1.0])
        >>> objective(stimuli)
        tensor([0.8000, 1.0000])
    """

    def __init__(
        self, model: nn.Module, neurons: Sequence[NeuronOrGroup], response_reducer: Reducer, direction: Values
    ) -> None:
        super().__init__(model, neurons, response_reducer)
        self.direction = for_each_row("direction", direction, len(self.groups), dimensions=1)
        for group, own in zip(self.groups, self.direction, strict=True):
            if len(group) != len(own) or not any(own):
                raise InvalidValueError(
                    f"A direction for a group of {len(group)} neurons needs as many numbers, not all of "
                    f"them 0, but has {len(own)}."
                )

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, with their own directions."""
        super().select_rows(rows)
        self.direction = [self.direction[row] for row in rows]

    def make_read_out(self) -> None:
        """Make what computes the response of each member of the groups."""
        row_of_member = [row for row, group in enumerate(self.groups) for _ in group]
        self.responses = GroupResponses(self.model, row_of_member, [(n,) for group in self.groups for n in group])

    def traces(self, stimulus: Tensor) -> Tensor:
        """Responses ``[rows, time']``: each group's mean."""
        return self.traces_and_scores(stimulus)[0]

    def traces_and_scores(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Responses ``[rows, time']``, each group's mean, and scores ``[rows]``."""
        traces = self.responses(stimulus)
        features = self.response_reducer.forward(traces.T).unflatten(0, (len(self.groups), -1))
        cosine = torch.cosine_similarity(features, features.new_tensor(self.direction), dim=1)
        return traces.unflatten(0, (len(self.groups), -1)).mean(dim=1), cosine
