"""Any number of neurons in a bounded number of rows: who is computed where, and what was found."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.blocks import all_threads, for_few_rows
from mei_lightning.acceleration.memory import rows_that_fit, rows_with_room
from mei_lightning.acceleration.prepare import FastModel, FastPath, Precision, prepare
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.acceleration.row_arithmetic import cosines
from mei_lightning.callbacks.cpu_threads import ThreadsForBlocks
from mei_lightning.constraints import Constraint
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.objectives import NeuronObjective, Objective
from mei_lightning.optimization.effort import TRIAL_STEPS
from mei_lightning.optimization.metrics import ConvergedShare, SeedSimilarity, seed_similarity
from mei_lightning.optimization.optimizers import AdaptivePowerMethod, forgives_rounding
from mei_lightning.optimization.out_of_memory import ObjectiveInParts, RowsAtATime
from mei_lightning.optimization.starts import (
    EQUAL,
    better_rows,
    far_behind,
    handicapped,
    hardly_better,
    nearly_as_good,
    outdone_in_trial,
    ranks,
    similarity_to_meet,
)
from mei_lightning.optimization.stimulus_module import OptimizerFactory, Status, StimulusModule
from mei_lightning.optimization.strategies import SHARDED, ShardedStrategy, deal
from mei_lightning.parameterizations import Parameterization
from mei_lightning.perturbations import Robustness
from mei_lightning.regularizers import Regularizer
from mei_lightning.results.store import MEIResult

_STEPS_TO_LEAVE = 2
"""Steps from one time that rows which are done leave the computation to the next; and steps of a row's own from one
time that it is compared with the others of its neuron to the next."""
_STEPS_BETWEEN_LOGS = 8
_NUDGES = (-1, 1)
"""Frames by which the best stimulus is moved at last."""


class PopulationModule(StimulusModule):
    """Streams neurons through the rows that a device has room for.

    A device has places for neurons, each of as many rows as there are restarts. After ``TRIAL_STEPS`` steps those of a
    neuron's rows that have got less far than its finalists end, outdone. Rows that are done leave the computation.
    If the best stimulus shall then be shifted in time and optimised as well, the place has a row for each shift; what
    the best of them finds belongs to the best restart. Rows that come to where a better row of the same neuron is end
    there then, and so do those that are far behind (the rules are in ``starts``). At last the best stimulus is nudged,
    which is to say moved by one frame to earlier and later times, and optimised from there where it is nearly as good.
    Once all that is done, the neuron's result is complete, and the next neuron takes the place. Neurons are dealt to
    the devices as places become free, so that no device waits for another one's stragglers until the last neurons.

    Args:
        objective: the neurons, one for each row of the objective.
        labels: what the neurons are called.
        start: makes the initial stimuli of a neuron, ``[restarts, channels, time, height, width]``, from its number.
        seed_of: the seed of a neuron's restart, for the record, from both numbers.
        restarts: rows of each neuron; the best result is kept.
        finalists: how many of them are optimised to the end.
        shifts: frames by which the best stimulus after ``TRIAL_STEPS`` steps is moved to later times, to be optimised
            as well; needs the adaptive power method. Without any, no stimulus is nudged either.
        max_steps: the most steps that a row takes.
        rows_per_device: the most rows that a device computes at a time; by default as many as fit.
        fast_path: whether steps are computed on a copy of the model that is prepared to be faster (``prepare``), with
            the adaptive power method and SGD; in which precision, if it is one. What is reported of a result is
            computed by the model itself in any case.
        constraint, regularizer, optimizer, parameterization, robustness, check_interval: as for ``StimulusModule``.

    Attributes:
        description: coordinates and attributes of the results.
        configuration: all settings that determine the results.
        neuron_in_place: the number of the neuron in each place of this device, ``[places]``, -1 for none.
        neurons_done: how many neurons of the run are done, on all devices and in earlier runs.
        converged_share, seed_similarity: metrics of the neurons that have been done since the run was last started.
    """

    neuron_in_place: Tensor
    shifted: Tensor
    nudged: Tensor
    description: xr.Dataset
    configuration: dict[str, Any]

    def __init__(
        self,
        objective: NeuronObjective,
        labels: Sequence[str],
        start: Callable[[int], Tensor],
        seed_of: Callable[[int, int], int],
        *,
        restarts: int,
        finalists: int,
        shifts: Sequence[int],
        max_steps: int,
        rows_per_device: int | None,
        fast_path: FastPath,
        constraint: Constraint | None,
        regularizer: Regularizer | None,
        optimizer: OptimizerFactory,
        parameterization: Parameterization | None,
        robustness: Sequence[Robustness],
        check_interval: int,
    ) -> None:
        if not isinstance(fast_path, bool) and fast_path != "bfloat16":
            raise InvalidValueError(f"fast_path={fast_path!r}: choose True, False or 'bfloat16'.")
        if rows_per_device is not None and rows_per_device < restarts:
            raise InvalidValueError(
                f"rows_per_device={rows_per_device} has no room for a neuron with restarts={restarts}: its rows are "
                "computed together."
            )
        self.restarts = restarts
        self.finalists = finalists
        self.shifts = list(shifts)
        self._rows_of_place = restarts + (max(len(self.shifts), len(_NUDGES)) if self.shifts else 0)
        self.rows_per_device = rows_per_device
        self.fast_path = fast_path
        self.start = start
        self.seed_of = seed_of
        self._labels = list(labels)
        # In a tuple, so that the model is not registered a second time.
        self._stepping = (objective,)
        super().__init__(
            objective,
            self._initial_rows(0),
            constraint=constraint,
            regularizer=regularizer,
            optimizer=optimizer,
            parameterization=parameterization,
            robustness=robustness,
            max_steps=max_steps,
            check_interval=check_interval,
        )
        self.neurons_done = 0
        self._rows_at_a_time = RowsAtATime()
        self._waiting: list[int] = []
        self._done_before: dict[int, float] = {}
        self._score_of: dict[int, float] = {}
        self._scores = torch.zeros(0)
        self._row_steps_released = 0
        self.converged_share = ConvergedShare()
        self.seed_similarity = SeedSimilarity()

    @property
    def objective(self) -> NeuronObjective:
        """The neurons, one for each row, on the frozen model."""
        objective = super().objective
        assert isinstance(objective, NeuronObjective)
        return objective

    @property
    def labels(self) -> list[str]:
        """What the neurons are called."""
        return self._labels

    @property
    def streams(self) -> bool:
        """Whether there are more neurons than places on all devices together."""
        return len(self.labels) > len(self.neuron_in_place) * self.trainer.world_size

    @property
    def frames_moved(self) -> list[int]:
        """By how many frames, altogether, the stimulus of a result may have been moved since it was a start."""
        moves = {shift + nudge for shift in (0, *self.shifts) for nudge in (0, *_NUDGES)}
        return sorted(moves) if self.shifts else [0]

    def leave_out(self, scores: Mapping[int, float]) -> None:
        """Leave out neurons that are done already; before the fit's first step.

        Args:
            scores: the numbers of these neurons and their scores.
        """
        self._done_before = dict(scores)

    # Places

    def _make_rows(self, parameters: Tensor, stimulus: Tensor) -> None:
        super()._make_rows(parameters, stimulus)
        self.status.fill_(int(Status.EMPTY))
        places = len(stimulus) // self._rows_of_place
        self.register_buffer("neuron_in_place", torch.full((places,), -1, device=stimulus.device))
        for done_once in ("shifted", "nudged"):
            self.register_buffer(done_once, torch.zeros(places, dtype=torch.bool, device=stimulus.device))

    def _initial_rows(self, number: int) -> Tensor:
        """The initial stimuli of a neuron, and anything for the rows of stimuli moved in time."""
        stimulus = self.start(number)
        return torch.cat([stimulus, *[stimulus[:1]] * (self._rows_of_place - self.restarts)])

    @made_on_cpu
    def configure_model(self) -> None:
        """Prepare the model, and make as many places as the device has room for, unless places are taken already."""
        device = self.trainer.strategy.root_device
        parameters, first = self._begun_from(self._initial_rows(0))
        model = self.objective.model
        optimizer = self.optimizer_factory([self.stimulus])
        if self.fast_path and forgives_rounding(optimizer) and isinstance(model, RetinaModel):
            precision: Precision = "float32" if self.fast_path is True else self.fast_path
            self._stepping = (self.objective.on(prepare(model, first.shape, device, precision=precision)),)
        self._most_rows = max(self._rows_for(device, first[:1]), self.restarts)
        if (self.neuron_in_place >= 0).any():
            return
        # More places than are filled at first: those whose rows are finalists leave room for others.
        enough = math.ceil(len(self.labels) / self.trainer.world_size)
        places = min(self._most_rows // self.finalists, enough)
        self._make_rows(torch.cat([parameters] * places), torch.cat([first] * places))

    def _rows_for(self, device: torch.device, row: Tensor) -> int:
        """How many rows like this one to compute at a time."""
        if self.rows_per_device is None:
            sharing = getattr(self.trainer.strategy, "num_processes", 1) if device.type == "cpu" else 1
            in_blocks = device.type == "cpu" and self._is_understood()
            return rows_that_fit(self._stepping[0], row.to(device), device, sharing, in_blocks)
        if device.type == "cpu" or (room := rows_with_room(row, device)) >= self.rows_per_device:
            return self.rows_per_device
        rank_zero_warn(
            f"rows_per_device={self.rows_per_device}: the memory of {device} has room for the stimuli of {room} rows, "
            "and so many are computed at a time."
        )
        return room

    def configure_callbacks(self) -> list[Callback]:
        """As in ``StimulusModule``; and the threads of a CPU are for the model, if that is prepared."""
        return [*super().configure_callbacks(), ThreadsForBlocks(self._computes_in_blocks)]

    def _computes_in_blocks(self) -> bool:
        return self.device.type == "cpu" and self._is_understood()

    def _is_understood(self) -> bool:
        model = self._stepping[0].model
        return isinstance(model, FastModel) and model.computes_in_blocks

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the places and the rows in them, however many they were."""
        held = {"stimulus": self.stimulus.detach(), "best_stimulus": self.best_stimulus, **state_dict}
        self._make_rows(torch.empty_like(held["stimulus"]), torch.empty_like(held["best_stimulus"]))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _objective_of(self, rows: Sequence[int], objective: Objective | None = None) -> Objective:
        if not rows:
            return self.objective
        stepping = self._stepping[0] if objective is None else objective
        assert isinstance(stepping, NeuronObjective)
        places = self.neuron_in_place.tolist()
        neurons = [places[row // self._rows_of_place] for row in rows]
        if self._computes_in_blocks():
            return ObjectiveInBlocks(stepping, neurons)
        if self.device.type == "cpu":
            return stepping.for_rows(neurons)
        return ObjectiveInParts(stepping, neurons, self._rows_at_a_time)

    @property
    def _stepping_objective(self) -> Objective:
        return self._stepping[0]

    def _seeds_of(self, rows: Sequence[int]) -> list[int]:
        places = self.neuron_in_place.tolist()
        # Rows of stimuli moved in time come after the restarts in their place.
        return [self.seed_of(places[row // self._rows_of_place], row % self._rows_of_place) for row in rows]

    def _check_devices(self) -> None:
        strategy = self.trainer.strategy
        if self.trainer.world_size > 1 and not isinstance(strategy, ShardedStrategy):
            raise InvalidValueError(
                f"The trainer uses {self.trainer.world_size} devices with {type(strategy).__name__}, which averages "
                "gradients over devices; the result would be wrong, for every device has neurons of its own. Use "
                f'Trainer(strategy="{SHARDED}").'
            )
        # What is logged is the same on all devices, or about the first one's rows.
        warnings.filterwarnings("ignore", message="It is recommended to use `self.log\\(.*sync_dist=True")

    # The course of a run

    def on_train_start(self) -> None:
        """Deal the first neurons; a resumed run goes on with those that its checkpoint holds."""
        if self.trainer.global_rank > 0:
            # A checkpoint holds the rows of the first process only, which goes on with them.
            self._release(range(len(self.neuron_in_place)))
        numbers = self.neuron_in_place.tolist()
        self._release([place for place, number in enumerate(numbers) if number in self._done_before])
        held: list[int] = self.trainer.strategy.broadcast(self.neuron_in_place.tolist())
        begun = self._done_before.keys() | set(held)
        self._waiting = [number for number in range(len(self.labels)) if number not in begun]
        self._score_of = dict(self._done_before) if self.trainer.global_rank == 0 else {}
        self._row_steps_released = -int(self.steps.sum())
        self._row_steps_computed = self._row_steps_in_epoch = 0
        self._started, self._done_at_start = time.monotonic(), len(self._done_before)
        self.converged_share.reset()
        self.seed_similarity.reset()
        self._selection_is_old = True
        self._begin_next_neurons()

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """As in ``StimulusModule``; at the end of a neuron's trial its finalists are chosen; rows that are done go."""
        # Before rows at the step limit are scored alone.
        self._row_steps_in_epoch += self.rows_in_computation
        super().on_train_batch_end(outputs, batch, batch_idx)
        values, steps = self._values_by_place(), self._by_place(self.steps)
        outdone = torch.zeros_like(self._by_place(self.active))
        starts = slice(self.restarts)
        outdone[:, starts] = outdone_in_trial(values[:, starts], steps[:, starts], self.finalists)
        self.retire(outdone.flatten(), Status.OUTDONE)
        rows_leave = self.trainer.global_step % _STEPS_TO_LEAVE == 0
        # Rows begin at checks: where the interval is a multiple of these steps, none is due in between.
        if self.shifts and (rows_leave or self.check_interval % _STEPS_TO_LEAVE):
            # By steps of their own, which do not depend on when they began.
            due = self._by_place(self.active) & (steps % _STEPS_TO_LEAVE == 0)
            nudged = self.nudged[:, None]
            self.retire(self._rows_that_join(due & ~nudged), Status.JOINED)
            behind = far_behind(values, steps, self.restarts, self.finalists)
            behind = due & torch.where(nudged, hardly_better(values, self.restarts), behind)
            self.retire(behind.flatten(), Status.OUTDONE)
        if rows_leave or self.at_check:
            if self.shifts:
                self._adopt_shifted()
            if self.shifts and self.at_check:
                self._begin_nudged()
            self._select_active_rows()

    def on_train_epoch_end(self) -> None:
        """Let neurons that are done leave, begin the next ones, log, and stop when none is left on any device."""
        self._note_scores()
        step = self.trainer.global_step
        logs = step // _STEPS_BETWEEN_LOGS > (step - self.check_interval) // _STEPS_BETWEEN_LOGS
        if logs:
            self._log_stimuli(self.best_stimulus[self.best_rows()])
        if self.at_check:
            self._take_into_metrics(self.complete_places())
            self._release(self.complete_places())
            self._begin_shifted()
        self._begin_next_neurons()
        if logs or self.trainer.should_stop:
            self._log_population()

    def on_train_end(self) -> None:
        """Score the last iterate of rows that are still active, since it may be the best."""
        self._score_last_iterate()
        self._note_scores()

    def complete_places(self) -> list[int]:
        """Places whose neuron has nothing left to optimise."""
        return self._complete.nonzero().flatten().tolist()

    def unfinished_places(self) -> list[int]:
        """Places whose neuron is still being optimised."""
        return ((self.neuron_in_place >= 0) & ~self._complete).nonzero().flatten().tolist()

    @property
    def _complete(self) -> Tensor:
        return self._at_rest & (self.nudged | (not self.shifts))

    @property
    def _at_rest(self) -> Tensor:
        """Whether the neuron of each place has no row in computation, ``[places]``."""
        return (self.neuron_in_place >= 0) & ~self._by_place(self.active).any(dim=1)

    def _by_place(self, values: Tensor) -> Tensor:
        """Values of all rows as ``[places, rows of a place]``."""
        return values.view(-1, self._rows_of_place)

    def _release(self, places: Sequence[int]) -> None:
        if places:
            rows = self._rows_of(places)
            self._row_steps_released += int(self.steps[rows].sum())
            self.neuron_in_place[torch.tensor(places, device=self.device)] = -1
            self.status[rows] = int(Status.EMPTY)
            self.steps[rows] = 0

    def _rows_of(self, places: Sequence[int]) -> Tensor:
        return self._by_place(torch.arange(len(self.stimulus), device=self.device))[list(places)].flatten()

    def _restart_rows_of(self, places: Sequence[int]) -> Tensor:
        """The rows of the restarts in some places, ``[len(places), restarts]``."""
        return self._rows_of(places).view(-1, self._rows_of_place)[:, : self.restarts]

    def _begin_next_neurons(self) -> None:
        free = (self.neuron_in_place < 0).nonzero().flatten().tolist()
        row_steps = self._row_steps_released + int(self.steps.sum())
        taken_here = len(self.neuron_in_place) - len(free)
        facts = self._gather([self._places_to_fill(len(free)), taken_here, self._row_steps_in_epoch, row_steps])
        to_fill, taken, row_steps_in_epoch, self._row_steps_active = facts.T
        dealt = deal(self._waiting, to_fill.tolist())
        if mine := dealt[self.trainer.global_rank]:
            self._occupy(free[: len(mine)], mine)
        self._select_active_rows()
        # Devices keep step, so each computes as long as the one with the most rows.
        self._row_steps_computed += int(row_steps_in_epoch.max()) * self.trainer.world_size
        steps_in_epoch = (self.trainer.global_step - 1) % self.check_interval + 1
        self._rows_active = int(row_steps_in_epoch.sum()) / steps_in_epoch
        self._row_steps_in_epoch = 0
        in_places = int(taken.sum()) + sum(map(len, dealt))
        self.neurons_done = len(self.labels) - len(self._waiting) - in_places
        if not in_places and not self._waiting:
            self.trainer.should_stop = True

    def _places_to_fill(self, free: int) -> int:
        if not self.at_check:
            # A neuron that begins between two checks would be checked after other steps of its own than elsewhere.
            return 0
        # Optimizers that count steps for all rows together, as Adam does, have to begin with all rows at once.
        one_by_one = isinstance(self._optimizer, AdaptivePowerMethod) or not any(self._optimizer.state.values())
        most = max(min(self._most_rows, self._rows_at_a_time.most or self._most_rows), self.restarts)
        room = (most - int(self.active.sum())) // self.restarts
        return min(free, max(room, 0)) if one_by_one or free == len(self.neuron_in_place) else 0

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    @torch.no_grad()
    def _occupy(self, places: Sequence[int], neurons: Sequence[int]) -> None:
        rows = self._restart_rows_of(places).flatten()
        self._begin_rows(rows, torch.cat([self.start(number) for number in neurons]).to(self.stimulus))
        self.neuron_in_place[torch.tensor(places, device=self.device)] = torch.tensor(neurons, device=self.device)
        self.shifted[list(places)] = self.nudged[list(places)] = False
        self._by_place(self.status)[list(places), self.restarts :] = int(Status.EMPTY)

    def _begin_rows(self, rows: Tensor, stimulus: Tensor) -> None:
        if not len(rows):
            return
        self._selection_is_old = True

        def begin(part: slice) -> None:
            self.stimulus[rows[part]], self.best_stimulus[rows[part]] = self._begun_from(stimulus[part])

        for_few_rows(begin, len(rows), self.device)
        for lowest in (self.best_score, self.best_value, self.stalled_value):
            lowest[rows] = -torch.inf
        for zero in (self.status, self.steps, self.flat_steps, self.stalled_steps):
            zero[rows] = 0
        if isinstance(self._optimizer, AdaptivePowerMethod):
            anew = torch.zeros_like(self.active)
            anew[rows] = True
            self._optimizer.begin_anew(anew)
        else:
            self._optimizer.state.clear()

    # Stimuli moved in time

    @torch.no_grad()
    def _begin_shifted(self) -> None:
        """Optimise the best stimulus of each neuron after the trial once more, shifted in time."""
        tried = self._by_place(self.steps)[:, : self.restarts].amax(dim=1) >= TRIAL_STEPS
        begins = (self.neuron_in_place >= 0) & ~self.shifted & (tried | self._at_rest)
        self.shifted |= begins
        best = self._best_rows_of_places()
        # Where no row has a value there is nothing to begin from.
        places = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        for number, frames in enumerate(self.shifts):
            rows = places * self._rows_of_place + self.restarts + number
            self._begin_rows(rows, self.best_stimulus[best[places]].roll(frames, dims=2))

    @torch.no_grad()
    def _begin_nudged(self) -> None:
        """Optimise the best stimulus of each neuron from a frame earlier and later, if it is nearly as good there."""
        begins = self._at_rest & self.shifted & ~self.nudged
        self.nudged |= begins
        best = self._best_rows_of_places()
        places = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        if not len(places):
            return
        own, best = self.best_stimulus[best[places]], self.best_value[best[places]]
        rows = torch.cat([places * self._rows_of_place + self.restarts + number for number in range(len(_NUDGES))])
        stimulus = torch.cat([own.roll(frames, dims=2) for frames in _NUDGES])
        _, feasible = self._begun_from(stimulus)
        _, values = self._evaluate(feasible, self._objective_of(rows.tolist()).to(self.device))
        good = nearly_as_good(values, best.repeat(len(_NUDGES)))
        self._begin_rows(rows[good], stimulus[good])

    def _rows_that_join(self, which: Tensor) -> Tensor:
        """Rows ``[rows]``, of some ``[places, rows]``, that have come to where a better row of the same neuron is."""
        own, better = better_rows(self._values_by_place(), which)
        alike = self.best_stimulus.new_empty(len(own))

        def compare(part: slice) -> None:
            here = self._shown(self.stimulus.detach().index_select(0, own[part]))
            alike[part] = cosines(here, self.best_stimulus.index_select(0, better[part]))

        for_few_rows(compare, len(own), self.device)
        to_meet = similarity_to_meet(self.restarts, self._rows_of_place - self.restarts, self.device)
        joins = torch.zeros_like(self.active)
        joins[own[alike > to_meet[own % self._rows_of_place]]] = True
        return joins

    def _values_by_place(self) -> Tensor:
        """The best values of all rows, ``[places, rows of a place]``, minus infinity for those that are empty."""
        return self._by_place(self.best_value.masked_fill(self.status == Status.EMPTY, -torch.inf))

    @torch.no_grad()
    def _adopt_shifted(self) -> None:
        """Give what stimuli moved in time have become, if that is better, to the best restart."""
        shifted = self._by_place(torch.arange(len(self.stimulus), device=self.device))[:, self.restarts :]
        done = self._at_rest & (self.status[shifted] != Status.EMPTY).any(dim=1)
        shifted, best = shifted[done], self._best_rows_of_places()[done]
        # One that was given up ended for being no better than another row, or hardly.
        given_up = (self.status[shifted] == Status.JOINED) | (self.status[shifted] == Status.OUTDONE)
        values = self.best_value[shifted].masked_fill(given_up, -torch.inf)
        values, winner = handicapped(values).max(dim=1)
        winner = shifted.gather(1, winner[:, None]).flatten()
        gain = values.isfinite() & (
            self.best_value[winner] > self.best_value[best] + EQUAL * self.best_value[best].abs()
        )
        for values in (self.best_stimulus, self.best_score, self.best_value, self.status):
            values[best[gain]] = values[winner[gain]]
        steps = int(self.steps.sum())
        self.steps[best[gain]] += self.steps[winner[gain]]
        self.status[shifted] = int(Status.EMPTY)
        self.steps[shifted] = 0
        self._row_steps_released += steps - int(self.steps.sum())

    def _gather(self, facts: Sequence[int]) -> Tensor:
        """Some numbers of every device, ``[devices, facts]``."""
        table = torch.zeros(self.trainer.world_size, len(facts), dtype=torch.long, device=self.device)
        table[self.trainer.global_rank] = torch.tensor(facts)
        return self._sum_over_devices(table).cpu()

    def _sum_over_devices(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        total = self.trainer.strategy.reduce(values, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    # What was found

    @torch.no_grad()
    def results(self, places: Sequence[int]) -> list[MEIResult]:
        """The neurons in some places: the best of each one's rows, and how alike they are."""
        if not places:
            return []
        rows = self._restart_rows_of(places)
        best = self._best_restarts()[torch.tensor(places, device=self.device)]
        best_rows = rows.gather(1, best[:, None]).flatten()
        stimulus = self.best_stimulus[best_rows]
        numbers = self.neuron_in_place[torch.tensor(places, device=self.device)].tolist()

        def evaluate(part: slice) -> tuple[Tensor, Tensor]:
            return self.objective.for_rows(numbers[part]).to(self.device).traces_and_scores(stimulus[part])

        with all_threads(), full_precision():
            response, scores = map(torch.cat, zip(*self._rows_at_a_time.results(evaluate, len(numbers)), strict=True))
        restart_scores = self.best_score[rows].scatter(1, best[:, None], scores[:, None])
        given_up = (self.status[rows] == Status.OUTDONE) | (self.status[rows] == Status.JOINED)
        restart_scores[given_up.scatter(1, best[:, None], False)] = torch.nan
        alike = self._seed_similarities(places).tolist()
        interrupted = ~self._complete[torch.tensor(places, device=self.device)]
        status = torch.where(interrupted, int(Status.ACTIVE), self.status[best_rows])
        return [
            MEIResult(
                number=number,
                stimulus=stimulus[i].cpu().numpy(),
                response=response[i].cpu().numpy(),
                score=scores[i].item(),
                status=Status(int(status[i])).label,
                steps=int(self.steps[best_rows[i]]),
                best_restart=int(best[i]),
                seed=self.seed_of(number, int(best[i])),
                restart_scores=restart_scores[i].cpu().numpy(),
                restart_similarity=alike[i],
            )
            for i, number in enumerate(numbers)
        ]

    def _best_restarts(self) -> Tensor:
        """The best restart of each place, ``[places]``; the first of those that are equally good."""
        return ranks(self._by_place(self.best_value)[:, : self.restarts]).argmin(dim=1)

    def best_rows(self) -> Tensor:
        """The row of the best restart of each place that is taken, ``[places taken]``."""
        return self._best_rows_of_places()[self.neuron_in_place >= 0]

    def _best_rows_of_places(self) -> Tensor:
        places = torch.arange(len(self.neuron_in_place), device=self.device)
        return places * self._rows_of_place + self._best_restarts()

    def scores(self) -> Tensor:
        """The score of every neuron that has one so far, on any device, as of the last check."""
        return self._scores

    def stimuli_in_computation(self, neurons: Sequence[int]) -> dict[int, Tensor]:
        """Best stimuli so far of those of some neurons that are being computed on any device.

        With several devices, all of them have to call this.
        """
        places = self.neuron_in_place.tolist()
        shown = self.best_stimulus.new_zeros(len(neurons), 1 + self.best_stimulus[0].numel())
        best = self._best_rows_of_places().tolist()
        for i, number in enumerate(neurons):
            if number in places:
                place = places.index(number)
                shown[i, 0] = 1
                shown[i, 1:] = self.best_stimulus[best[place]].flatten()
        shown = self._sum_over_devices(shown)
        return {
            number: row[1:].view(self.best_stimulus.shape[1:])
            for number, row in zip(neurons, shown, strict=True)
            if row[0] > 0
        }

    def _seed_similarities(self, places: Sequence[int]) -> Tensor:
        """How alike the stimuli of each place's seeds are to the best, ``[places]``."""
        rows = self._restart_rows_of(places)
        counts = self.best_score[rows].isfinite() & (self.status[rows] != Status.OUTDONE)
        best = self._best_restarts()[torch.tensor(places, device=self.device)]
        return torch.stack(
            [seed_similarity(self.best_stimulus[own], *which) for own, *which in zip(rows, best, counts, strict=True)]
        )

    # Watching

    def _take_into_metrics(self, places: Sequence[int]) -> None:
        """Count the neurons in some places, which are done."""
        converged = similarity = torch.zeros(0, device=self.device)
        if places:
            best = self._best_restarts()[torch.tensor(places, device=self.device)]
            status = self.status[self._restart_rows_of(places)].gather(1, best[:, None])
            converged, similarity = status == Status.CONVERGED, self._seed_similarities(places)
        self.converged_share.update(converged)
        self.seed_similarity.update(similarity)

    def _note_scores(self) -> None:
        scores = self.best_score[self.best_rows()].tolist()
        numbers = self.neuron_in_place[self.neuron_in_place >= 0].tolist()
        self._score_of.update(zip(numbers, scores, strict=True))

    def _log_population(self) -> None:
        finite = {number: score for number, score in self._score_of.items() if math.isfinite(score)}
        table = torch.zeros(2, len(self.labels), device=self.device)
        if finite:
            numbers = torch.tensor(list(finite), device=self.device)
            table[0, numbers] = torch.tensor(list(finite.values()), device=self.device)
            table[1, numbers] = 1
        table = self._sum_over_devices(table)
        self._scores = table[0, table[1] > 0]
        self._log_scores(self._scores)
        self.log("rows/active", self._rows_active, prog_bar=True)
        self.log("neurons/done", float(self.neurons_done), prog_bar=True)
        minutes = (time.monotonic() - self._started) / 60
        self.log("neurons/per_minute", (self.neurons_done - self._done_at_start) / minutes, prog_bar=True)
        self.log("rows/active_share_of_steps", self.active_share)
        shares = {"converged_share": self.converged_share, "seed_similarity": self.seed_similarity}
        for name, value in {name: metric.compute() for name, metric in shares.items()}.items():
            if value.isfinite():
                self.log(f"neurons/{name}", value)

    @property
    def active_share(self) -> float:
        """The share of this run's row-steps, idle devices' included, that were spent on rows not yet done."""
        return float(self._row_steps_active.sum()) / max(self._row_steps_computed, 1)
