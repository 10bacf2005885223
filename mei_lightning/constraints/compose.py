"""Several constraints, one after the other."""

import itertools
from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor

from mei_lightning.constraints.base import Constraint
from mei_lightning.constraints.norm_and_range import NormAndRange
from mei_lightning.exceptions import InvalidValueError


class Compose(Constraint):
    """Constraints applied one after the other; only the last one holds exactly.

    Example:
        >>> Compose([SpatialLowPass(1.0), NormAndRange(30.0, [(-0.65, 6.27), (-0.91, 6.27)])])
        Compose(
          (0): SpatialLowPass(sigma=1)
          (1): NormAndRange(norm=30, norm_is='fixed', ranges=((-0.65, 6.27), (-0.91, 6.27)))
        )

    Raises:
        ValueError: if there are no constraints, or a norm, range or mask is followed by something else, which would
            undo it.
    """

    def __init__(self, constraints: Iterable[Constraint]) -> None:
        super().__init__()
        for constraint in constraints:
            for part in constraint.children() if isinstance(constraint, Compose) else (constraint,):
                self.add_module(str(len(self._modules)), part)
        parts = self.constraints
        if not parts:
            raise InvalidValueError("Compose([]) has no constraints.")
        for part, after in itertools.pairwise(parts):
            if isinstance(part, NormAndRange):
                raise InvalidValueError(
                    f"{after} after {part} would undo it. Put the norm and range last, in one "
                    "NormAndRange(norm, ranges, mask=...), which holds all of them together."
                )

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints in their order; those of one that is composed itself are among them."""
        return tuple(cast(Iterable[Constraint], self.children()))

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor."""
        for part in self.constraints:
            stimulus = part(stimulus)
        return stimulus

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet one of the constraints."""
        for part in self.constraints:
            part.check(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli; names the rows at fault."""
        for part in self.constraints:
            part.check_stimulus(stimulus)
            stimulus = part(stimulus)
