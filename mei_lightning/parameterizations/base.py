"""The seam between what is optimised and what is shown: parameters of each row, and the stimuli made from them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from mei_lightning.acceleration.row_arithmetic import per_row, row_norms
from mei_lightning.constraints import check_dimensions
from mei_lightning.models.base import StimulusFormat

_REACH = 0.1
"""How far along the gradient a constraint is probed, relative to the stimulus' norm."""


class Parameterization(nn.Module):
    """Makes stimuli ``[rows, channels, time, height, width]`` from parameters ``[rows, ...]``, each row on its own.

    Derive from it for one of your own: write ``forward`` and ``parameters_of``, and ``prepare`` for what depends on the
    stimulus' shape. Settings become part of the results' configuration as arguments of the constructor that are kept as
    attributes of the same names; if there are others, all belong in ``extra_repr``.

    Attributes:
        shape: ``[channels, time, height, width]`` of the stimuli, once it is made for them (``for_stimuli``).
        finds_parameters: whether ``parameters_of`` finds parameters of a given stimulus; if not, it only makes a
            beginning from it, and optimised stimuli cannot be shifted in time and optimised again.

    Example:
        >>> class Still(ml.Parameterization):  # the same picture in each frame
        ...     def forward(self, parameters):
        ...         return parameters[:, :, None].expand(-1, -1, self.shape[1], -1, -1)
        ...     def parameters_of(self, stimulus):
        ...         return stimulus.mean(dim=2)
        >>> still = Still().for_stimuli((1, 2, 40, 18, 16))
        >>> still(torch.zeros(1, 2, 18, 16)).shape
        torch.Size([1, 2, 40, 18, 16])
    """

    shape: torch.Size | None = None
    finds_parameters: bool = True

    def for_stimuli(self, stimulus_shape: Sequence[int], stimulus_format: StimulusFormat | None = None) -> Self:
        """The same parameterisation, made for stimuli of a shape.

        Args:
            stimulus_shape: ``[rows, channels, time, height, width]``.
            stimulus_format: the physical facts of the stimulus, if known.

        Raises:
            ValueError: if it does not fit such stimuli.
        """
        check_dimensions(stimulus_shape)
        made = deepcopy(self)
        made.shape = torch.Size(stimulus_shape[1:])
        made.prepare(made.shape, stimulus_format)
        return made

    def prepare(self, shape: torch.Size, stimulus_format: StimulusFormat | None) -> None:
        """Make what depends on the shape ``[channels, time, height, width]`` of the stimuli; raise if it cannot be."""

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Warn of an optimizer that does badly with such parameters."""

    def forward(self, parameters: Tensor) -> Tensor:
        """Stimuli ``[rows, channels, time, height, width]`` of parameters ``[rows, ...]``, differentiable."""
        raise NotImplementedError

    def parameters_of(self, stimulus: Tensor) -> Tensor:
        """The parameters ``[rows, ...]`` whose stimuli come nearest to given ones."""
        raise NotImplementedError


def feasible_stimulus(
    stimulus: Tensor, project: Callable[[Tensor], Tensor], note_share: Callable[[Tensor], None]
) -> Tensor:
    """Stimuli projected onto a constraint, with the projected gradient.

    With y = P(x), of a gradient g of y remains what the constraint leaves of it, ``(P(y + h g) - P(y)) / h``: the
    gradient mapping of projected gradient methods (Nesterov 2004, "Introductory lectures on convex optimization",
    2.2.3). On a sphere this is the tangential part; a value at its bound keeps what leads inwards. At an optimum
    nothing is left, and parameters stay where they are. With g itself they would not, since they weigh its parts
    differently.

    Args:
        stimulus: ``[rows, channels, time, height, width]``.
        project: the constraint P.
        note_share: is told, as the gradient is computed, which share of each row's is left, ``[rows]``: 0 at an
            optimum, 1 where there is no gradient.
    """
    projected: Tensor = _Feasible.apply(stimulus, project, note_share)
    return projected


class _Feasible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stimulus: Tensor, project: Callable[[Tensor], Tensor], note_share: Callable[[Tensor], None]
    ) -> Tensor:
        feasible = project(stimulus)
        ctx.project, ctx.note_share = project, note_share
        ctx.save_for_backward(feasible)
        return feasible

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (feasible,) = ctx.saved_tensors
        steepness, size = row_norms(gradient), row_norms(feasible)
        reach = per_row(torch.where(steepness > 0, _REACH * torch.where(size > 0, size, 1) / steepness, 1), gradient)
        # Filters change a stimulus that has passed them already, so that this is compared with what they do to it.
        left = (ctx.project(feasible) - ctx.project(feasible - reach * gradient)) / reach
        ctx.note_share(torch.where(steepness > 0, row_norms(left) / steepness, 1))
        return left, None, None
