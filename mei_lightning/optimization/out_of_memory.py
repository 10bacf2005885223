"""What is done when the memory of a device is full: fewer rows are computed at a time."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor
from torch.autograd.function import once_differentiable

from mei_lightning.acceleration.row_arithmetic import per_row
from mei_lightning.exceptions import FullMemoryError
from mei_lightning.gradients import gradient_of
from mei_lightning.objectives import Objective

Result = TypeVar("Result")


class RowsAtATime:
    """How many rows are computed at a time: half as many from the moment on that memory runs out.

    Args:
        most: how many at first; None for all there are.

    Attributes:
        most: how many by now; None as long as all of them fitted.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self._has_warned = False

    def results(self, function: Callable[[slice], Result], rows: int) -> list[Result]:
        """What a function returns for all rows, called with slices of them, one after the other.

        Args:
            function: computes each row for itself; it is called again, for half of its rows, if memory runs out.
            rows: how many there are.

        Raises:
            RuntimeError: if there is no room for a single row.
        """
        results: list[Result] = []
        first = 0
        while first < rows:
            part = slice(first, min(first + (self.most or rows), rows))
            try:
                results.append(function(part))
            except RuntimeError as error:
                if not _tells_of_full_memory(error):
                    raise
                if part.stop - part.start == 1:
                    raise FullMemoryError(
                        f"The memory of the device is full with a single row ({error}). Take shorter stimuli, free "
                        'memory that other programs use, or compute on the CPU (accelerator="cpu").'
                    ) from error
            else:
                first = part.stop
                continue
            # Here nothing holds the error any more, and with it what was computed before it.
            self._halve(part.stop - part.start)
        return results

    def _halve(self, rows: int) -> None:
        if not self._has_warned:
            warnings.warn(
                f"The memory of the device is full with {rows} rows at a time. The run goes on with half as many, or "
                f"fewer if need be (in find_meis, rows_per_device={rows // 2} begins with that).",
                stacklevel=3,
            )
        self._has_warned = True
        self.most = rows // 2
        garbage_collection_cuda()


def _tells_of_full_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or is_oom_error(error) or "out of memory" in str(error)


class ObjectiveInParts(Objective):
    """An objective that is computed for as many rows at a time as a device's memory has room for.

    The gradient is computed along with the scores, so that memory holds what one part keeps for it.

    Args:
        objective: of all rows.
        rows: which of them, in the order of the stimuli.
        at_a_time: how many.
    """

    def __init__(self, objective: Objective, rows: Sequence[int], at_a_time: RowsAtATime) -> None:
        super().__init__()
        # In a tuple, so that this objective moves no model.
        self._whole = (objective,)
        self._rows = list(rows)
        self._at_a_time = at_a_time
        self._parts: dict[tuple[int, int], Objective] = {}

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        scores: Tensor = _Scores.apply(stimulus, self)
        return scores

    def scores_and_gradient(self, stimulus: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor]:
        """Scores ``[rows]``, and the gradient of their sum, or nothing, likewise ``[rows, ...]``."""

        def compute(part: slice) -> tuple[Tensor, Tensor]:
            own = stimulus[part].detach().requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                scores = self._of(part).to(stimulus.device)(own)
                gradient = gradient_of(scores.sum(), own) if needs_gradient else own[:0]
            return scores.detach(), gradient

        scores, gradients = zip(*self._at_a_time.results(compute, len(stimulus)), strict=True)
        return torch.cat(scores), torch.cat(gradients)

    def _of(self, part: slice) -> Objective:
        key = part.start, part.stop
        if key not in self._parts:
            self._parts[key] = self._whole[0].for_rows(self._rows[part])
        return self._parts[key]


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stimulus: Tensor, objective: ObjectiveInParts) -> Tensor:
        scores, ctx.gradient = objective.scores_and_gradient(stimulus, ctx.needs_input_grad[0])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_scores: Tensor) -> tuple[Tensor, None]:
        # Not kept for another time, so that it can be weighed where it is.
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(per_row(gradient_of_scores, gradient)), None
