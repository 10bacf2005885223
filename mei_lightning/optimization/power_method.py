"""The default ascent: normalised gradients, steps relative to the stimulus' norm, adapted to each row."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mei_lightning.acceleration.row_arithmetic import inner_products, per_row, row_norms
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.optimization.optimizers import RowOptimizer

_GROWTH = 1.3
_SHRINKAGE = 0.5
_LARGEST_STEP = 4.0

_STEPS_UNTIL_KNOWN = 6
"""After so many steps the last move tells whether the row is rugged."""
_MOVE_OF_SMOOTH = 0.4
"""Up to which it is not, as a share of ``a / (1 + a)`` times the norm: about the most that a step ``a`` can move."""
_COSINE_OF_STRAIGHT = 0.8
"""Between gradient and last move, from where on, along the move or against it, the row goes to and fro on a line."""
_SMALLEST = 0.02
_MOMENTUM = 0.9
"""Share of the last move that a rugged row keeps."""
_SHRINKAGE_OF_RUGGED = 0.9
_SMALLEST_OF_RUGGED = 0.25
"""Of a rugged row's least step, relative to that of others."""


class AdaptivePowerMethod(RowOptimizer):
    """Steps along each row's normalised gradient, in units of the row's own norm, as long as the row can take.

    With a projection P after each step, a row x of norm r with gradient g moves to ``P(x + a * r * g / |g|)``: the
    generalised power method for large a (Journée et al. 2010, Journal of Machine Learning Research 11:517-553),
    gradient ascent for small a. A row's own step a grows by 1.3 while the response still rises where a step has led,
    and is halved where it falls again: smooth neurons settle in a few large steps, rugged ones are climbed in small
    ones. There is no learning rate to tune, since neither the scale of the responses nor that of the stimulus matters.

    Whether the response rises is told by the gradient along the last move d, less what leaving the sphere of radius r
    would gain: ``<g, d> - |d|^2 / 2 * <g, x> / r^2``.

    After six steps a row of a smooth neuron hardly moves. One whose last move is longer than 0.4 times
    ``r a / (1 + a)``, about the most that a step a can move a row, is rugged, unless the gradient is along that move or
    against it (a cosine beyond 0.8), as where a target is passed. It goes on with momentum (Polyak 1964, USSR
    Computational Mathematics and Mathematical Physics 4:1-17): it moves by a tenth of such a step and by 0.9 of its
    last move, and its step, from ``start`` again, only shrinks, by 0.9 where the response falls, down to a quarter of
    ``smallest``. So it passes over small local maxima. Where ``smallest`` is below 0.02 no row does, since steps are to
    be exact then.

    Args:
        params: stimuli ``[rows, ...]``; each row steps on its own.
        start: the first step, relative to the norm of the row.
        smallest: the least step, relative to the norm of the row.

    Raises:
        ValueError: unless ``start >= smallest > 0``, and finite.

    Example:
        >>> stimulus = torch.tensor([[3.0, 4.0]], requires_grad=True)  # a row of norm 5
        >>> optimizer = ml.AdaptivePowerMethod([stimulus], start=2.0)
        >>> loss = -0.1 * stimulus[:, 0].sum()  # the response rises with the first value
        >>> loss.backward()
        >>> optimizer.step()
        >>> stimulus.tolist()  # a step of twice the norm along the first axis, however small the gradient is
        [[13.0, 4.0]]
    """

    forgives_rounding = True
    inherited = ("age",)

    def __init__(self, params: Iterable[Tensor], start: float = 1.0, smallest: float = _SMALLEST) -> None:
        if not math.inf > start >= smallest > 0:
            raise InvalidValueError(
                f"AdaptivePowerMethod(start={start}, smallest={smallest}) needs start >= smallest > 0, and finite."
            )
        super().__init__(params, {"start": start, "smallest": smallest})

    def initial_state(self, group: dict[str, Any], stimulus: Tensor) -> dict[str, Tensor]:
        """The step of each row, where it was before, and how many steps it has taken, or -1 for a rugged row."""
        # Floating-point, all of them: torch makes them so when it restores a checkpoint.
        age = torch.zeros(len(stimulus), device=stimulus.device)
        return {"step": torch.full_like(age, float(group["start"])), "previous": stimulus.clone(), "age": age}

    def moved(self, group: dict[str, Any], stimulus: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Rows a step along their normalised gradients, rugged ones with momentum."""
        steepness, size = row_norms(gradient), row_norms(stimulus)
        size = torch.where(size > 0, size, 1)
        move, rugged = stimulus - state["previous"], state["age"] < 0
        distance = row_norms(move) / size
        uphill, outward = -inner_products(gradient, move), -inner_products(gradient, stimulus)
        rises = uphill > 0.5 * outward * distance.square()
        # A row that begins has not moved, and a gradient that is not a number gives no advice.
        advice = (distance > 0) & uphill.isfinite()
        step = _adapted(group, state["step"], rugged, rises, advice)
        moves_on = distance > _MOVE_OF_SMOOTH * state["step"] / (1 + state["step"])
        sideways = uphill.abs() < _COSINE_OF_STRAIGHT * steepness * distance * size
        known = state["age"] == (_STEPS_UNTIL_KNOWN if group["smallest"] >= _SMALLEST else math.inf)
        turns = moves_on & sideways & known
        # A smaller step is one of smaller moves, the last one's rest included.
        kept = torch.where(rugged, _MOMENTUM * step / state["step"], 0)
        step = torch.where(turns, float(group["start"]), step)
        rugged = rugged | turns
        share = torch.where(rugged, 1 - _MOMENTUM, 1.0)
        factor = torch.where(steepness > 0, share * step * size / steepness, 0)
        state.update(step=step, previous=stimulus, age=torch.where(rugged, -1, state["age"] + 1))
        after = torch.addcmul(stimulus, gradient, per_row(factor, stimulus), value=-1).to(stimulus.dtype)
        if kept.device.type == "cpu" and not kept.any():
            return after
        return torch.addcmul(after, move, per_row(kept, move).to(move.dtype))


def _adapted(group: dict[str, Any], step: Tensor, rugged: Tensor, rises: Tensor, advice: Tensor) -> Tensor:
    up, down = torch.where(rugged, 1.0, _GROWTH), torch.where(rugged, _SHRINKAGE_OF_RUGGED, _SHRINKAGE)
    step = torch.where(advice, step * torch.where(rises, up, down), step)
    smallest = torch.where(rugged, _SMALLEST_OF_RUGGED * group["smallest"], group["smallest"])
    return step.clamp(max=max(_LARGEST_STEP, group["start"])).maximum(smallest)
