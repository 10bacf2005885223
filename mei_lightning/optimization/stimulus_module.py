"""The LightningModule: a stimulus as the sole trainable parameter, optimised on a frozen model."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from mei_lightning.acceleration.blocks import for_few_rows
from mei_lightning.acceleration.row_arithmetic import per_row, put_rows, row_norms
from mei_lightning.arguments import check_instance
from mei_lightning.callbacks.default_device import CPUByDefault
from mei_lightning.callbacks.frozen_model import FrozenModel
from mei_lightning.constraints import Constraint, NormAndRange
from mei_lightning.devices import check_device, made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.objectives import NeuronObjective, Objective, as_objective
from mei_lightning.optimization.metrics import ScoreStatistics
from mei_lightning.optimization.optimizers import AdaptivePowerMethod, check_optimizer
from mei_lightning.parameterizations import Parameterization, feasible_stimulus
from mei_lightning.perturbations import Perturbation, RandomMember, Robustness, check_robustness
from mei_lightning.perturbations.draws import keys_of
from mei_lightning.perturbations.members import member_of_rows, scores_by_members
from mei_lightning.regularizers import Regularizer
from mei_lightning.wording import first_few

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]

_COUPLES_ROWS = ("LBFGS", "Adafactor", "Muon")
ROUNDING = 1e-6
"""Relative difference up to which two scores in float32 count as equal."""
_FLAT_STEPS = 4
"""So many steps in a row without a gradient tell that there is none, where one alone may be due to its perturbation."""


class Status(IntEnum):
    """How the optimisation of a row stands."""

    EMPTY = -1
    ACTIVE = 0
    CONVERGED = 1
    NO_GRADIENT = 2
    NOT_FINITE = 3
    STEP_LIMIT = 4
    OUTDONE = 5
    JOINED = 6

    @property
    def label(self) -> str:
        """The status in words, as it stands in results; a row that is still active there was interrupted."""
        return "interrupted" if self is Status.ACTIVE else self.name.lower().replace("_", " ")


class StimulusModule(LightningModule):
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
        parameterization: what stimuli are made from; by default they are pixels.
        robustness: what stimuli have to withstand, in this order: the gradient of a step is that of the perturbed
            stimulus; scores, the best iterate and convergence are those of the stimulus itself.
        seeds: of each row's perturbations, ``[rows]``; by default the number of the row.
        max_steps: the most steps that a row takes; by default as many as the trainer takes.
        check_interval: steps between two checks for rows that are done (an epoch).

    Attributes:
        stimulus: the sole parameter: the stimuli ``[rows, channels, time, height, width]``, or what the
            parameterisation makes them from, ``[rows, ...]``.
        best_stimulus, best_score: the best iterate of each row and its own score; the last of those that are equal
            up to rounding.
        best_value: the highest value of each row, its score minus its cost.
        status, steps: a ``Status`` and the number of steps taken, for each row.

    Raises:
        ValueError: if the stimulus cannot meet the constraint, ``max_steps`` or ``check_interval`` is not positive, or
            there is not one seed for each row.
        TypeError: if the objective is not one, or not one that has members for ``RandomMember``; if another argument
            is of a wrong type.
    """

    best_stimulus: Tensor
    best_score: Tensor
    best_value: Tensor
    status: Tensor
    steps: Tensor
    flat_steps: Tensor
    stalled_value: Tensor
    stalled_steps: Tensor

    @made_on_cpu
    def __init__(
        self,
        objective: Objective | Callable[[Tensor], Tensor],
        initial_stimulus: Tensor,
        *,
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
        optimizer: OptimizerFactory = AdaptivePowerMethod,
        parameterization: Parameterization | None = None,
        robustness: Sequence[Robustness] = (),
        seeds: Sequence[int] | None = None,
        max_steps: int | None = None,
        check_interval: int = 10,
    ) -> None:
        super().__init__()
        if initial_stimulus.ndim != 5 or not len(initial_stimulus):
            raise InvalidValueError(
                "A stimulus is [rows, channels, time, height, width] with at least one row, "
                f"not {tuple(initial_stimulus.shape)}."
            )
        if check_interval < 1:
            raise InvalidValueError(f"check_interval={check_interval} must be at least 1 step.")
        if max_steps is not None and max_steps < 1:
            raise InvalidValueError(
                f"max_steps={max_steps} leaves nothing to do; give the number of steps, at least 1."
            )
        check_robustness(robustness)
        check_optimizer(optimizer)
        if parameterization is not None:
            check_instance("parameterization", parameterization, Parameterization, "LowRank(rank=1)")
        if seeds is not None and len(seeds) != len(initial_stimulus):
            raise InvalidValueError(f"{len(seeds)} seeds for {len(initial_stimulus)} row(s); give one for each.")
        # In a tuple, so that the frozen model is no part of this module: neither of its parameters and checkpoints, nor
        # moved to the CPU with it when the trainer is done.
        self._objective_in_tuple = (as_objective(objective),)
        self.constraint = constraint
        self.regularizer = regularizer
        self.optimizer_factory = optimizer
        self.parameterization = _made_for(parameterization, initial_stimulus.shape)
        self.robustness = tuple(robustness)
        self.seeds = seeds
        self._whole_and_members: tuple[NeuronObjective, ...] = ()
        self.max_steps = max_steps
        self.check_interval = check_interval

        for part in self.robustness:
            part.check(self.objective, initial_stimulus.shape)
        if regularizer is not None:
            regularizer.check(initial_stimulus.shape)
        if constraint is not None:
            constraint.check(initial_stimulus.shape)
            constraint.check_stimulus(initial_stimulus)
            if self.parameterization is not None:
                with torch.no_grad():
                    parameters = self.parameterization.parameters_of(initial_stimulus)
                    constraint.check_stimulus(self.parameterization(parameters))
        parameters, stimulus = self._begun_from(initial_stimulus.detach().clone())
        self._make_rows(parameters, stimulus.clone())
        # Optimizers that search along a line call the closure several times a step, at points that nobody will see.
        self._first_closure_call = self._first_gradient = True
        self._share_left: Tensor | None = None
        self._select_active_rows()

    def _feasible(self, stimulus: Tensor) -> Tensor:
        return stimulus if self.constraint is None else self.constraint.to(stimulus.device)(stimulus)

    @torch.no_grad()
    def _begun_from(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """What is optimised from some stimuli on, and the feasible stimuli that it stands for."""
        if self.parameterization is None:
            feasible = self._feasible(stimulus)
            return feasible, feasible
        parameterization = self.parameterization.to(stimulus.device)
        parameters = parameterization.parameters_of(stimulus)
        return parameters, self._feasible(parameterization(parameters))

    def _shown(self, parameters: Tensor) -> Tensor:
        """The feasible stimuli that parameters of some rows stand for."""
        if self.parameterization is None:
            return parameters
        if not len(parameters):
            # Fourier transforms of nothing are refused.
            return self.best_stimulus[:0]
        stimulus = self.parameterization(parameters)
        if self.constraint is None:
            return stimulus
        return feasible_stimulus(stimulus, self._feasible, self._note_share_left)

    def _note_share_left(self, share: Tensor) -> None:
        self._share_left = share

    def _make_rows(self, parameters: Tensor, stimulus: Tensor) -> None:
        rows = len(stimulus)
        self._row_numbers: list[int] = []
        self._selection_is_old = True
        lowest = stimulus.new_full((rows,), -torch.inf)
        self.stimulus = nn.Parameter(parameters)
        self.register_buffer("best_stimulus", stimulus)
        self.register_buffer("best_score", lowest.clone())
        self.register_buffer("best_value", lowest.clone())
        self.register_buffer("status", torch.zeros(rows, dtype=torch.int8, device=stimulus.device))
        self.register_buffer("steps", torch.zeros(rows, dtype=torch.int32, device=stimulus.device))
        self.register_buffer("flat_steps", torch.zeros(rows, dtype=torch.int32, device=stimulus.device))
        # Kept here for the RowConvergence callback: what has a value for each row is saved with the rows.
        self.register_buffer("stalled_value", lowest.clone())
        self.register_buffer("stalled_steps", torch.zeros(rows, dtype=torch.int32, device=stimulus.device))

    # What the stimuli are for; modules for named neurons know better

    @property
    def objective(self) -> Objective:
        """What the stimuli are optimised for, with the frozen model."""
        return self._objective_in_tuple[0]

    @property
    def labels(self) -> list[str]:
        """What each stimulus of the result is called."""
        return [f"row_{row}" for row in range(len(self.stimulus))]

    @property
    def stimulus_format(self) -> StimulusFormat | None:
        """The physical facts of the stimulus, if known."""
        return None

    def best_rows(self) -> Tensor:
        """For each stimulus of the result its row, ``[results]``."""
        return torch.arange(len(self.stimulus), device=self.device)

    # Data and optimizer

    def train_dataloader(self) -> Iterable[int]:
        """No data: an epoch of ``check_interval`` steps, or what a run that was interrupted has left of one."""
        return _StepsToNextCheck(self)

    @property
    def at_check(self) -> bool:
        """Whether the last step was one after which rows are checked; a run can also end between two checks."""
        return self.trainer.global_step % self.check_interval == 0

    def transfer_batch_to_device(self, batch: int, device: torch.device, dataloader_idx: int) -> int:
        """Nothing to transfer."""
        return batch

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
        name = type(optimizer).__name__
        if name in _COUPLES_ROWS and len(self.stimulus) > 1:
            raise InvalidValueError(
                f"{name} couples the {len(self.stimulus)} rows of the stimulus: a neuron's MEI would depend on the "
                "others in its batch. Optimise one row at a time (one neuron, restarts=1), or choose another "
                "optimizer, e.g. torch.optim.SGD."
            )
        if self.parameterization is not None:
            self.parameterization.check_optimizer(optimizer)
        return optimizer

    def configure_callbacks(self) -> list[Callback]:
        """Freeze the objective's model for the time of the fit, and make tensors of the host on the host."""
        return [CPUByDefault(), FrozenModel(self.objective)]

    def setup(self, stage: str) -> None:
        """Refuse a precision of the trainer's in which the model cannot compute.

        Raises:
            ValueError: if it is not that of 32 bits, which leaves everything in the model's own precision.
        """
        precision = self.trainer.precision
        if precision != "32-true":
            raise InvalidValueError(
                f"Trainer(precision={precision!r}) would change the precision of the stimulus and not that of the "
                "model. Leave precision out. An MEIModule and find_meis compute faster in bfloat16 with "
                'fast_path="bfloat16" (--model.fast_path bfloat16), and in double precision on a model in double '
                "precision (model.double())."
            )
        check_device(self.trainer.strategy.root_device, self.stimulus.dtype)

    # Steps

    def evaluate(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[rows]`` and values ``[rows]`` (score minus cost) of stimuli of the rows in computation.

        Raises:
            ValueError: if the objective or the regularizer does not return a number for each row.
        """
        return self._evaluate(stimulus, self._row_objective)

    def _evaluate(self, stimulus: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        scores = objective(stimulus)
        _check_rows("objective", self.objective, scores, stimulus)
        if self.regularizer is None:
            return scores, scores
        costs = self.regularizer(stimulus)
        _check_rows("regularizer", self.regularizer, costs, stimulus)
        return scores, scores - costs

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """Minus the sum of the rows' values; remembers each row's best iterate."""
        parameters = self._evaluated = self._parameters_in_computation().requires_grad_()
        if not len(parameters):
            self._share_left = None
            # A device without rows has to keep step with the others.
            return parameters.sum()
        stimulus = self._shown(parameters)
        scores, values = self.evaluate(stimulus.detach() if self.robustness else stimulus)
        if self._first_closure_call:
            self._first_closure_call = False
            self._before_step = parameters.detach()
            self._keep_best(stimulus.detach(), scores.detach(), values.detach())
        if self.robustness:
            values = self._perturbed_values(stimulus)
        return -values.sum()

    def _perturbed_values(self, stimulus: Tensor) -> Tensor:
        """Values ``[rows]`` of what becomes of stimuli at this step; a stimulus costs what it costs itself."""
        perturbed, score = stimulus, self._row_objective.__call__
        for number, part in enumerate(self.robustness):
            # On the host, which has to know the members; what it sends to a device does not make it wait.
            keys = keys_of(self._seeds_in_computation, self._steps_in_computation, number)
            if isinstance(part, Perturbation):
                perturbed = part(perturbed, keys.to(stimulus.device, non_blocking=True))
            elif isinstance(part, RandomMember):
                members = self._objectives_of_members()
                score = partial(scores_by_members, member_of_rows(keys, len(members)), self._objective_of_places)
        scores = score(perturbed)
        return scores if self.regularizer is None else scores - self.regularizer(stimulus)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the stimulus only: whatever else the objective is made of collects none.

        Raises:
            ValueError: if the loss has no gradient.
        """
        if not loss.requires_grad:
            self._refuse_without_gradient()
        loss.backward(inputs=[self._evaluated], **kwargs)
        gradient = self._evaluated.grad
        if gradient is None:
            self._refuse_without_gradient()
        if self.stimulus.grad is None:
            self.stimulus.grad = torch.zeros_like(self.stimulus)
        whole = self.stimulus.grad
        size = self._gradient_size = gradient.new_empty(len(gradient))

        def put(part: slice) -> None:
            put_rows(whole, self._rows_in_computation[part], gradient[part])
            size[part] = row_norms(gradient[part])

        for_few_rows(put, len(gradient), self.device)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: each gradient takes the last one's place, and rows out of computation have none."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Retire rows without a gradient and rows whose gradient is not finite."""
        if not self._first_gradient:
            return
        self._first_gradient = False
        size, rows = self._gradient_size, self._rows_in_computation
        self.flat_steps[rows] = (self.flat_steps[rows] + 1) * (size == 0)
        flat = self.flat_steps[rows] >= (_FLAT_STEPS if self.robustness else 1)
        if self._share_left is not None:
            self._retire_in_computation(flat & (self._share_left == 0), Status.CONVERGED)
        self._retire_in_computation(flat, Status.NO_GRADIENT)
        self._retire_in_computation(~size.isfinite(), Status.NOT_FINITE)

    def _refuse_without_gradient(self) -> NoReturn:
        raise InvalidValueError(
            f"The score of {type(self.objective).__name__} does not depend on the stimulus in a differentiable way, "
            "so there is no gradient. Does the model detach its input or run under torch.no_grad()?"
        )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Step, then project; rows that are done stay where they are."""
        in_computation = self._rows_in_computation
        finite = torch.ones_like(in_computation, dtype=torch.bool)
        # Lightning's wrapper is no place for attributes.
        plain_optimizer = getattr(optimizer, "optimizer", optimizer)
        adaptive = isinstance(plain_optimizer, AdaptivePowerMethod)

        def settle(part: slice, after: Tensor) -> Tensor:
            if self.parameterization is None:
                after = self._feasible(after)
            elif self._share_left is not None and adaptive:
                # A projection would take back the rest of a step whose length does not depend on the gradient's.
                after = torch.lerp(self._before_step[part], after, per_row(self._share_left[part], after))
            # A sum is finite only if each entry is, and taken more quickly than each is asked.
            finite[part] = after.flatten(1).sum(dim=1).isfinite()
            moves = self._rows_that_move(part) & finite[part]
            return after if _certain(moves) else torch.where(per_row(moves, after), after, self._before_step[part])

        self._first_closure_call = self._first_gradient = True
        if isinstance(plain_optimizer, AdaptivePowerMethod):
            plain_optimizer.rows, plain_optimizer.settle = in_computation, settle
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            # Others move rows out of computation too, if they have a memory.
            everywhere = self.stimulus.detach().clone()
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            stimulus = self.stimulus.detach()

            def take(part: slice) -> None:
                rows = in_computation[part]
                put_rows(everywhere, rows, settle(part, stimulus.index_select(0, rows)))

            with torch.no_grad():
                for_few_rows(take, len(in_computation), self.device)
                stimulus.copy_(everywhere)
        moving = self._rows_that_move(slice(None)) & finite
        self._retire_in_computation(~finite, Status.NOT_FINITE)
        self.steps[in_computation] += moving
        if self.robustness:
            self._steps_in_computation += 1

    def _rows_that_move(self, part: slice) -> Tensor:
        """Which of some rows in computation are not done, nor at the step limit."""
        rows = self._rows_in_computation[part]
        moving = self.status[rows] == Status.ACTIVE
        return moving if self.max_steps is None else moving & (self.steps[rows] < self.max_steps)

    @property
    def active(self) -> Tensor:
        """Which rows ``[rows]`` are still being optimised."""
        return self.status == Status.ACTIVE

    @property
    def rows_in_computation(self) -> int:
        """How many rows a step computes."""
        return len(self._rows_in_computation)

    def retire(self, rows: Tensor, status: Status) -> None:
        """End the optimisation of rows.

        Args:
            rows: which of all rows, ``[rows]`` of bool; those that are done already keep their status.
            status: the reason.
        """
        self.status.masked_fill_(rows & self.active, int(status))

    def _retire_in_computation(self, rows: Tensor, status: Status) -> None:
        everywhere = torch.zeros_like(self.active)
        everywhere[self._rows_in_computation] = rows
        self.retire(everywhere, status)

    def _keep_best(self, stimulus: Tensor, scores: Tensor, values: Tensor) -> None:
        rows = self._rows_in_computation
        finite = scores.isfinite() & values.isfinite()
        # A row that became done since the last check is still computed, but must end as if it were not.
        counts = finite & self.active[rows]
        best = torch.where(counts, torch.maximum(values, self.best_value[rows]), self.best_value[rows])
        # At the optimum the last iterate is kept: rounding, which varies with the batch, must not choose among them.
        kept = counts & (values >= best - ROUNDING * best.abs())
        self.best_value[rows] = best
        self.best_score[rows] = torch.where(kept, scores, self.best_score[rows])

        def keep(part: slice) -> None:
            found = stimulus[part]
            if not _certain(kept[part]):
                best = self.best_stimulus.index_select(0, rows[part])
                found = torch.where(per_row(kept[part], best), found, best)
            put_rows(self.best_stimulus, rows[part], found)

        for_few_rows(keep, len(rows), self.device)
        self._retire_in_computation(~finite, Status.NOT_FINITE)

    # The course of a run

    def on_fit_start(self) -> None:
        """Refuse what would make rows depend on each other.

        Raises:
            ValueError: if the trainer clips gradients or uses devices in a way that this module cannot.
        """
        if self.trainer.gradient_clip_val:
            raise InvalidValueError(
                f"Trainer(gradient_clip_val={self.trainer.gradient_clip_val}) clips the gradients of all rows "
                "together. Leave it out: the default optimizer normalises the gradient of each row."
            )
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
        stimulus = self._shown(self._parameters_in_computation())
        if len(stimulus):
            self._keep_best(stimulus.detach(), *self.evaluate(stimulus))

    def _parameters_in_computation(self) -> Tensor:
        return self.stimulus.detach().index_select(0, self._rows_in_computation)

    def _select_active_rows(self) -> None:
        rows = self.active.nonzero().flatten().tolist()
        if self._selection_is_old or rows != self._row_numbers:
            self._select_rows(rows)

    def _select_rows(self, rows: Sequence[int]) -> None:
        left = sorted(set(self._row_numbers) - set(rows))
        if left and self.stimulus.grad is not None:
            self.stimulus.grad.index_fill_(0, torch.tensor(left, device=self.stimulus.device), 0)
        self._rows_in_computation = torch.tensor(rows, dtype=torch.long, device=self.stimulus.device)
        # In a tuple, so that the submodules, which share the model, are not registered a second time.
        self._row_objective_in_tuple = (self._objective_of(rows).to(self.stimulus.device),)
        self._row_numbers = list(rows)
        self._selection_is_old = False
        if self.robustness:
            self._seeds_in_computation = torch.tensor(self._seeds_of(rows), dtype=torch.long)
            # Of rows that go on: those that have ended meanwhile are computed, but count no more.
            self._steps_in_computation = self.steps[self._rows_in_computation].cpu()

    def _seeds_of(self, rows: Sequence[int]) -> list[int]:
        """The seeds of some rows' perturbations."""
        return list(rows) if self.seeds is None else [self.seeds[row] for row in rows]

    def _objective_of(self, rows: Sequence[int], objective: Objective | None = None) -> Objective:
        """What some rows are scored by: of an objective of all rows, by default of the module's, their part."""
        objective = self.objective if objective is None else objective
        return objective if len(rows) in (0, len(self.stimulus)) else objective.for_rows(rows)

    @property
    def _stepping_objective(self) -> Objective:
        """The objective that steps are computed on."""
        return self.objective

    def _objectives_of_members(self) -> tuple[NeuronObjective, ...]:
        """The same objective on each member of its model."""
        whole = self._stepping_objective
        assert isinstance(whole, NeuronObjective)
        assert isinstance(whole.model, RetinaModel)
        if self._whole_and_members[:1] != (whole,):
            self._whole_and_members = (whole, *(whole.on(member) for member in whole.model.members))
        return self._whole_and_members[1:]

    def _objective_of_places(self, member: int, places: Sequence[int]) -> Objective:
        """A member's objective for rows in computation, by their places among these."""
        rows = [self._row_numbers[place] for place in places]
        return self._objective_of(rows, self._objectives_of_members()[member]).to(self.stimulus.device)

    @property
    def _row_objective(self) -> Objective:
        return self._row_objective_in_tuple[0]

    def scores(self) -> Tensor:
        """The best score so far of each stimulus of the result that has a finite one."""
        scores = self.best_score[self.best_rows()]
        return scores[scores.isfinite()]

    def _log_population(self) -> None:
        self._log_scores(self.scores())
        self.log("rows/active", self.active.sum().float(), prog_bar=True)
        for status in (Status.CONVERGED, Status.NO_GRADIENT, Status.NOT_FINITE):
            self.log(f"rows/{status.name.lower()}", (self.status == status).sum().float())
        self._log_stimuli(self.best_stimulus)

    def _log_scores(self, scores: Tensor) -> None:
        if len(scores):
            # These are the scores of all devices already.
            statistics = ScoreStatistics(sync_on_compute=False).to(scores.device)
            statistics.update(scores)
            for name, value in statistics.compute().items():
                self.log(f"score/{name}", value, prog_bar=name == "mean")

    def _log_stimuli(self, stimuli: Tensor) -> None:
        if not len(stimuli):
            return
        norms = stimuli.new_empty(len(stimuli))
        clipped = torch.zeros(len(stimuli), dtype=torch.long, device=stimuli.device)
        bounds = self._bounds()

        def measure(rows: slice) -> None:
            norms[rows] = row_norms(stimuli[rows])
            if bounds is not None:
                at_bound = (stimuli[rows] <= bounds[0]) | (stimuli[rows] >= bounds[1])
                clipped[rows] = at_bound.flatten(1).count_nonzero(dim=1)

        for_few_rows(measure, len(stimuli), stimuli.device)
        self.log("stimulus/norm", norms.mean())
        if bounds is not None:
            self.log("stimulus/clipped_share", clipped.sum() / stimuli.numel())

    def _bounds(self) -> tuple[Tensor, Tensor] | None:
        """Low and high of each channel, as they broadcast over stimuli: of the last constraint that has ranges."""
        found = None
        for part in [] if self.constraint is None else self.constraint.modules():
            if isinstance(part, NormAndRange) and part.low is not None and part.high is not None:
                found = part.low.view(1, -1, 1, 1, 1), part.high.view(1, -1, 1, 1, 1)
        return found

    # Checkpoints: the stimulus and what belongs to its rows, never the model

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The stimulus and the state of its rows."""
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if _is_own(name)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the stimulus and the state of its rows; the model keeps its weights."""
        frozen = {name: value for name, value in super().state_dict().items() if not _is_own(name)}
        return super().load_state_dict({**frozen, **state_dict}, strict=strict, assign=assign)


class _StepsToNextCheck:
    def __init__(self, module: StimulusModule) -> None:
        self._module = module

    def __iter__(self) -> Iterator[int]:
        steps = self._module.check_interval
        return iter(range(steps - self._module.trainer.global_step % steps))


def _is_own(name: str) -> bool:
    """Whether a name of the state belongs to the module itself, and not to its objective, constraint or model."""
    return "." not in name


def _made_for(parameterization: Parameterization | None, shape: torch.Size) -> Parameterization | None:
    if parameterization is None or parameterization.shape == shape[1:]:
        return parameterization
    if parameterization.shape is not None:
        raise InvalidValueError(
            f"{parameterization!r} was made for stimuli of {tuple(parameterization.shape)}, not {tuple(shape[1:])} "
            "(channels, time, height, width)."
        )
    return parameterization.for_stimuli(shape)


def _certain(rows: Tensor) -> bool:
    """Whether all rows are known to be True; where asking would make the host wait for a device, nothing is known."""
    return rows.device.type == "cpu" and bool(rows.all())


def warn_of_failures(labels: Sequence[str], status: Status, total: int) -> None:
    """Warn that some of all stimuli ended with a status that nobody wants."""
    if labels:
        rank_zero_warn(f"{len(labels)} of {total} stimuli ended with '{status.label}': {first_few(labels)}.")


def _check_rows(what: str, source: object, values: Tensor, stimulus: Tensor) -> None:
    if values.shape != (len(stimulus),):
        raise InvalidValueError(
            f"The {what} returned a tensor of shape {tuple(values.shape)} for {len(stimulus)} row(s); it must return "
            f"one number for each row, shape ({len(stimulus)},): {type(source).__name__}"
        )
