"""How the search goes on in the slots of one device: which rows end early, and what begins from the best stimuli."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.acceleration.row_arithmetic import cosines, fill_rows
from mei_lightning.optimization.found import results_of
from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.search import better_rows, check_masks, nearly_as_good, worth_averaging
from mei_lightning.optimization.slot_module import SlotModule
from mei_lightning.results.store import MEIResult


class SearchModule(SlotModule):
    """Lets rows of the neurons in slots end and begin as the search says; arguments as for ``SlotModule``."""

    # What is done

    def complete_slots(self) -> list[int]:
        """Slots whose neuron has nothing left to optimise."""
        return self._complete.nonzero().flatten().tolist()

    def unfinished_slots(self) -> list[int]:
        """Slots whose neuron is still being optimised."""
        return ((self.neuron_in_slot >= 0) & ~self._complete).nonzero().flatten().tolist()

    @property
    def _complete(self) -> Tensor:
        # At any moment, for an interrupt does not wait for a check: what is made of starts counts once it is adopted.
        return self._shifts_are_done & self._averages_are_done & (self.rows.frame_shifted | (not self.problem.shifts))

    @property
    def _shifts_are_done(self) -> Tensor:
        """Slots at rest in which nothing is left of the copies that are moved by shares of the duration."""
        return self.rows.at_rest & self.rows.only_starts & (self.rows.shifted | (not self.problem.shifts))

    @property
    def _averages_are_done(self) -> Tensor:
        return self.rows.generations > (self.problem.search.generations if self._pairs else -1)

    def give_up_rows(self) -> None:
        """End rows that the search gives up."""
        rows = self.rows.for_search()
        pruned, duplicate = self.problem.search.ended(rows, self._meet_better_rows)
        check_masks(self.problem.search, (pruned, duplicate), rows.active)
        self.retire(duplicate.flatten(), Status.DUPLICATE)
        self.retire(pruned.flatten(), Status.PRUNED)

    # Stimuli moved in time

    @torch.no_grad()
    def begin_shifted(self) -> None:
        """Optimise the best stimulus of each neuron after the trial once more, shifted in time."""
        tried = self.problem.search.tried(self.rows.by_slot(self.steps))
        begins = (self.neuron_in_slot >= 0) & ~self.rows.shifted & (tried | self.rows.at_rest)
        self.rows.shifted |= begins
        best = self.rows.best_rows()
        # Where no row has a value there is nothing to begin from.
        slots = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        for number, frames in enumerate(self.problem.shifts):
            rows = slots * self.rows.size + self.rows.starts + number
            self._begin_rows(rows, self.best_stimulus[best[slots]].roll(frames, dims=2))

    # Averages

    @torch.no_grad()
    def begin_averages(self) -> None:
        """Optimise averages of two of each neuron's best stimuli, where these differ, and at last the best again."""
        begins = self._shifts_are_done
        if not self.problem.shifts:
            begins = begins | (self.problem.search.tried(self.rows.by_slot(self.steps)) & (self.rows.generations == 0))
        begins = begins & (self.neuron_in_slot >= 0) & ~self._averages_are_done
        last = begins & (self.rows.generations == self.problem.search.generations)
        self.rows.generations += begins
        if len(slots := (begins & ~last).nonzero().flatten()):
            self._begin_averages_in(slots)
        if len(slots := last.nonzero().flatten()):
            best = self.rows.ranked_starts()[slots, 0]
            self._begin_rows(slots * self.rows.size + self.rows.starts, self.best_stimulus[best], best)

    def _begin_averages_in(self, slots: Tensor) -> None:
        ranked = self.rows.ranked_starts()[slots]
        begun = torch.zeros_like(slots, dtype=torch.bool)
        for number, (better, worse) in enumerate(self._pairs):
            near, other = ranked[:, better], ranked[:, worse]
            one, another = self.best_stimulus[near], self.best_stimulus[other]
            known = self.best_value[near].isfinite() & self.best_value[other].isfinite()
            differ = known & worth_averaging(cosines(one, another))
            rows = slots[differ] * self.rows.size + self.rows.starts + number
            self._begin_rows(rows, one[differ] + another[differ], near[differ])
            begun |= differ
        # Where stimuli are alike they stay so, and nothing is left to find.
        self.rows.generations[slots[~begun]] = self.problem.search.generations + 1

    @torch.no_grad()
    def begin_frame_shifted(self) -> None:
        """Optimise the best stimulus of each neuron from a frame earlier and later, if it is nearly as good there."""
        begins = self._shifts_are_done & self._averages_are_done & self.rows.shifted & ~self.rows.frame_shifted
        best = self.rows.best_rows()
        slots = (begins & self.best_value[best].isfinite()).nonzero().flatten()
        if len(slots) and self.problem.frame_shifts:
            self._begin_from_frame_shifted(slots, best)
        # Last: a run that is interrupted before has not tried them.
        self.rows.frame_shifted |= begins

    def _begin_from_frame_shifted(self, slots: Tensor, best: Tensor) -> None:
        moves = self.problem.frame_shifts
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

        def compare(part: slice) -> Tensor:
            here = self.space.stimuli(self.stimulus.detach().index_select(0, own[part]))
            return cosines(here, self.best_stimulus.index_select(0, better[part]))

        met = torch.zeros_like(self.steps)
        if len(own):
            meets = fill_rows(self.best_stimulus.new_empty(len(own)), compare) > similarity[own % self.rows.size]
            met.index_add_(0, own, meets.to(met.dtype))
        return self.rows.by_slot(met > 0)

    def results(self, slots: Sequence[int]) -> list[MEIResult]:
        """The neurons in some slots: the best of each one's rows, and how alike they are."""
        return results_of(self.rows, slots, self.problem, self._complete, self._rows_at_a_time)
