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

    ``find_meis`` makes one of a list: ``constraint=[SpatialLowPass(1.0), NormAndRange(30.0)]``.

    Args:
        constraints: in their order; those of a ``Compose`` among them become constraints of this one.

    Raises:
        ValueError: if there are no constraints, or a norm, range or mask is followed by something else, which would
            undo it.

    Example:
        >>> smooth = ml.Compose([ml.TemporalLowPass(sigma=2.0), ml.FixedNorm(5.0)])
        >>> flicker = torch.tensor([1.0, -1.0]).repeat(10) + 1.0  # 2, 0, 2, 0 and so on
        >>> stimulus = smooth(flicker.reshape(1, 1, 20, 1, 1))
        >>> stimulus.norm().round(decimals=3)
        tensor(5.)
        >>> stimulus.flatten()[8:12].round(decimals=1)  # the mean is left, 5 / sqrt(20)
        tensor([1.1000, 1.1000, 1.1000, 1.1000])
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
