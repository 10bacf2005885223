"""The LightningModule: a stimulus as the sole trainable parameter, optimised on a frozen model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim import Optimizer

from mei_lightning.acceleration.row_arithmetic import put_rows, row_norms
from mei_lightning.arguments import check_instance
from mei_lightning.callbacks.frozen_model import FrozenModel
from mei_lightning.callbacks.usual_modes import UsualModes
from mei_lightning.constraints import Constraint, as_constraint
from mei_lightning.devices import check_device, in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.precision import as_used
from mei_lightning.objectives import NeuronObjective, Objective, as_objective
from mei_lightning.optimization.gradient_filters import GradientFilter
from mei_lightning.optimization.optimizers import (
    OptimizerFactory,
    RowOptimizer,
    check_optimizer,
    check_rows_are_independent,
    with_state_of_rows,
)
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.optimization.refusals import (
    check_clipping,
    check_numbers,
    check_precision,
    check_rows,
    refuse_without_gradient,
)
from mei_lightning.optimization.row_module import RowModule
from mei_lightning.optimization.row_state import Status, warn_of_failures
from mei_lightning.optimization.step import Step
from mei_lightning.optimization.stimulus_space import StimulusSpace
from mei_lightning.optimization.trainer_options import check_trainer
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness, check_robustness
from mei_lightning.perturbations.evaluation import perturbed_scores
from mei_lightning.regularizers import Regularizer, as_regularizer

_FLAT_STEPS = 4
"""So many steps in a row without a gradient tell that there is none, where one alone may be due to its perturbation."""


class StimulusModule(RowModule):
    """Optimises each row of a stimulus for an objective; the rows do not know of each other.

    Fit it with any Lightning ``Trainer(max_steps=..., max_epochs=-1)``: an epoch is ``check_interval`` steps, after
    which callbacks see the stimuli and rows that are done leave the computation. The objective's model is frozen
    while the trainer runs, comes out as it went in, and is not part of checkpoints.

    Args:
        objective: an ``Objective``, or a function from stimuli ``[rows, ...]`` to scores ``[rows]``.
        initial_stimulus: ``[rows, channels, time, height, width]``; projected onto the constraint before the first
            step.
        constraint: where stimuli may live; applied after each step, so that all that is logged, saved or returned
            is feasible.
        regularizer: a cost ``[rows]`` that is subtracted from the score.
        optimizer: makes a torch optimizer for ``[stimulus]``; the adaptive power method by default.
        gradient_filter: changes gradients with respect to stimuli before the optimizer sees them.
        parameterization: what stimuli are made from; by default they are pixels.
        robustness: what stimuli have to withstand, in this order: the gradient of a step is that of the perturbed
            stimulus; scores, the best iterate and convergence are those of the stimulus itself.
        seeds: of each row's perturbations, ``[rows]``; by default the number of the row.
        max_steps: the most steps that a row takes; by default as many as the trainer takes.
        check_interval: steps between two checks for rows that are done (an epoch).

    Attributes:
        stimulus: the sole parameter: the stimuli ``[rows, channels, time, height, width]``, or what the
            parameterisation makes them from, ``[rows, ...]``.
        rows: how they stand, a ``RowState``; ``best_stimulus``, ``best_score``, ``status`` and ``steps`` are its.
        space: where stimuli may live, and what they are made from.

    Raises:
        ValueError: if the stimulus cannot meet the constraint, ``max_steps`` or ``check_interval`` is not positive, or
            there is not one seed for each row.
        TypeError: if the objective is not one, or not one that has members for ``RandomMember``; if another argument
            is of a wrong type.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> def corner(stimuli):  # scores [rows] of stimuli [rows, channels, time, height, width]
        ...     return stimuli[:, 0, 0, 0, 0]
        >>> module = ml.StimulusModule(corner, torch.randn(2, 1, 1, 3, 3), constraint=ml.FixedNorm(5.0))
        >>> Trainer(max_steps=20, max_epochs=-1, logger=False, enable_progress_bar=False).fit(module)
        >>> module.best_score  # all of the norm is in the corner
        tensor([5., 5.])
    """

    @in_usual_modes
    def __init__(
        self,
        objective: Objective | Callable[[Tensor], Tensor],
        initial_stimulus: Tensor,
        *,
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
        optimizer: OptimizerFactory = AdaptivePowerMethod,
        gradient_filter: GradientFilter | None = None,
        parameterization: Parameterization | None = None,
        robustness: Sequence[Robustness] = (),
        seeds: Sequence[int] | None = None,
        max_steps: int | None = None,
        check_interval: int = 10,
    ) -> None:
        check_numbers(initial_stimulus, seeds, max_steps, check_interval)
        check_robustness(robustness)
        check_optimizer(optimizer)
        if gradient_filter is not None:
            check_instance("gradient_filter", gradient_filter, GradientFilter, "GradientBlur(space=1.0)")
        if parameterization is not None:
            check_instance("parameterization", parameterization, Parameterization, "LowRank(rank=1)")
        constraint = None if constraint is None else as_constraint(constraint)
        regularizer = None if regularizer is None else as_regularizer(regularizer)
        space = StimulusSpace(constraint, _made_for(parameterization, initial_stimulus.shape))
        super().__init__(as_objective(objective), space, robustness, seeds, check_interval)
        self.regularizer = regularizer
        self.optimizer_factory = optimizer
        self.gradient_filter = gradient_filter
        self.max_steps = max_steps
        for part in self.robustness:
            part.check(self.objective, initial_stimulus.shape)
        if regularizer is not None:
            regularizer.check(initial_stimulus.shape)
        self.space.check(initial_stimulus)
        self._make_rows(*self.space.initial_parameters(initial_stimulus.detach().clone()))
        self._whole_and_members: tuple[NeuronObjective, ...] = ()
        self._select_active_rows()
        self._step = self._next_step()

    # Optimizer and trainer

    def configure_optimizers(self) -> Optimizer:
        """The optimizer of the stimulus.

        Raises:
            ValueError: if the optimizer would make rows depend on each other.
        """
        optimizer = self.optimizer_factory([self.stimulus])
        if not any(parameter is self.stimulus for group in optimizer.param_groups for parameter in group["params"]):
            raise InvalidValueError(
                "The optimizer does not hold the stimulus: make it for the parameters that it is given."
            )
        if len(self.rows) > 1:
            check_rows_are_independent(self.optimizer_factory, type(optimizer).__name__, len(self.rows))
        if self.parameterization is not None:
            self.parameterization.check_optimizer(optimizer)
        return with_state_of_rows(self.optimizer_factory, self.stimulus) if len(self.rows) > 1 else optimizer

    def configure_callbacks(self) -> list[Callback]:
        """Freeze the objective's model for the time of the fit, and leave modes such as inference and autocast.

        Raises:
            ValueError: if the trainer has an option, or a callback, that a search cannot have.
        """
        check_trainer(self.trainer, self.optimizer_factory)
        return [UsualModes(), FrozenModel(self.objective)]

    def setup(self, stage: str) -> None:
        """Refuse a precision of the trainer's in which the model cannot compute.

        Raises:
            ValueError: if it is not that of 32 bits, which leaves everything in the model's own precision.
        """
        check_precision(self.trainer.precision)
        check_device(self.trainer.strategy.root_device, self.stimulus.dtype)

    # Steps

    def evaluate(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[rows]`` and values ``[rows]`` (score minus cost) of stimuli of the rows in computation.

        Raises:
            ValueError: if the objective or the regularizer does not return a number for each row.
        """
        return self._evaluate(stimulus, self._computed.objective)

    def _evaluate(self, stimulus: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        scores = objective(stimulus)
        check_rows("objective", self.objective, scores, stimulus)
        scores = as_used(scores, stimulus)
        if self.regularizer is None:
            return scores, scores
        costs = self.regularizer(stimulus)
        check_rows("regularizer", self.regularizer, costs, stimulus)
        return scores, scores - as_used(costs, stimulus)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Minus the sum of the rows' values; remembers each row's best iterate."""
        step, parameters = self._step, self._parameters_in_computation().requires_grad_()
        step.evaluated, step.projected_fraction = parameters, None
        if not len(parameters):
            step.before = parameters.detach()
            # A device without rows has to keep step with the others.
            return parameters.sum()
        stimulus = self.space.stimuli(parameters, step.note_projected_fraction)
        if self.gradient_filter is not None:
            stimulus.register_hook(self.gradient_filter)
        scores, values = self.evaluate(stimulus.detach() if self.robustness else stimulus)
        if step.before is None:
            step.before = parameters.detach()
            kept = self.rows.keep_best(self._computed.index, stimulus.detach(), scores.detach(), values.detach())
            # The gradient of a perturbed stimulus tells nothing of the stimulus itself.
            step.at_best = None if self.robustness else kept
        return -(self._perturbed_values(stimulus) if self.robustness else values).sum()

    def _perturbed_values(self, stimulus: Tensor) -> Tensor:
        """Values ``[rows]`` of what becomes of stimuli at this step; a stimulus costs what it costs itself."""
        rows = self._computed
        assert rows.seeds is not None
        assert rows.steps is not None
        scores = perturbed_scores(
            self.robustness, stimulus, rows.objective, self._objectives_of_members, rows.seeds, rows.steps
        )
        return scores if self.regularizer is None else scores - self.regularizer(stimulus)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the stimulus only: whatever else the objective is made of collects none.

        Raises:
            ValueError: if the loss has no gradient.
        """
        evaluated = self._step.evaluated
        assert evaluated is not None
        if not loss.requires_grad:
            refuse_without_gradient(self.objective)
        self._computed.backward(loss, evaluated, **kwargs)
        gradient = evaluated.grad
        if gradient is None:
            refuse_without_gradient(self.objective)
        if self.stimulus.grad is None:
            self.stimulus.grad = torch.zeros_like(self.stimulus)
        put_rows(self.stimulus.grad, self._computed.index, gradient)
        if self._step.steepness is None:
            self._step.retire_flat_rows(row_norms(gradient), _FLAT_STEPS if self.robustness else 1)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: each gradient takes the last one's place, and rows out of computation have none."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step, then project; rows that are done stay where they are."""
        step = self._step = self._next_step()
        # Lightning's wrapper is no place for attributes.
        plain_optimizer = getattr(optimizer, "optimizer", optimizer)
        if isinstance(plain_optimizer, RowOptimizer):
            plain_optimizer.rows = step.index
            plain_optimizer.settle = partial(step.settle, normalised=plain_optimizer.normalises_gradients)
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            # Others move rows out of computation too, if they have a memory.
            everywhere = self.stimulus.detach().clone()
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            step.settle_all(self.stimulus.detach(), everywhere)
        step.count()
        if self._computed.steps is not None:
            self._computed.steps += 1

    def _next_step(self) -> Step:
        return Step(self.rows, self._computed.index, self.space, self.max_steps)

    @property
    def rows_in_computation(self) -> int:
        """How many rows a step computes."""
        return len(self._computed)

    def retire(self, rows: Tensor, status: Status) -> None:
        """End the optimisation of rows: those of a mask ``[rows]`` that are not done already."""
        self.rows.retire(rows, status)

    # The course of a run

    def on_fit_start(self) -> None:
        """Refuse what would make rows depend on each other.

        Raises:
            ValueError: if the trainer clips gradients or uses devices in a way that this module cannot.
        """
        check_clipping(self.trainer.gradient_clip_val)
        self._check_devices()

    def _check_devices(self) -> None:
        if self.trainer.world_size > 1:
            raise InvalidValueError(
                f"The trainer uses {self.trainer.world_size} devices; use Trainer(devices=1): the rows of a "
                f"{type(self).__name__} are together on one device. An MEIModule shares neurons out among devices."
            )

    def on_train_start(self) -> None:
        """Leave out rows that were done before a resumed run was interrupted."""
        # The device is another one than where the module was made, perhaps.
        self._selection_is_old = True
        self._select_active_rows()
        if not self.active.any():
            self.trainer.should_stop = True

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """At the end of an epoch, score the last iterate of rows at the step limit, and retire them."""
        ends = self.at_check or self.trainer.global_step == self.trainer.max_steps
        if self.max_steps is not None and ends and (at_limit := self.active & (self.steps >= self.max_steps)).any():
            self._select_rows(at_limit.nonzero().flatten().tolist())
            self._score_last_iterate()
            self.retire(at_limit, Status.STEP_LIMIT)

    def on_train_epoch_end(self) -> None:
        """Log the population, let rows that are done leave, and stop when none is left."""
        self._log_population()
        self._select_active_rows()
        if not self.active.any():
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Score the last iterate of active rows too, since it may be the best, and report rows that failed."""
        self._score_last_iterate()
        for status in (Status.NO_GRADIENT, Status.NOT_FINITE):
            failed = (self.status[self.best_rows()] == status).nonzero().flatten().tolist()
            warn_of_failures([self.labels[number] for number in failed], status, len(self.labels))

    @torch.no_grad()
    def _score_last_iterate(self) -> None:
        if len(self._computed):
            stimulus = self.space.stimuli(self._parameters_in_computation())
            self.rows.keep_best(self._computed.index, stimulus.detach(), *self.evaluate(stimulus))

    def _objectives_of_members(self) -> list[Callable[[Sequence[int]], Objective]]:
        """For each member of the model, what makes its objective for rows in computation, by their positions there."""
        whole = self.prepared_objective
        assert isinstance(whole, NeuronObjective)
        assert isinstance(whole.model, RetinaModel)
        if self._whole_and_members[:1] != (whole,):
            self._whole_and_members = (whole, *(whole.on(member) for member in whole.model.members))
        return [partial(self._objective_of_positions, member) for member in self._whole_and_members[1:]]

    def _objective_of_positions(self, objective: Objective, positions: Sequence[int]) -> Objective:
        rows = [self._computed.numbers[position] for position in positions]
        return self._objective_of(rows, objective).to(self.stimulus.device)


def _made_for(parameterization: Parameterization | None, shape: torch.Size) -> Parameterization | None:
    if parameterization is None or parameterization.shape == shape[1:]:
        return parameterization
    if parameterization.shape is not None:
        raise InvalidValueError(
            f"{parameterization!r} was made for stimuli of {tuple(parameterization.shape)}, not {tuple(shape[1:])} "
            "(channels, time, height, width)."
        )
    return parameterization.for_stimuli(shape)
