"""What a fixed centre is shown with."""

from collections.abc import Sequence

from torch import Tensor

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives.base import Objective


class SurroundObjective(Objective):
    """The score of a fixed centre together with a surround, which is what is optimised.

    ``s(centre + free * x)``, or minus that for a suppressing surround (Fu et al. 2023, bioRxiv, "Pattern completion
    and disruption characterize contextual modulation in mouse visual cortex"). Outside of ``free`` a stimulus has no
    gradient: what starts as 0 there stays 0.

    Args:
        objective: scores the whole stimulus.
        centre: ``[rows, channels, time, height, width]``, 0 wherever the surround is.
        free: where the surround is, of a shape that broadcasts to that of ``centre``, of bool.
        suppressing: find the surround that lowers the score most in place of the one that raises it.

    Raises:
        ValueError: if the centre is not 0 where the surround is.
    """

    centre: Tensor
    free: Tensor

    def __init__(self, objective: Objective, centre: Tensor, free: Tensor, suppressing: bool = False) -> None:
        super().__init__()
        if (centre * free).any():
            raise InvalidValueError("The centre is not 0 everywhere in the surround: multiply it by ~free.")
        self.objective = objective
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("free", free.expand(len(centre), *free.shape[1:]), persistent=False)
        self.suppressing = suppressing

    def whole(self, surround: Tensor) -> Tensor:
        """The stimuli ``[rows, ...]`` that are shown: centre and surround."""
        return self.centre + surround * self.free

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of surrounds ``[rows, channels, time, height, width]``."""
        scores = self.objective(self.whole(stimulus))
        return -scores if self.suppressing else scores

    def for_rows(self, rows: Sequence[int]) -> "SurroundObjective":
        """The objective of only these rows, with their own centres."""
        rows = list(rows)
        return SurroundObjective(self.objective.for_rows(rows), self.centre[rows], self.free[rows], self.suppressing)
