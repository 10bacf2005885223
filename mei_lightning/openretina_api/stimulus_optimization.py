"""openretina's names for optimising a stimulus, with its arguments, on Lightning's trainer."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from mei_lightning.constraints import (
    ChannelRanges,
    Constraint,
    NormAndRange,
    TemporalLowPass,
    last_channel_ranges,
    processed,
)
from mei_lightning.devices import in_usual_modes
from mei_lightning.objectives import Objective
from mei_lightning.optimization.stimulus_module import StimulusModule
from mei_lightning.optimization.trainer import quiet_trainer
from mei_lightning.regularizers import RangePenalty, RegularizationLoss, Regularizer

T = TypeVar("T")


class OptimizationStopper:
    """Stops ``optimize_stimulus`` after a number of iterations.

    Args:
        max_iterations: the number; None for no limit.

    Example:
        >>> stimulus = torch.zeros(1, 1, 3, 2, 2)
        >>> def steps(parameters):
        ...     return torch.optim.SGD(parameters, lr=0.5)
        >>> def score(stimulus):
        ...     return stimulus.flatten(1).sum(dim=1)
        >>> ml.optimize_stimulus(stimulus, steps, score, ml.OptimizationStopper(max_iterations=10))
        >>> stimulus.unique()  # ten steps of 0.5
        tensor([5.])
    """

    def __init__(self, max_iterations: int | None) -> None:
        self.max_iterations = sys.maxsize if max_iterations is None else max_iterations

    def early_stop(self, loss: float) -> bool:
        """Whether to stop after an iteration with this loss."""
        return False


class EarlyStopper(OptimizationStopper):
    """Stops once the loss has not fallen by more than ``min_delta`` for ``patience`` iterations in a row.

    The loss is minus the score plus the costs, the sum over all rows. openretina's stops only once the loss rises.

    Args:
        max_iterations: stop after so many iterations in any case; None for no limit.
        patience: iterations without progress.
        min_delta: the least fall of the loss that counts as progress.

    Example:
        >>> stopper = ml.EarlyStopper(max_iterations=100, patience=2)
        >>> [stopper.early_stop(loss) for loss in [5.0, 4.0, 4.0, 4.5]]
        [False, False, False, True]
    """

    def __init__(self, max_iterations: int | None = None, patience: int = 1, min_delta: float = 0.0) -> None:
        super().__init__(max_iterations)
        self.patience = patience
        self.min_delta = min_delta
        self.lowest = float("inf")
        self.iterations_without_progress = 0

    def early_stop(self, loss: float) -> bool:
        """Whether to stop after an iteration with this loss."""
        if loss < self.lowest - self.min_delta:
            self.lowest = loss
            self.iterations_without_progress = 0
        else:
            self.iterations_without_progress += 1
        return self.iterations_without_progress >= self.patience


class ChangeNormJointlyClipRangeSeparately(NormAndRange):
    """Norm and range of each channel, both holding together (openretina's leaves the norm too small).

    Args:
        min_max_values: one ``(low, high)`` for each channel, in the model's units; None for unbounded.
        norm: L2 norm of each stimulus, in the model's units; None for none.

    Raises:
        ValueError, TypeError: as for ``NormAndRange``.

    Example:
        >>> postprocessor = ml.ChangeNormJointlyClipRangeSeparately(min_max_values=[(-4.0, 4.0)], norm=5.0)
        >>> stimulus = torch.tensor([1.0, 10.0]).reshape(1, 1, 1, 1, 2)
        >>> postprocessor.process(stimulus).flatten().round(decimals=3)
        tensor([3., 4.])
    """

    def __init__(self, min_max_values: Iterable[tuple[float | None, float | None]], norm: float | None) -> None:
        ranges = tuple(min_max_values)
        super().__init__(norm, ranges)
        self.min_max_values = ranges


class TemporalGaussianLowPassFilterProcessor(TemporalLowPass):
    """Gaussian smoothing over time, as by ``TemporalLowPass`` (openretina's darkens the first and last frames).

    Args:
        sigma: standard deviation in frames.
        kernel_size: accepted for openretina's callers; the kernel is always as long as its Gaussian.
        device: accepted for openretina's callers; the filter runs where the stimulus is.

    Raises:
        ValueError: if sigma is not positive and finite.

    Example:
        >>> postprocessor = ml.TemporalGaussianLowPassFilterProcessor(sigma=1.0, kernel_size=9)
        >>> steady = torch.ones(1, 2, 40, 18, 16)
        >>> postprocessor.process(steady).min().round(decimals=3)  # first and last frame are not darker
        tensor(1.)
    """

    def __init__(self, sigma: float, kernel_size: int, device: str = "cpu") -> None:
        super().__init__(sigma)


class StimulusPostprocessor:
    """What is done to a stimulus after each step; derive from it and write ``process`` for one of your own."""

    def process(self, x: Tensor) -> Tensor:
        """The stimulus ``[rows, channels, time, height, width]`` as it shall be; here as it is."""
        return x


class StimulusRegularizationLoss:
    """A cost that is subtracted from the objective; derive from it and write ``forward`` for one of your own."""

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost of a stimulus ``[rows, channels, time, height, width]``, a number; here nothing."""
        return stimulus.new_zeros(())


class RangeRegularizationLoss(Regularizer):
    """The sum of the values' distances from the range of their channel, and of the norm's from its maximum.

    Called, it gives the cost of each row, as all regularizers of this package do; its ``forward`` gives one number, as
    openretina's function needs it.

    Args:
        min_max_values: one ``(low, high)`` for each channel, in the model's units; None for unbounded.
        max_norm: the L2 norm beyond which a stimulus costs, in the model's units; None for none.
        factor: what the cost is multiplied by.

    Raises:
        ValueError: as for ``RangePenalty``.

    Example:
        >>> loss = ml.RangeRegularizationLoss(min_max_values=[(-2.0, 2.0)], max_norm=3.0)
        >>> stimulus = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 1, 2)
        >>> loss.forward(stimulus)  # 1 and 2 beyond the range, 5 - 3 beyond the norm
        tensor(5.)
    """

    def __init__(
        self,
        min_max_values: Iterable[tuple[float | None, float | None]],
        max_norm: float | None,
        factor: float = 1.0,
    ) -> None:
        super().__init__(factor)
        self.min_max_values = tuple(min_max_values)
        self.range_penalty = RangePenalty(self.min_max_values)
        self.max_norm = max_norm

    def __call__(self, stimulus: Tensor) -> Tensor:
        """The cost of each row, ``[rows]``."""
        cost = self.range_penalty(stimulus)
        if self.max_norm is not None:
            cost = cost + (stimulus.flatten(1).norm(dim=1) - self.max_norm).relu()
        return self.factor * cost

    def forward(self, stimulus: Tensor) -> Tensor:
        """The cost of all rows together, a number."""
        return self(stimulus).sum()

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if the number of ranges is not that of the channels."""
        self.range_penalty.check(stimulus_shape)


class _Forward(Protocol):
    def forward(self, stimulus: Tensor, /) -> Tensor: ...


class _Process(Protocol):
    def process(self, x: Tensor, /) -> Tensor: ...


@in_usual_modes
def optimize_stimulus(
    stimulus: Tensor,
    optimizer_init_fn: Callable[[list[Tensor]], Optimizer],
    objective_object: Objective | _Forward | Callable[[Tensor], Tensor],
    optimization_stopper: OptimizationStopper,
    stimulus_regularization_loss: list[Regularizer | _Forward] | Regularizer | _Forward | None = None,
    stimulus_postprocessor: list[Constraint | _Process] | Constraint | _Process | None = None,
) -> None:
    """Optimise a stimulus in place, as openretina's function of this name does.

    Takes the objectives, regularisers and postprocessors of this package and of openretina. As there, the stimulus
    becomes the last iterate, without a gradient (``detach_``); another call goes on from there. ``find_meis`` returns
    the best iterate and its score.

    Args:
        stimulus: ``[rows, channels, time, height, width]``; each row is a problem of its own.
        optimizer_init_fn: makes the torch optimizer for ``[stimulus]``.
        objective_object: what to maximise: an objective of this package or of openretina, or a function from stimuli
            to scores ``[rows]``.
        optimization_stopper: when to stop.
        stimulus_regularization_loss: costs to subtract, one or a list.
        stimulus_postprocessor: applied after each step; of a list, one after the other.

    Raises:
        ValueError: if something does not fit the stimulus; it is unchanged then.
        TypeError: if the objective is not one.

    Example:
        >>> from functools import partial
        >>> model = ml.load_model("simulated")
        >>> objective = ml.IncreaseObjective(model, [0], "session_1", ml.MeanReducer())
        >>> stimulus = torch.zeros(model.stimulus_shape(time_steps=30), requires_grad=True)
        >>> before = objective(stimulus).item()
        >>> steps = partial(torch.optim.SGD, lr=10.0)
        >>> ml.optimize_stimulus(stimulus, steps, objective, ml.OptimizationStopper(max_iterations=5))
        >>> objective(stimulus).item() > 2 * before
        True
    """
    module = StimulusModule(
        objective_object,  # type: ignore[arg-type]
        stimulus,
        constraint=_as_constraint(stimulus_postprocessor),
        regularizer=_as_regularizer(stimulus_regularization_loss),
        optimizer=lambda parameters: optimizer_init_fn(list(parameters)),
    )
    with torch.no_grad():
        # openretina projects after the first step, not before it.
        module.stimulus.copy_(stimulus)
    on_cpu = stimulus.device.type == "cpu"
    # openretina's function prints nothing, and users call it in loops.
    with quiet_trainer(
        stimulus.device.type,
        devices=1 if on_cpu else [stimulus.device.index or 0],
        max_steps=optimization_stopper.max_iterations,
        callbacks=[_StopWithStopper(optimization_stopper)],
    ) as trainer:
        trainer.fit(module)
    with torch.no_grad():
        stimulus.copy_(module.stimulus)
    # detach_ would do for both, but a view refuses it.
    if stimulus.is_leaf:
        stimulus.requires_grad_(False)
    else:
        stimulus.detach_()


class _StopWithStopper(Callback):
    def __init__(self, stopper: OptimizationStopper) -> None:
        self.stopper = stopper

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.stopper.early_stop(float(outputs["loss"])):
            trainer.should_stop = True


class _Postprocessors(Constraint):
    def __init__(self, postprocessors: Sequence[Constraint | _Process]) -> None:
        super().__init__()
        self.postprocessors = list(postprocessors)

    def forward(self, stimulus: Tensor) -> Tensor:
        for postprocessor in self.postprocessors:
            if isinstance(postprocessor, Constraint):
                stimulus = postprocessor.to(stimulus.device)(stimulus)
            else:
                stimulus = processed(postprocessor.process, stimulus)
        return stimulus

    def channel_ranges(self) -> ChannelRanges | None:
        return last_channel_ranges(self.postprocessors)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        for postprocessor in self.postprocessors:
            if isinstance(postprocessor, Constraint):
                postprocessor.check(stimulus_shape)


class _RegularizationLosses(Regularizer):
    def __init__(self, losses: Sequence[Regularizer | _Forward]) -> None:
        super().__init__()
        self.losses = list(losses)

    def forward(self, stimulus: Tensor) -> Tensor:
        costs = [
            loss.to(stimulus.device)(stimulus) if isinstance(loss, Regularizer) else RegularizationLoss(loss)(stimulus)
            for loss in self.losses
        ]
        return torch.stack([cost.to(stimulus) for cost in costs]).sum(dim=0)


def _as_constraint(postprocessors: Any) -> Constraint | None:
    return _Postprocessors(_as_list(postprocessors)) if _as_list(postprocessors) else None


def _as_regularizer(losses: Any) -> Regularizer | None:
    return _RegularizationLosses(_as_list(losses)) if _as_list(losses) else None


def _as_list(value: list[T] | T | None) -> list[T]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]
