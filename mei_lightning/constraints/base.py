"""What every constraint is."""

from collections.abc import Sequence

from torch import Tensor, nn

from mei_lightning.constraints.ranges import check_dimensions
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.wording import first_few


class Constraint(nn.Module):
    """Maps stimuli ``[rows, channels, time, height, width]`` to where they may live, each row on its own.

    Derive from it for a constraint of your own: ``forward`` returns a new tensor of the same shape.
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not say where stimuli may be: write its method forward.")

    def process(self, x: Tensor) -> Tensor:
        """The constrained stimuli, with openretina's name for it; the constraint moves to where the stimuli are."""
        return self.to(x.device)(x)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet the constraint."""
        check_dimensions(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli; names the rows at fault."""
        self.check(stimulus.shape)
        refuse_rows(stimulus.isfinite().flatten(1).all(1).logical_not(), "are not finite: NaN or infinite entries")


def refuse_rows(at_fault: Tensor, what: str) -> None:
    """Raise a ValueError that names the rows ``[rows]`` of an initial stimulus that are at fault, if there are any."""
    rows = at_fault.nonzero().flatten().tolist()
    if rows:
        raise InvalidValueError(f"Row(s) {first_few(rows)} of the initial stimulus {what}.")
