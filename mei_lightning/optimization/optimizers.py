"""The default ascent: normalised gradients, steps relative to the stimulus' norm, adapted to each row."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mei_lightning.acceleration.blocks import for_few_rows
from mei_lightning.acceleration.row_arithmetic import inner_products, per_row, put_rows, row_norms
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError

_GROWTH = 1.3
_SHRINKAGE = 0.5
_LARGEST_STEP = 4.0


class AdaptivePowerMethod(Optimizer):
    """Steps along each row's normalised gradient, in units of the row's own norm, as long as the row can take.

    With a projection P after each step, a row x of norm r with gradient g moves to ``P(x + a * r * g / |g|)``: the
    generalised power method for large a (Journée et al. 2010, Journal of Machine Learning Research 11:517-553),
    gradient ascent for small a. A row's own step a grows by 1.3 while the response still rises where a step has led,
    and is halved where it falls again: smooth neurons settle in a few large steps, rugged ones are climbed in small
    ones. There is no learning rate to tune, since neither the scale of the responses nor that of the stimulus matters.

    Whether the response rises is told by the gradient along the last move d, less what leaving the sphere of radius r
    would gain: ``<g, d> - |d|^2 / 2 * <g, x> / r^2``.

    Args:
        params: stimuli ``[rows, ...]``; each row steps on its own.
        start: the first step, relative to the norm of the row.
        smallest: the least step, relative to the norm of the row.

    Attributes:
        rows: the numbers of the rows that move, or None for all.
        settle: decides what becomes of rows that have moved: a function of some of ``rows``, as a slice, and of where
            they have moved to, that returns where they are then; None to leave them there.

    Raises:
        ValueError: unless ``start >= smallest > 0``, and finite.
    """

    def __init__(self, params: Iterable[Tensor], start: float = 1.0, smallest: float = 0.02) -> None:
        if not math.inf > start >= smallest > 0:
            raise InvalidValueError(
                f"AdaptivePowerMethod(start={start}, smallest={smallest}) needs start >= smallest > 0, and finite."
            )
        super().__init__(params, {"start": start, "smallest": smallest})
        self.rows: Tensor | None = None
        self.settle: Callable[[slice, Tensor], Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take one step against the gradient of the loss.

        Args:
            closure: evaluates the loss anew and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for stimulus in group["params"]:
                if stimulus.grad is None:
                    continue
                state = self.state[stimulus]
                if not state:
                    state["step"] = torch.full((len(stimulus),), group["start"], device=stimulus.device)
                    state["previous"] = stimulus.clone()
                rows = torch.arange(len(stimulus), device=stimulus.device) if self.rows is None else self.rows
                kept = stimulus.grad, state["step"], state["previous"]
                move = partial(_move, group, stimulus, *kept, rows, self.settle)
                for_few_rows(move, len(rows), stimulus.device)
        return loss

    def begin_anew(self, rows: Tensor) -> None:
        """Let rows start with the first step again, from where they are.

        Args:
            rows: which rows, ``[rows]`` of bool.
        """
        for group in self.param_groups:
            for stimulus in group["params"]:
                if state := self.state.get(stimulus):
                    state["step"].masked_fill_(rows, group["start"])
                    state["previous"][rows] = stimulus.detach()[rows]


def check_optimizer(optimizer: object) -> None:
    """Refuse an optimizer that has been made, for other parameters.

    Raises:
        TypeError: that says what to give.
    """
    if not callable(optimizer):
        given = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
        raise InvalidTypeError(
            f"optimizer: {given} does not make an optimizer for the stimulus. Give what makes one, e.g. "
            "optimizer=functools.partial(torch.optim.SGD, lr=10.0)."
        )


def forgives_rounding(optimizer: Optimizer) -> bool:
    """Whether small errors of the gradient stay small.

    Optimizers that scale each pixel's gradient on its own, as Adam does, make rounding as large as the rest.
    """
    return isinstance(optimizer, AdaptivePowerMethod | torch.optim.SGD)


def _move(
    group: dict[str, Any],
    all_stimuli: Tensor,
    all_gradients: Tensor,
    all_steps: Tensor,
    all_previous: Tensor,
    all_rows: Tensor,
    settle: Callable[[slice, Tensor], Tensor] | None,
    part: slice,
) -> None:
    rows = all_rows[part]
    stimulus, gradient = all_stimuli.index_select(0, rows), all_gradients.index_select(0, rows)
    steepness, size = row_norms(gradient), row_norms(stimulus)
    size = torch.where(size > 0, size, 1)
    move = stimulus - all_previous.index_select(0, rows)
    step = _adapted(group, all_steps[rows], stimulus, gradient, move, size)
    all_steps[rows] = step
    put_rows(all_previous, rows, stimulus)
    factor = torch.where(steepness > 0, step * size / steepness, 0)
    stimulus.addcmul_(gradient, per_row(factor, stimulus), value=-1)
    put_rows(all_stimuli, rows, stimulus if settle is None else settle(part, stimulus))


def _adapted(
    group: dict[str, Any], step: Tensor, stimulus: Tensor, gradient: Tensor, move: Tensor, size: Tensor
) -> Tensor:
    distance = row_norms(move)
    uphill = -inner_products(gradient, move)
    outward = -inner_products(gradient, stimulus)
    rises = uphill > 0.5 * outward * (distance / size).square()
    factor = torch.where(rises, _GROWTH, _SHRINKAGE)
    # A row that begins has not moved, and a gradient that is not a number gives no advice.
    factor = torch.where((distance > 0) & uphill.isfinite(), factor, 1.0)
    return (step * factor).clamp(group["smallest"], max(_LARGEST_STEP, group["start"]))
