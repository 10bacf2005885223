"""Costs of stimuli that are hard to show or hard to read: out of range, noisy in time or in space.

A regularizer maps stimuli ``[rows, channels, time, height, width]`` to costs ``[rows]``; an optimisation subtracts them
from the objective. Costs add and scale: ``TemporalSmoothness() + 2.0 * SpatialTotalVariation()``.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mei_lightning.arguments import check_instance, in_short, is_number
from mei_lightning.constraints import (
    ChannelRanges,
    check_channel_count,
    check_dimensions,
    range_bounds,
    what_it_holds,
)
from mei_lightning.exceptions import InvalidValueError


def total_variation(stimulus: Tensor, dim: int) -> Tensor:
    """Sum of absolute differences between neighbours along one dimension: ``[rows, ...]`` to ``[rows]``."""
    return stimulus.diff(dim=dim).abs().flatten(1).sum(1)


def squared_differences(stimulus: Tensor, dim: int) -> Tensor:
    """Sum of squared differences between neighbours along one dimension: ``[rows, ...]`` to ``[rows]``."""
    return stimulus.diff(dim=dim).square().flatten(1).sum(1)


class Regularizer(nn.Module):
    """A cost ``[rows]`` of stimuli ``[rows, channels, time, height, width]``, each row on its own.

    Derive from it for a cost of your own, and multiply by ``self.factor`` what ``forward`` returns. Costs add and
    scale: ``TemporalSmoothness() + 2.0 * SpatialTotalVariation()``. An optimisation subtracts them from the score.

    Args:
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if the factor is not finite.

    Example:
        >>> class Energy(ml.Regularizer):
        ...     def forward(self, stimulus):
        ...         return self.factor * stimulus.square().flatten(1).sum(dim=1)
        >>> stimuli = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).reshape(2, 1, 1, 1, 2)
        >>> Energy(factor=0.1)(stimuli)
        tensor([2.5000, 0.1000])
        >>> (Energy() + 2.0 * ml.SpatialTotalVariation())(stimuli)
        tensor([27., 3.])
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        if not is_number(factor):
            raise InvalidValueError(f"{type(self).__name__}(factor={in_short(factor)}) must be a finite number.")
        self.factor = factor

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        raise NotImplementedError

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape have no such cost."""
        check_dimensions(stimulus_shape)

    def __add__(self, other: "Regularizer") -> "SumOfRegularizers":
        return SumOfRegularizers([self, other]) if isinstance(other, Regularizer) else NotImplemented

    def __mul__(self, factor: float) -> "SumOfRegularizers":
        return SumOfRegularizers([self], factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"factor={self.factor:g}"


class SumOfRegularizers(Regularizer):
    """``factor * (sum of the costs)``."""

    def __init__(self, regularizers: Iterable[Regularizer], factor: float = 1.0) -> None:
        super().__init__(factor)
        self.regularizers = nn.ModuleList(regularizers)
        if not self.regularizers:
            raise InvalidValueError("SumOfRegularizers([]) has no regularizers.")

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        first, *others = (regularizer(stimulus) for regularizer in self.regularizers)
        return self.factor * sum(others, start=first)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape have no such cost."""
        for regularizer in cast(Iterable[Regularizer], self.regularizers):
            regularizer.check(stimulus_shape)


