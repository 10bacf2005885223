"""How the rows of an optimisation stand: the best of each so far, its status, and the steps that it has taken."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from mei_lightning.acceleration.row_arithmetic import per_row, put_rows
from mei_lightning.models.precision import at_least_single
from mei_lightning.wording import first_few

ROUNDING = 1e-6
"""Relative difference up to which two scores in float32 count as equal."""


class Status(IntEnum):
    """How the optimisation of a row stands.

    - ``EMPTY``: the row holds no stimulus.
    - ``ACTIVE``: it is being optimised; in results, "interrupted".
    - ``CONVERGED``: its value has gained too little over a number of steps, see ``RowConvergence``.
    - ``NO_GRADIENT``: the value does not change with the stimulus.
    - ``NOT_FINITE``: a response, a gradient or a step was not a number.
    - ``STEP_LIMIT``: it has taken the most steps that there are.
    - ``PRUNED``: the search has given it up, because others of its neuron are better.
    - ``DUPLICATE``: it has come to where a better row of its neuron is.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> module = ml.StimulusModule(lambda stimuli: stimuli[:, 0, 0, 0, 0], torch.randn(2, 1, 1, 3, 3), max_steps=5)
        >>> [ml.Status(status).name for status in module.status.tolist()]
        ['ACTIVE', 'ACTIVE']
        >>> Trainer(max_epochs=-1, logger=False, enable_progress_bar=False).fit(module)
        >>> [ml.Status(status).label for status in module.status.tolist()]
        ['step limit', 'step limit']
    """

    EMPTY = -1
    ACTIVE = 0
    CONVERGED = 1
    NO_GRADIENT = 2
    NOT_FINITE = 3
    STEP_LIMIT = 4
    PRUNED = 5
    DUPLICATE = 6

    @property
    def label(self) -> str:
        """The status in words, as it stands in results; a row that is still active there was interrupted."""
        if self in (Status.PRUNED, Status.DUPLICATE):
            return "given up"
        return "interrupted" if self is Status.ACTIVE else self.name.lower().replace("_", " ")


class RowState(nn.Module):
    """The tensors of all rows but what is optimised; it knows neither what rows are for nor how they are computed.

    Args:
        stimulus: where the rows begin, feasible, ``[rows, channels, time, height, width]``.

    Attributes:
        best_stimulus, best_score: the best iterate of each row and its own score; the last of those that are equal
            up to rounding.
        best_value: the highest value of each row, its score minus its cost.
        status, steps: a ``Status`` and the number of steps taken, for each row.
        flat_steps: how many steps in a row have had no gradient.
        begun: how many times a row has begun anew.
    """

    best_stimulus: Tensor
    best_score: Tensor
    best_value: Tensor
    status: Tensor
    steps: Tensor
    flat_steps: Tensor
    begun: Tensor

    def __init__(self, stimulus: Tensor) -> None:
        super().__init__()
        rows = len(stimulus)
        lowest = stimulus.new_full((rows,), -torch.inf, dtype=at_least_single(stimulus.dtype))
        self.register_buffer("best_stimulus", stimulus)
        self.register_buffer("best_score", lowest.clone())
        self.register_buffer("best_value", lowest.clone())
        self.register_buffer("status", torch.zeros(rows, dtype=torch.int8, device=stimulus.device))
        for count in ("steps", "flat_steps", "begun"):
            self.register_buffer(count, torch.zeros(rows, dtype=torch.int32, device=stimulus.device))

    def __len__(self) -> int:
        return len(self.status)

    @property
    def active(self) -> Tensor:
        """Rows ``[rows]`` that are still being optimised."""
        return self.status == Status.ACTIVE

    def moving(self, numbers: Tensor, max_steps: int | None) -> Tensor:
        """Which of some rows are still being optimised, and not at the step limit."""
        moving = self.status[numbers] == Status.ACTIVE
        return moving if max_steps is None else moving & (self.steps[numbers] < max_steps)

    def retire(self, rows: Tensor, status: Status) -> None:
        """End the optimisation of rows.

        Args:
            rows: mask of all rows, ``[rows]``; those that are done already keep their status.
            status: the reason.
        """
        self.status.masked_fill_(rows & self.active, int(status))

    def retire_some(self, numbers: Tensor, which: Tensor, status: Status | Tensor) -> None:
        """End the optimisation of some rows.

        Args:
            numbers: of rows, ``[n]``.
            which: mask ``[n]`` of those that end; those that are done already keep their status.
            status: the reason, or that of each, ``[n]``.
        """
        own = self.status[numbers]
        ended = which & (own == Status.ACTIVE)
        self.status[numbers] = torch.where(ended, int(status) if isinstance(status, Status) else status, own)

    def begin(self, numbers: Tensor, stimulus: Tensor) -> None:
        """Let rows begin anew from feasible stimuli."""
        self.best_stimulus[numbers] = stimulus
        for lowest in (self.best_score, self.best_value):
            lowest[numbers] = -torch.inf
        for zero in (self.status, self.steps, self.flat_steps):
            zero[numbers] = 0
        self.begun[numbers] += 1

    def keep_best(self, numbers: Tensor, stimulus: Tensor, scores: Tensor, values: Tensor) -> Tensor:
        """Take in the stimuli of some rows, with their scores and values; rows without a finite one end.

        Args:
            numbers: of the rows, ``[n]``.
            stimulus: ``[n, channels, time, height, width]``.
            scores: ``[n]``.
            values: ``[n]``.

        Returns:
            Mask ``[n]`` of rows that are the best, up to rounding, that they have been.
        """
        finite = scores.isfinite() & values.isfinite()
        # A row that became done since the last check is still computed, but must end as if it were not.
        counts = finite & self.active[numbers]
        best = torch.where(counts, torch.maximum(values, self.best_value[numbers]), self.best_value[numbers])
        # At the optimum the last iterate is kept: rounding, which varies with the batch, must not choose among them.
        kept = counts & (values >= best - ROUNDING * best.abs())
        self.best_value[numbers] = best
        self.best_score[numbers] = torch.where(kept, scores, self.best_score[numbers])

        def best_of(part: slice) -> Tensor:
            found = stimulus[part]
            if certain(kept[part]):
                return found
            best = self.best_stimulus.index_select(0, numbers[part])
            return torch.where(per_row(kept[part], best), found, best)

        put_rows(self.best_stimulus, numbers, best_of)
        self.retire_some(numbers, ~finite, Status.NOT_FINITE)
        return kept


def certain(rows: Tensor) -> bool:
    """Whether all rows are known to be True; where asking would make the host wait for a device, nothing is known."""
    return rows.device.type == "cpu" and bool(rows.all())


_ADVICE = {
    Status.NO_GRADIENT: " The model's response does not change with them: begin elsewhere (another seed, more "
    "restarts, initial=GivenStimuli(...)), or with a larger norm.",
    Status.NOT_FINITE: " A response, a gradient or a step was not a number: look at the model's weights and forward.",
}


def warn_of_failures(labels: Sequence[str], status: Status, total: int) -> None:
    """Warn that some of all stimuli ended with a status that nobody wants."""
    if labels:
        advice = _ADVICE.get(status, "")
        rank_zero_warn(f"{len(labels)} of {total} stimuli ended with '{status.label}': {first_few(labels)}.{advice}")
