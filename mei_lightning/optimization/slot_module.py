"""The rows of one device in slots for neurons."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from mei_lightning.acceleration.block_objective import ObjectiveInBlocks
from mei_lightning.acceleration.fast_model import FastModel
from mei_lightning.acceleration.memory import rows_that_fit, rows_with_room
from mei_lightning.acceleration.prepare import Precision, prepare
from mei_lightning.callbacks.cpu_threads import ThreadsForBlocks
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, StimulusFormat
from mei_lightning.objectives import NeuronObjective, Objective
from mei_lightning.optimization.optimizers import RowOptimizer, forgives_rounding
from mei_lightning.optimization.out_of_memory import ObjectiveInParts, RowsAtATime
from mei_lightning.optimization.search import (
    pairs_of_ranks,
)
from mei_lightning.optimization.slotted_rows import SlottedRows
from mei_lightning.optimization.stimulus_module import StimulusModule
from mei_lightning.problem import MEIProblem


class SlotModule(StimulusModule):
    """Computes the neurons of a problem in slots; which rows go on, and who comes next, is for others to say.

    A slot has a row for every start of the search, and more for what is made of the best: copies that are moved in
    time, averages.

    Args:
        problem: what is to be found for which neurons.
        check_interval: steps between two checks (an epoch).

    Attributes:
        rows: how they stand, a ``SlottedRows``.
        most_rows: how many are computed at a time at most, once the trainer has set the module up.
    """

    rows: SlottedRows
    most_rows: int

    @in_usual_modes
    def __init__(self, problem: MEIProblem, check_interval: int) -> None:
        settings, search = problem.settings, problem.search
        if settings.rows_per_device is not None and settings.rows_per_device < search.starts:
            raise InvalidValueError(
                f"rows_per_device={settings.rows_per_device} has no room for a neuron with restarts={search.starts}: "
                "its rows are computed together."
            )
        # In a tuple, so that the model is not registered as a part of this module.
        self._problem_in_tuple = (problem,)
        self._prepared_in_tuple = (problem.objective,)
        self._pairs = pairs_of_ranks(search.starts, search.averages)
        self._moved_rows = max(len(problem.shifts), len(problem.frame_shifts), len(self._pairs))
        super().__init__(
            problem.objective,
            self._initial_rows(0),
            constraint=problem.space.constraint,
            regularizer=settings.regularizer,
            optimizer=settings.optimizer,
            gradient_filter=settings.gradient_filter,
            parameterization=problem.space.parameterization,
            robustness=settings.robustness,
            max_steps=search.max_steps,
            check_interval=check_interval,
        )
        self._rows_at_a_time = RowsAtATime()

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

    # Slots

    def _row_state(self, stimulus: Tensor) -> SlottedRows:
        starts = self.problem.search.starts
        return SlottedRows(stimulus, starts, starts + self._moved_rows)

    def _initial_rows(self, number: int) -> Tensor:
        """The initial stimuli of a neuron, and anything for the rows of what is made of them."""
        stimulus = self.problem.starts(number)
        return torch.cat([stimulus, *[stimulus[:1]] * self._moved_rows])

    @in_usual_modes
    def configure_model(self) -> None:
        """Prepare the model, and make as many slots as the device has room for, unless slots are taken already."""
        device, settings, search = self.trainer.strategy.root_device, self.problem.settings, self.problem.search
        parameters, first = self.space.initial_parameters(self._initial_rows(0))
        model = self.objective.model
        optimizer = self.optimizer_factory([self.stimulus])
        if settings.fast_path and forgives_rounding(optimizer) and isinstance(model, RetinaModel):
            precision: Precision = "float32" if settings.fast_path is True else settings.fast_path
            self._prepared_in_tuple = (self.objective.on(prepare(model, first.shape, device, precision=precision)),)
        self.most_rows = max(self._rows_for(device, first[:1]), search.starts)
        if (self.neuron_in_slot >= 0).any():
            return
        # More slots than are filled at first: those whose rows go on leave room for others.
        enough = math.ceil(len(self.labels) / self.trainer.world_size)
        slots = min(self.most_rows // search.keep, enough)
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
        # Older checkpoints know of no averages.
        whole = {"generations": self.rows.generations, **state_dict}
        return super().load_state_dict(whole, strict=strict, assign=assign)

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
        # Rows of what is made of the starts come after them in their slot.
        numbers = [row % self.rows.size for row in rows]
        seed_of = self.problem.starts.seed_of
        return [seed_of(neuron, number) for neuron, number in zip(self._neurons_of(rows), numbers, strict=True)]

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    @torch.no_grad()
    def occupy(self, slots: Sequence[int], neurons: Sequence[int]) -> None:
        """Let neurons begin in free slots."""
        rows = self.rows.starts_of(slots).flatten()
        self._begin_rows(rows, torch.cat([self.problem.starts(number) for number in neurons]).to(self.stimulus))
        self.rows.occupy(slots, neurons)

    def _begin_rows(self, rows: Tensor, stimulus: Tensor, near: Tensor | None = None) -> None:
        if not len(rows):
            return
        self._selection_is_old = True
        self.stimulus[rows], feasible = self.space.initial_parameters(stimulus)
        self.rows.begin(rows, feasible)
        if isinstance(self._optimizer, RowOptimizer):
            self._optimizer.begin_anew(rows, near)
        else:
            self._optimizer.state.clear()

    def best_rows(self) -> Tensor:
        """The row of the best start of each slot that is taken, ``[slots taken]``."""
        return self.rows.best_rows()[self.neuron_in_slot >= 0]
