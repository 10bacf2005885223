"""What one step does to the rows that it computes, told from hook to hook."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mei_lightning.acceleration.row_arithmetic import per_row, put_rows
from mei_lightning.optimization.row_state import RowState, Status, certain
from mei_lightning.optimization.stimulus_space import StimulusSpace


@dataclass
class Step:
    """A step of the rows in computation.

    Optimizers that search along a line evaluate the objective several times a step, at points that nobody will see.

    Args:
        rows: how all rows stand.
        index: the numbers of the rows in computation.
        space: where stimuli may live.
        max_steps: the most steps that a row takes.

    Attributes:
        before: the parameters at its beginning, ``[n, ...]``.
        at_best: rows ``[n]`` that are at its beginning the best that they have been.
        evaluated: the parameters where the objective was evaluated last.
        steepness: the norm of each row's gradient at the beginning, ``[n]``.
        projected_fraction: which part of each row's gradient the projection behind a parameterisation left, ``[n]``.
        finite: rows ``[n]`` that are finite after the step.
    """

    rows: RowState
    index: Tensor
    space: StimulusSpace
    max_steps: int | None
    before: Tensor | None = None
    at_best: Tensor | None = None
    evaluated: Tensor | None = None
    steepness: Tensor | None = None
    projected_fraction: Tensor | None = None
    finite: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.finite = torch.ones_like(self.index, dtype=torch.bool)

    def note_projected_fraction(self, fraction: Tensor) -> None:
        """Take in which part of each row's gradient is left."""
        self.projected_fraction = fraction

    def retire_flat_rows(self, steepness: Tensor, patience: int) -> None:
        """Retire rows without a gradient for so many steps, and rows whose gradient is not finite."""
        self.steepness = steepness
        flat_steps, fraction = self.rows.flat_steps, self.projected_fraction
        flat_steps[self.index] = (flat_steps[self.index] + 1) * (steepness == 0)
        flat = flat_steps[self.index] >= patience
        done = torch.zeros_like(flat) if fraction is None else fraction == 0
        if self.at_best is not None:
            # At a maximum that is flat, as that of a saturated neuron.
            done |= self.at_best & (self.rows.steps[self.index] > 0)
        finite = steepness.isfinite()
        status = torch.where(done, int(Status.CONVERGED), int(Status.NO_GRADIENT))
        status = torch.where(finite, status, int(Status.NOT_FINITE)).to(self.rows.status.dtype)
        self.rows.retire_some(self.index, flat | ~finite, status)

    def settle(self, part: slice, after: Tensor, normalised: bool = True) -> Tensor:
        """Where some of the rows, a slice of them, are after they have moved: feasible, or still where they were.

        Args:
            part: which of them.
            after: where they have moved to.
            normalised: whether steps are as long as ever where gradients are small.
        """
        before, fraction = self.before, self.projected_fraction
        assert before is not None
        if self.space.parameterization is None:
            after = self.space.project(after)
        elif fraction is not None and normalised:
            # A projection would take back the rest of a step whose length does not depend on the gradient's.
            after = torch.lerp(before[part], after, per_row(fraction[part], after))
        # A sum is finite only if each entry is, and taken more quickly than each is asked.
        self.finite[part] = after.flatten(1).sum(dim=1).isfinite()
        moves = self.rows.moving(self.index[part], self.max_steps) & self.finite[part]
        return after if certain(moves) else torch.where(per_row(moves, after), after, before[part])

    @torch.no_grad()
    def settle_all(self, stimulus: Tensor, everywhere: Tensor) -> None:
        """Settle the rows of a stimulus in place, and put all others back.

        Args:
            stimulus: all rows after the step.
            everywhere: all rows before the step.
        """

        def settled(part: slice) -> Tensor:
            return self.settle(part, stimulus.index_select(0, self.index[part]), normalised=False)

        put_rows(everywhere, self.index, settled)
        stimulus.copy_(everywhere)

    def count(self) -> None:
        """Count the step of the rows that have moved, and retire those that are not finite."""
        moving = self.rows.moving(self.index, self.max_steps) & self.finite
        self.rows.retire_some(self.index, ~self.finite, Status.NOT_FINITE)
        self.rows.steps[self.index] += moving