class RegularizationLoss(Regularizer):
    """A ``StimulusRegularizationLoss`` of openretina's as a regularizer: the cost of each row is that of it alone.

    Args:
        loss: what has a method ``forward``, from a stimulus to a number.

    Attributes:
        loss: what it is made with, for the configuration of results.
    """

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self._loss = loss
        self.loss = what_it_holds(loss)

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        costs = [torch.as_tensor(self._loss.forward(row)).to(stimulus).reshape(()) for row in stimulus.split(1)]
        return torch.stack(costs) if costs else stimulus.new_zeros(0)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape have no such cost."""
        check_dimensions(stimulus_shape)
        shape = (1, *stimulus_shape[1:])
        try:
            self(torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu"))
        except Exception as error:
            raise InvalidValueError(
                f"regularizer: {type(self._loss).__name__}.forward gives no number for a stimulus of shape {shape}: "
                f"{type(error).__name__}: {error}"
            ) from error


def as_regularizer(regularizer: object) -> Regularizer:
    """A regularizer; of a loss of openretina's the one that applies it to each row, of a list the sum.

    Raises:
        TypeError: if it is neither.
        ValueError: if the list is empty.
    """
    if isinstance(regularizer, list | tuple):
        return SumOfRegularizers([as_regularizer(part) for part in regularizer])
    has_forward = callable(getattr(regularizer, "forward", None)) and not isinstance(regularizer, type)
    if has_forward and not isinstance(regularizer, nn.Module):
        return RegularizationLoss(regularizer)
    check_instance("regularizer", regularizer, Regularizer, "TemporalSmoothness()")
    assert isinstance(regularizer, Regularizer)
    return regularizer


class RangePenalty(Regularizer):
    """How far values exceed the range of their channel: ``factor * sum(max(0, x - high) + max(0, low - x))``.

    A stimulus that a constraint keeps within the same ranges costs nothing; use one or the other.

    Args:
        ranges: one ``(low, high)`` for each channel, in the model's units; None, for a number or a pair, means
            unbounded.
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if a range is not a pair or its low exceeds its high, or the factor is not finite; in ``forward``,
            if there are not as many ranges as channels.

    Example:
        >>> penalty = ml.RangePenalty([(-1.0, 1.0)])
        >>> penalty(torch.tensor([3.0, 0.0, -2.0]).reshape(1, 1, 1, 1, 3))  # 2 above, and 1 below
        tensor([3.])
    """

    low: Tensor
    high: Tensor

    def __init__(self, ranges: ChannelRanges, factor: float = 1.0) -> None:
        super().__init__(factor)
        low, high = range_bounds(ranges)
        self.ranges = tuple(ranges)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        check_channel_count(self.ranges, stimulus.shape)
        values = stimulus.flatten(2)
        excess = F.relu(values - self.high[:, None]) + F.relu(self.low[:, None] - values)
        return self.factor * excess.flatten(1).sum(1)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError unless there is one range for each channel."""
        check_channel_count(self.ranges, stimulus_shape)

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"ranges={self.ranges}, {super().extra_repr()}"


class TemporalTotalVariation(Regularizer):
    """Total variation in time: ``factor * sum |x[t + 1] - x[t]|`` over all pixels and channels; 0 for a still image.

    A change costs by its size, be it sudden or gradual, so that sudden ones may stay (Rudin, Osher and Fatemi 1992,
    Physica D 60, "Nonlinear total variation based noise removal algorithms").

    Args:
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if the factor is not finite.

    Example:
        >>> cost = ml.TemporalTotalVariation(factor=0.5)
        >>> cost(torch.tensor([0.0, 2.0, 3.0, -1.0]).reshape(1, 1, 4, 1, 1))  # half of 2 + 1 + 4
        tensor([3.5000])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        return self.factor * total_variation(stimulus, dim=2)


class SpatialTotalVariation(Regularizer):
    """Total variation in space, over neighbours along height (i) and along width (j).

    ``factor * (sum |x[i + 1, j] - x[i, j]| + sum |x[i, j + 1] - x[i, j]|)`` over all frames and channels: the
    anisotropic form of the total variation of Rudin, Osher and Fatemi 1992 (Physica D 60, "Nonlinear total variation
    based noise removal algorithms"). It leaves edges sharp, where ``SpatialSmoothness`` blurs them.

    Args:
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if the factor is not finite.

    Example:
        >>> picture = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 1, 2, 2)
        >>> ml.SpatialTotalVariation()(picture)  # 2 + 2 along height, 1 + 1 along width
        tensor([6.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        return self.factor * (total_variation(stimulus, dim=3) + total_variation(stimulus, dim=4))


class TemporalSmoothness(Regularizer):
    """Lack of smoothness in time, ``factor * sum (x[t + 1] - x[t])^2`` over all pixels and channels.

    It is 0 for a still image. Sudden changes cost more than gradual ones of the same size.

    Args:
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if the factor is not finite.

    Example:
        >>> cost = ml.TemporalSmoothness()
        >>> cost(torch.tensor([0.0, 2.0, 3.0, -1.0]).reshape(1, 1, 4, 1, 1))  # 4 + 1 + 16
        tensor([21.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        return self.factor * squared_differences(stimulus, dim=2)


class SpatialSmoothness(Regularizer):
    """Lack of smoothness in space, over neighbours along height (i) and along width (j).

    ``factor * (sum (x[i + 1, j] - x[i, j])^2 + sum (x[i, j + 1] - x[i, j])^2)`` over all frames and channels.

    Args:
        factor: what the cost is multiplied by.

    Raises:
        ValueError: if the factor is not finite.

    Example:
        >>> picture = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 1, 2, 2)
        >>> ml.SpatialSmoothness()(picture)  # 4 + 4 along height, 1 + 1 along width
        tensor([10.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost ``[rows]``."""
        return self.factor * (squared_differences(stimulus, dim=3) + squared_differences(stimulus, dim=4))
