"""Any number of neurons in a bounded number of rows: who is computed where, and when the next one begins."""

import math
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from copy import copy

import torch
import xarray as xr
from torch import Tensor

from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.optimization.found import start_similarities
from mei_lightning.optimization.logs import values_of_scores, values_of_stimuli
from mei_lightning.optimization.metrics import mean_of_known
from mei_lightning.optimization.optimizers import RowOptimizer
from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.search_module import SearchModule
from mei_lightning.optimization.strategies import SHARDED, ShardedStrategy, deal
from mei_lightning.optimization.trainer_options import is_monitored
from mei_lightning.problem import MEIProblem
from mei_lightning.results.configuration import Configuration

_STEPS_TO_LEAVE = 2
"""Steps from one time that rows which are done leave the computation to the next; and steps of a row's own from one
time that it is compared with the others of its neuron to the next."""
_STEPS_BETWEEN_LOGS = 8


class PopulationModule(SearchModule):
    """Streams neurons through the rows that a device has room for.

    A device has slots for neurons. Each has a row for every start of the search, and more for what is made of the best
    stimuli. The search says which rows end before they have converged; rows that are done leave the computation. Once
    all of a neuron is done, its result is complete, and the next neuron takes the slot. Neurons are dealt to the
    devices as slots become free, so that no device waits for another one's stragglers until the last neurons.

    Args:
        problem: what is to be found for which neurons.
        check_interval: steps from one time that results are written and neurons begin to the next (an epoch). Rows that
            are done leave the computation in between.

    Attributes:
        rows: how they stand, a ``SlottedRows``.
        description: coordinates and attributes of the results.
        configuration: all settings that determine the results.
        neurons_done: how many neurons of the run, or of its shard, are done, on all devices and in earlier runs.
        converged_share, seed_similarity: metrics of the neurons that have been done since the run was last started.
    """

    @in_usual_modes
    def __init__(self, problem: MEIProblem, check_interval: int = 4) -> None:
        super().__init__(problem, check_interval)
        self.configuration: Configuration = copy(problem.configuration)
        self.description: xr.Dataset = problem.description.copy()
        self.neurons_done = 0
        self._waiting: list[int] = []
        self._done_before: dict[int, float] = {}
        self._of_others: frozenset[int] = frozenset()
        self._score_of: dict[int, float] = {}
        self._scores = torch.zeros(0)
        self._row_steps_released = 0
        self.converged_share = mean_of_known()
        self.seed_similarity = mean_of_known()

    @property
    def streams(self) -> bool:
        """Whether there are more neurons than slots on all devices together."""
        return self.neurons_asked > len(self.neuron_in_slot) * self.trainer.world_size

    @property
    def neurons_asked(self) -> int:
        """How many neurons the run is to find, or its shard of them, with those that are done."""
        return len(self.labels) - len(self._of_others)

    def leave_out(self, scores: Mapping[int, float], of_others: Collection[int] = ()) -> None:
        """Leave out neurons that are done already, or that are for others to find; before the fit's first step.

        Args:
            scores: the numbers of neurons that are done and their scores.
            of_others: the numbers of those that other shards of the run find.
        """
        self._of_others = frozenset(of_others)
        self._done_before = {number: score for number, score in scores.items() if number not in self._of_others}

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
        numbers, left_out = self.neuron_in_slot.tolist(), self._done_before.keys() | self._of_others
        self._release([slot for slot, number in enumerate(numbers) if number in left_out])
        held: list[int] = self.trainer.strategy.broadcast(self.neuron_in_slot.tolist())
        begun = left_out | set(held)
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
            self.give_up_rows()
        if rows_leave or self.at_check:
            if self._moved_rows:
                self._row_steps_released += self.rows.adopt_moved()
            if self._pairs and self.at_check:
                self.begin_averages()
            if self.problem.shifts and self.at_check:
                self.begin_frame_shifted()
            self._select_active_rows()

    def on_train_epoch_end(self) -> None:
        """Let neurons that are done leave, begin the next ones, log, and stop when none is left on any device."""
        self._note_scores()
        step = self.trainer.global_step
        logs = step // _STEPS_BETWEEN_LOGS > (step - self.check_interval) // _STEPS_BETWEEN_LOGS
        logs |= is_monitored(self.trainer)
        if logs:
            self._log_values(values_of_stimuli(self.best_stimulus[self.best_rows()], self.constraint))
        if self.at_check:
            complete = self.complete_slots()
            self._take_into_metrics(complete)
            self._release(complete)
            if self.problem.shifts:
                self.begin_shifted()
        self._begin_next_neurons()
        if logs or self.trainer.should_stop:
            self._log_population()

    def on_train_end(self) -> None:
        """Score the last iterate of rows that are still active, since it may be the best."""
        self._score_last_iterate()
        self._note_scores()

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
            self.occupy(free[: len(mine)], mine)
        self._select_active_rows()
        # Devices keep step, so each computes as long as the one with the most rows.
        self._row_steps_computed += int(row_steps_in_epoch.max()) * self.trainer.world_size
        steps_in_epoch = (self.trainer.global_step - 1) % self.check_interval + 1
        self._rows_active = int(row_steps_in_epoch.sum()) / steps_in_epoch
        self._row_steps_in_epoch = 0
        in_slots = int(taken.sum()) + sum(map(len, dealt))
        self.neurons_done = self.neurons_asked - len(self._waiting) - in_slots
        if not in_slots and not self._waiting:
            self.trainer.should_stop = True

    def _slots_to_fill(self, free: int) -> int:
        if not self.at_check:
            # A neuron that begins between two checks would be checked after other steps of its own than elsewhere.
            return 0
        # Optimizers that treat all rows together, as L-BFGS does, have to begin with all rows at once.
        one_by_one = isinstance(self._optimizer, RowOptimizer) or not any(self._optimizer.state.values())
        starts = self.rows.starts
        most = max(min(self.most_rows, self._rows_at_a_time.most or self.most_rows), starts)
        room = (most - int(self.active.sum())) // starts
        return min(free, max(room, 0)) if one_by_one or free == len(self.neuron_in_slot) else 0

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
        self.converged_share.update(converged.float())
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
