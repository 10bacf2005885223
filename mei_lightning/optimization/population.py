"""Any number of neurons in a bounded number of rows: who is computed where, and when the next one begins."""

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.blocks import for_few_rows
from mei_lightning.acceleration.memory import rows_that_fit, rows_with_room
from mei_lightning.acceleration.prepare import FastModel, Precision, prepare
from mei_lightning.acceleration.row_arithmetic import cosines
from mei_lightning.callbacks.cpu_threads import ThreadsForBlocks
from mei_lightning.devices import made_on_cpu
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.objectives import NeuronObjective, Objective
from mei_lightning.optimization.found import results_of, start_similarities
from mei_lightning.optimization.logs import values_of_scores, values_of_stimuli
from mei_lightning.optimization.metrics import ConvergedShare, SeedSimilarity
from mei_lightning.optimization.optimizers import RowOptimizer, forgives_rounding
from mei_lightning.optimization.out_of_memory import ObjectiveInParts, RowsAtATime
from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.search import better_rows, nearly_as_good
from mei_lightning.optimization.slotted_rows import SlottedRows
from mei_lightning.optimization.stimulus_module import StimulusModule
from mei_lightning.optimization.strategies import SHARDED, ShardedStrategy, deal
from mei_lightning.problem import MEIProblem
from mei_lightning.results.store import MEIResult

_STEPS_TO_LEAVE = 2
"""Steps from one time that rows which are done leave the computation to the next; and steps of a row's own from one
time that it is compared with the others of its neuron to the next."""
_STEPS_BETWEEN_LOGS = 8


