"""What a stimulus is optimised for: scores ``[rows]``."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidTypeError


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
    raise InvalidTypeError(
        f"{objective!r} is not an objective: give an Objective, or a function that maps stimuli "
        "[rows, channels, time, height, width] to scores [rows]."
    )
