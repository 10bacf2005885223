"""A given response in place of the largest one.

A target is hit the more exactly the smaller the last steps are: ``AdaptivePowerMethod(smallest=1e-4)``.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives.per_row import Values, for_each_row
from mei_lightning.objectives.reducers import Reducer
from mei_lightning.objectives.responses import NeuronObjective


class TargetLevelObjective(NeuronObjective):
    """How near the reduced response of each row's neurons is to a given level: ``-(s - level)^2``.

    A stimulus that has come to hit the level exactly ends there, converged; one that begins there has no gradient, and
    ends with that status. For ``find_meis`` it is ``objective=functools.partial(TargetLevelObjective, level=...)``.

    Args:
        model: as for ``NeuronObjective``.
        neurons: as for ``NeuronObjective``.
        response_reducer: as for ``NeuronObjective``.
        level: the response to hit, in the model's units; one for all rows, or one for each.

    Raises:
        ValueError: if there is not one level for each row, or one is not finite; and as for ``NeuronObjective``.
        IndexError: as for ``NeuronObjective``.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> objective = ml.TargetLevelObjective(model, [0, 1], ml.MeanReducer(), level=5.0)
        >>> objective(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).reshape(2, 1, 1, 1, 2))  # 2 and 1 away from it
        tensor([-4., -1.])
    """

    def __init__(
        self,
        model: nn.Module,
        neurons: Sequence[NeuronOrGroup],
        response_reducer: Reducer,
        level: float | Sequence[float],
    ) -> None:
        super().__init__(model, neurons, response_reducer)
        self.level = for_each_row("level", level, len(self.groups), dimensions=0)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, with their own levels."""
        super().select_rows(rows)
        self.level = [self.level[row] for row in rows]

    def score(self, traces: Tensor) -> Tensor:
        """Scores ``[rows]`` of responses ``[rows, time']``."""
        reduced = super().score(traces)
        return -(reduced - reduced.new_tensor(self.level)).square()


class TargetTraceObjective(NeuronObjective):
    """How near the response of each row's neurons is to a given course: minus the mean squared error over time.

    The reducer takes the mean: a ``SliceMeanReducer`` lets only the frames of its window count. For ``find_meis`` it is
    ``objective=functools.partial(TargetTraceObjective, trace=...)``.

    Args:
        model: as for ``NeuronObjective``.
        neurons: as for ``NeuronObjective``.
        response_reducer: as for ``NeuronObjective``.
        trace: the response to follow, in the model's units, ``[time']`` for all rows or ``[rows, time']``.

    Raises:
        ValueError: if there is not one trace for each row, or one is not finite; in ``forward``, if the response has
            another number of frames; and as for ``NeuronObjective``.
        IndexError: as for ``NeuronObjective``.

    Example:
        >>> model = torch.nn.Flatten(1, 3)  # each column is a neuron, which responds with the column's value over time
        >>> objective = ml.TargetTraceObjective(model, [0], ml.MeanReducer(), trace=[0.0, 1.0, 2.0])
        >>> objective(torch.tensor([0.0, 1.0, 5.0]).reshape(1, 1, 3, 1, 1))
        tensor([-3.])
    """

    def __init__(
        self, model: nn.Module, neurons: Sequence[NeuronOrGroup], response_reducer: Reducer, trace: Values
    ) -> None:
        super().__init__(model, neurons, response_reducer)
        self.trace = for_each_row("trace", trace, len(self.groups), dimensions=1)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, with their own traces."""
        super().select_rows(rows)
        self.trace = [self.trace[row] for row in rows]

    def score(self, traces: Tensor) -> Tensor:
        """Scores ``[rows]`` of responses ``[rows, time']``."""
        target = traces.new_tensor(self.trace)
        if target.shape != traces.shape:
            raise InvalidValueError(
                f"The trace to follow has {target.shape[1]} frames, but the response has {traces.shape[1]}."
            )
        return -super().score((traces - target).square())