class PopulationModule(StimulusModule):
    """Streams neurons through the rows that a device has room for.

    A device has slots for neurons. Each has a row for every start of the search, and for every copy of the best
    stimulus that is moved in time. The search says which rows end before they have converged; rows that are done leave
    the computation. Once all of a neuron is done, its result is complete, and the next neuron takes the slot. Neurons
    are dealt to the devices as slots become free, so that no device waits for another one's stragglers until the last
    neurons.

    Args:
        problem: what is to be found for which neurons.
        check_interval: steps from one time that results are written and neurons begin to the next (an epoch). Rows that
            are done leave the computation in between.

    Attributes:
        rows: how they stand, a ``SlottedRows``.
        description: coordinates and attributes of the results.
        configuration: all settings that determine the results.
        neurons_done: how many neurons of the run are done, on all devices and in earlier runs.
        converged_share, seed_similarity: metrics of the neurons that have been done since the run was last started.
    """

    rows: SlottedRows

    @made_on_cpu
    def __init__(self, problem: MEIProblem, check_interval: int = 4) -> None:
        settings, search = problem.settings, problem.search
        if settings.rows_per_device is not None and settings.rows_per_device < search.starts:
            raise InvalidValueError(
                f"rows_per_device={settings.rows_per_device} has no room for a neuron with restarts={search.starts}: "
                "its rows are computed together."
            )
        # In a tuple, so that the model is not registered as a part of this module.
        self._problem_in_tuple = (problem,)
        self._prepared_in_tuple = (problem.objective,)
        self._moved_rows = max(len(problem.shifts), len(problem.frame_shifts))
        super().__init__(
            problem.objective,
            self._initial_rows(0),
            constraint=problem.space.constraint,
            regularizer=settings.regularizer,
            optimizer=settings.optimizer,
            parameterization=problem.space.parameterization,
            robustness=settings.robustness,
            max_steps=search.max_steps,
            check_interval=check_interval,
        )
        self.configuration: dict[str, Any] = dict(problem.configuration)
        self.description: xr.Dataset = problem.description
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
    def problem(self) -> MEIProblem:
        """What is to be found for which neurons."""
        return self._problem_in_tuple[0]

    @property
    def objective(self) -> NeuronObjective:
        """The neurons, one for each row, on the frozen model."""
        return self.problem.objective

    @property
    def prepared_objective(self) -> NeuronObjective:
        """The same, on a copy of the model that is prepared to be faster, if there is one."""
        return self._prepared_in_tuple[0]

    @property
    def labels(self) -> list[str]:
        """What the neurons are called."""
        return self.problem.labels

    @property
    def stimulus_format(self) -> StimulusFormat:
        """The physical facts of the model's stimulus."""
        return self.problem.model.stimulus_format

    @property
    def neuron_in_slot(self) -> Tensor:
        """The number of the neuron in each slot of this device, ``[slots]``, -1 for none."""
        return self.rows.neuron_in_slot

    @property
    def streams(self) -> bool:
        """Whether there are more neurons than slots on all devices together."""
        return len(self.labels) > len(self.neuron_in_slot) * self.trainer.world_size

    def leave_out(self, scores: Mapping[int, float]) -> None:
        """Leave out neurons that are done already; before the fit's first step.

        Args:
            scores: the numbers of these neurons and their scores.
        """
        self._done_before = dict(scores)

    # Slots

    def _row_state(self, stimulus: Tensor) -> SlottedRows:
        starts = self.problem.search.starts
        return SlottedRows(stimulus, starts, starts + self._moved_rows)

    def _initial_rows(self, number: int) -> Tensor:
        """The initial stimuli of a neuron, and anything for the rows of stimuli moved in time."""
        stimulus = self.problem.starts(number)
        return torch.cat([stimulus, *[stimulus[:1]] * self._moved_rows])

    @made_on_cpu
    def configure_model(self) -> None:
        """Prepare the model, and make as many slots as the device has room for, unless slots are taken already."""
        device, settings, search = self.trainer.strategy.root_device, self.problem.settings, self.problem.search
        parameters, first = self.space.initial_parameters(self._initial_rows(0))
        model = self.objective.model
        optimizer = self.optimizer_factory([self.stimulus])
        if settings.fast_path and forgives_rounding(optimizer) and isinstance(model, RetinaModel):
            precision: Precision = "float32" if settings.fast_path is True else settings.fast_path
            self._prepared_in_tuple = (self.objective.on(prepare(model, first.shape, device, precision=precision)),)
        self._most_rows = max(self._rows_for(device, first[:1]), search.starts)
        if (self.neuron_in_slot >= 0).any():
            return
        # More slots than are filled at first: those whose rows go on leave room for others.
        enough = math.ceil(len(self.labels) / self.trainer.world_size)
        slots = min(self._most_rows // search.keep, enough)
        self._make_rows(torch.cat([parameters] * slots), torch.cat([first] * slots))

    def _rows_for(self, device: torch.device, row: Tensor) -> int:
        """How many rows like this one to compute at a time."""
        wanted = self.problem.settings.rows_per_device
        if wanted is None:
            sharing = getattr(self.trainer.strategy, "num_processes", 1) if device.type == "cpu" else 1
            in_blocks = device.type == "cpu" and self._is_understood()
            return rows_that_fit(self.prepared_objective, row.to(device), device, sharing, in_blocks)
        if device.type == "cpu" or (room := rows_with_room(row, device)) >= wanted:
            return wanted
        rank_zero_warn(
            f"rows_per_device={wanted}: the memory of {device} has room for the stimuli of {room} rows, "
            "and so many are computed at a time."
        )
        return room

    def configure_callbacks(self) -> list[Callback]:
        """As in ``StimulusModule``; and the threads of a CPU are for the model, if that is prepared."""
        return [*super().configure_callbacks(), ThreadsForBlocks(self._computes_in_blocks)]

    def _computes_in_blocks(self) -> bool:
        return self.device.type == "cpu" and self._is_understood()

    def _is_understood(self) -> bool:
        model = self.prepared_objective.model
        return isinstance(model, FastModel) and model.computes_in_blocks

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the slots and the rows in them, however many they were."""
        held = {"stimulus": self.stimulus.detach(), "best_stimulus": self.best_stimulus, **state_dict}
        self._make_rows(torch.empty_like(held["stimulus"]), torch.empty_like(held["best_stimulus"]))
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _objective_of(self, rows: Sequence[int], objective: Objective | None = None) -> Objective:
        if not rows:
            return self.objective
        prepared = self.prepared_objective if objective is None else objective
        assert isinstance(prepared, NeuronObjective)
        neurons = self._neurons_of(rows)
        if self._computes_in_blocks():
            return ObjectiveInBlocks(prepared, neurons)
        if self.device.type == "cpu":
            return prepared.for_rows(neurons)
        return ObjectiveInParts(prepared, neurons, self._rows_at_a_time)

    def _neurons_of(self, rows: Sequence[int]) -> list[int]:
        neurons = self.neuron_in_slot.tolist()
        return [neurons[row // self.rows.size] for row in rows]

    def _seeds_of(self, rows: Sequence[int]) -> list[int]:
        # Rows of stimuli moved in time come after the starts in their slot.
        numbers = [row % self.rows.size for row in rows]
        seed_of = self.problem.starts.seed_of
        return [seed_of(neuron, number) for neuron, number in zip(self._neurons_of(rows), numbers, strict=True)]

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
            self._release(range(len(self.neuron_in_slot)))
        numbers = self.neuron_in_slot.tolist()
        self._release([slot for slot, number in enumerate(numbers) if number in self._done_before])
        held: list[int] = self.trainer.strategy.broadcast(self.neuron_in_slot.tolist())
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
        """As in ``StimulusModule``; rows that the search gives up end; rows that are done go."""
        # Before rows at the step limit are scored alone.
        self._row_steps_in_epoch += self.rows_in_computation
        super().on_train_batch_end(outputs, batch, batch_idx)
        rows_leave = self.trainer.global_step % _STEPS_TO_LEAVE == 0
        # Rows begin at checks: where the interval is a multiple of these steps, none is due in between.
        if rows_leave or self.check_interval % _STEPS_TO_LEAVE:
            given_up, joined = self.problem.search.ended(self.rows.for_search(), self._meet_better_rows)
            self.retire(joined.flatten(), Status.JOINED)
            self.retire(given_up.flatten(), Status.OUTDONE)
        if rows_leave or self.at_check:
            if self._moved_rows:
                self._row_steps_released += self.rows.adopt_moved()
            if self._moved_rows and self.at_check:
                self._begin_frame_shifted()
            self._select_active_rows()

    def on_train_epoch_end(self) -> None:
        """Let neurons that are done leave, begin the next ones, log, and stop when none is left on any device."""
        self._note_scores()
        step = self.trainer.global_step
        logs = step // _STEPS_BETWEEN_LOGS > (step - self.check_interval) // _STEPS_BETWEEN_LOGS
        if logs:
            self._log_values(values_of_stimuli(self.best_stimulus[self.best_rows()], self.constraint))
        if self.at_check:
            complete = self.complete_slots()
            self._take_into_metrics(complete)
            self._release(complete)
            self._begin_shifted()
        self._begin_next_neurons()
        if logs or self.trainer.should_stop:
            self._log_population()

    def on_train_end(self) -> None:
        """Score the last iterate of rows that are still active, since it may be the best."""
        self._score_last_iterate()
        self._note_scores()

    def complete_slots(self) -> list[int]:
        """Slots whose neuron has nothing left to optimise."""
        return self._complete.nonzero().flatten().tolist()

    def unfinished_slots(self) -> list[int]:
        """Slots whose neuron is still being optimised."""
        return ((self.neuron_in_slot >= 0) & ~self._complete).nonzero().flatten().tolist()

    @property
    def _complete(self) -> Tensor:
        return self.rows.at_rest & (self.rows.frame_shifted | (not self._moved_rows))

    def _release(self, slots: Sequence[int]) -> None:
        self._row_steps_released += self.rows.release(slots)

    def _begin_next_neurons(self) -> None:
        free = (self.neuron_in_slot < 0).nonzero().flatten().tolist()
        row_steps = self._row_steps_released + int(self.steps.sum())
        taken_here = len(self.neuron_in_slot) - len(free)
        facts = self._gather([self._slots_to_fill(len(free)), taken_here, self._row_steps_in_epoch, row_steps])
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
        in_slots = int(taken.sum()) + sum(map(len, dealt))
        self.neurons_done = len(self.labels) - len(self._waiting) - in_slots
        if not in_slots and not self._waiting:
            self.trainer.should_stop = True

    def _slots_to_fill(self, free: int) -> int:
        if not self.at_check:
            # A neuron that begins between two checks would be checked after other steps of its own than elsewhere.
            return 0
        # Optimizers that count steps for all rows together, as Adam does, have to begin with all rows at once.
        one_by_one = isinstance(self._optimizer, RowOptimizer) or not any(self._optimizer.state.values())
        starts = self.rows.starts
        most = max(min(self._most_rows, self._rows_at_a_time.most or self._most_rows), starts)
        room = (most - int(self.active.sum())) // starts
        return min(free, max(room, 0)) if one_by_one or free == len(self.neuron_in_slot) else 0

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    @torch.no_grad()
    def _occupy(self, slots: Sequence[int], neurons: Sequence[int]) -> None:
        rows = self.rows.starts_of(slots).flatten()
        self._begin_rows(rows, torch.cat([self.problem.starts(number) for number in neurons]).to(self.stimulus))
        self.rows.occupy(slots, neurons)

    def _begin_rows(self, rows: Tensor, stimulus: Tensor) -> None:
        if not len(rows):
            return
        self._selection_is_old = True
        feasible = torch.empty_like(stimulus)

        def begin(part: slice) -> None:
            self.stimulus[rows[part]], feasible[part] = self.space.initial_parameters(stimulus[part])

        for_few_rows(begin, len(rows), self.device)
        self.rows.begin(rows, feasible)
        if isinstance(self._optimizer, RowOptimizer):
            self._optimizer.begin_anew(rows)
        else:
            self._optimizer.state.clear()

    # Stimuli moved in time

    @torch.no_grad()
    def _begin_shifted(self) -> None:
        """Optimise the best stimulus of each neuron after the trial once more, shifted in time."""
        if not self._moved_rows:
            return
        tried = self.problem.search.tried(self.rows.by_slot(self.steps))
        begins = (self.neuron_in_slot >= 0) & ~self.rows.shifted & (tried | self.rows.at_rest)
        self.rows.shifted |= begins
        best = self.rows.best_rows()
        # Where no row has a value there is nothing to begin from.
        slots = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        for number, frames in enumerate(self.problem.shifts):
            rows = slots * self.rows.size + self.rows.starts + number
            self._begin_rows(rows, self.best_stimulus[best[slots]].roll(frames, dims=2))

    @torch.no_grad()
    def _begin_frame_shifted(self) -> None:
        """Optimise the best stimulus of each neuron from a frame earlier and later, if it is nearly as good there."""
        begins = self.rows.at_rest & self.rows.shifted & ~self.rows.frame_shifted
        self.rows.frame_shifted |= begins
        best = self.rows.best_rows()
        slots = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        moves = self.problem.frame_shifts
        if not len(slots) or not moves:
            return
        own, best = self.best_stimulus[best[slots]], self.best_value[best[slots]]
        rows = torch.cat([slots * self.rows.size + self.rows.starts + number for number in range(len(moves))])
        stimulus = torch.cat([own.roll(frames, dims=2) for frames in moves])
        _, feasible = self.space.initial_parameters(stimulus)
        _, values = self._evaluate(feasible, self._objective_of(rows.tolist()).to(self.device))
        good = nearly_as_good(values, best.repeat(len(moves)))
        self._begin_rows(rows[good], stimulus[good])

    def _meet_better_rows(self, which: Tensor, similarity: Tensor) -> Tensor:
        """Rows ``[slots, rows]``, of some, that have come to where a better row of the same neuron is."""
        own, better = better_rows(self.rows.values, which)
        alike = self.best_stimulus.new_empty(len(own))

        def compare(part: slice) -> None:
            here = self.space.stimuli(self.stimulus.detach().index_select(0, own[part]))
            alike[part] = cosines(here, self.best_stimulus.index_select(0, better[part]))

        if len(own):
            for_few_rows(compare, len(own), self.device)
        joins = torch.zeros_like(self.active)
        joins[own[alike > similarity[own % self.rows.size]]] = True
        return self.rows.by_slot(joins)

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

    def results(self, slots: Sequence[int]) -> list[MEIResult]:
        """The neurons in some slots: the best of each one's rows, and how alike they are."""
        return results_of(self.rows, slots, self.problem, self._complete, self._rows_at_a_time)

    def best_rows(self) -> Tensor:
        """The row of the best start of each slot that is taken, ``[slots taken]``."""
        return self.rows.best_rows()[self.neuron_in_slot >= 0]

    def scores(self) -> Tensor:
        """The score of every neuron that has one so far, on any device, as of the last check."""
        return self._scores

    def stimuli_in_computation(self, neurons: Sequence[int]) -> dict[int, Tensor]:
        """Best stimuli so far of those of some neurons that are being computed on any device.

        With several devices, all of them have to call this.
        """
        held = self.neuron_in_slot.tolist()
        shown = self.best_stimulus.new_zeros(len(neurons), 1 + self.best_stimulus[0].numel())
        best = self.rows.best_rows().tolist()
        for i, number in enumerate(neurons):
            if number in held:
                shown[i, 0] = 1
                shown[i, 1:] = self.best_stimulus[best[held.index(number)]].flatten()
        shown = self._sum_over_devices(shown)
        return {
            number: row[1:].view(self.best_stimulus.shape[1:])
            for number, row in zip(neurons, shown, strict=True)
            if row[0] > 0
        }

    # Watching

    def _take_into_metrics(self, slots: Sequence[int]) -> None:
        """Count the neurons in some slots, which are done."""
        converged = similarity = torch.zeros(0, device=self.device)
        if slots:
            best = self.rows.best_starts()[torch.tensor(slots, device=self.device)]
            status = self.status[self.rows.starts_of(slots)].gather(1, best[:, None])
            converged, similarity = status == Status.CONVERGED, start_similarities(self.rows, slots)
        self.converged_share.update(converged)
        self.seed_similarity.update(similarity)

    def _note_scores(self) -> None:
        scores = self.best_score[self.best_rows()].tolist()
        numbers = self.neuron_in_slot[self.neuron_in_slot >= 0].tolist()
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
        self._log_values(values_of_scores(self._scores))
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
