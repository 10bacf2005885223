"""The default ascent: normalised gradients, steps relative to the stimulus' norm, annealed."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mei_lightning.rounding import summing_precision


class AnnealedPowerMethod(Optimizer):
    """Steps along each row's normalised gradient, in units of the row's own norm, from large to small.

    With a projection P after each step, a row x of norm r with gradient g moves to ``P(x + a * r * g / |g|)``: the
    generalised power method for large a (Journée et al. 2010, Journal of Machine Learning Research 11:517-553),
    gradient ascent for small a. The step a falls exponentially from ``start`` to ``end``: large steps settle smooth
    neurons in a few steps, small ones climb where the response is rugged. There is no learning rate to tune, since
    neither the scale of the responses nor that of the stimulus matters.

    Args:
        params: stimuli ``[rows, ...]``; each row steps on its own.
        start: the first step, relative to the norm of the row.
        end: the last step, relative to the norm of the row.
        steps: the number of steps from ``start`` to ``end``; further ones keep to ``end``.

    Raises:
        ValueError: unless ``start >= end > 0``, finite, and ``steps >= 1``.
    """

    def __init__(self, params: Iterable[Tensor], start: float = 1.0, end: float = 0.02, steps: int = 60) -> None:
        if not math.inf > start >= end > 0 or steps < 1:
            raise ValueError(
                f"AnnealedPowerMethod(start={start}, end={end}, steps={steps}) needs start >= end > 0, finite, and "
                "steps >= 1."
            )
        super().__init__(params, {"start": start, "end": end, "steps": steps})

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
                    state["age"] = torch.zeros(len(stimulus), device=stimulus.device)
                progress = (state["age"] / max(group["steps"] - 1, 1)).clamp(max=1)
                step = group["start"] * (group["end"] / group["start"]) ** progress
                size = row_norms(stimulus)
                size = torch.where(size > 0, size, 1)
                steepness = row_norms(stimulus.grad)
                factor = torch.where(steepness > 0, step * size / steepness, 0)
                stimulus.sub_(stimulus.grad * per_row(factor, stimulus))
                state["age"] += 1
        return loss

    def begin_anew(self, rows: Tensor) -> None:
        """Let rows start with the first step again.

        Args:
            rows: which rows, ``[rows]`` of bool.
        """
        for state in self.state.values():
            state["age"].masked_fill_(rows, 0)


def row_norms(stimulus: Tensor) -> Tensor:
    """L2 norms ``[rows]`` of stimuli ``[rows, ...]``."""
    precision = summing_precision(stimulus)
    return torch.linalg.vector_norm(stimulus.flatten(1), dim=1, dtype=precision).to(stimulus.dtype)


def per_row(values: Tensor, stimulus: Tensor) -> Tensor:
    """Values ``[rows]`` shaped so that they broadcast over stimuli ``[rows, ...]``."""
    return values.view(-1, *[1] * (stimulus.ndim - 1))
