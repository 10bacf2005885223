"""Rows in slots: which neuron is in each, and which of its rows is the best."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.optimization.row_state import RowState, Status
from mei_lightning.optimization.search import EQUAL, SearchRows, ranks, tie_broken


class SlottedRows(RowState):
    """Rows that belong to neurons, in slots of the same size: first the starts, then what is made of the best of them.

    That are copies moved in time, or averages; what is found from these belongs to the best start.

    Args:
        stimulus: where the rows begin, ``[rows, channels, time, height, width]``.
        starts: the number of starts in each slot.
        size: rows of each slot.

    Attributes:
        neuron_in_slot: the number of the neuron in each slot, ``[slots]``, -1 for none.
        shifted: slots ``[slots]`` whose best stimulus has been shifted.
        frame_shifted: slots ``[slots]`` whose best stimulus has been moved by frames at last.
        generations: how many times averages of the best stimuli have begun, ``[slots]``.
    """

    neuron_in_slot: Tensor
    shifted: Tensor
    frame_shifted: Tensor
    generations: Tensor

    def __init__(self, stimulus: Tensor, starts: int, size: int) -> None:
        super().__init__(stimulus)
        self.starts = starts
        self.size = size
        self.status.fill_(int(Status.EMPTY))
        slots = len(stimulus) // size
        self.register_buffer("neuron_in_slot", torch.full((slots,), -1, device=stimulus.device))
        for done_once in ("shifted", "frame_shifted"):
            self.register_buffer(done_once, torch.zeros(slots, dtype=torch.bool, device=stimulus.device))
        self.register_buffer("generations", torch.zeros(slots, dtype=torch.int32, device=stimulus.device))

    def by_slot(self, values: Tensor) -> Tensor:
        """Values of all rows as ``[slots, rows of a slot]``."""
        return values.view(-1, self.size)

    @property
    def numbers(self) -> Tensor:
        """The numbers of all rows, ``[slots, rows of a slot]``."""
        return self.by_slot(torch.arange(len(self), device=self.status.device))

    @property
    def values(self) -> Tensor:
        """The best values of all rows, ``[slots, rows of a slot]``, minus infinity for those that are empty."""
        return self.by_slot(self.best_value.masked_fill(self.status == Status.EMPTY, -torch.inf))

    @property
    def at_rest(self) -> Tensor:
        """Slots ``[slots]`` with a neuron of which no row is being optimised."""
        return (self.neuron_in_slot >= 0) & ~self.by_slot(self.active).any(dim=1)

    def for_search(self) -> SearchRows:
        """What a search policy sees of the rows."""
        return SearchRows(self.values, self.by_slot(self.steps), self.by_slot(self.active), self.frame_shifted)

    def rows_of(self, slots: Sequence[int]) -> Tensor:
        """The numbers of the rows in some slots, ``[len(slots), rows of a slot]``."""
        return self.numbers[list(slots)]

    def starts_of(self, slots: Sequence[int]) -> Tensor:
        """The numbers of the starts in some slots, ``[len(slots), starts]``."""
        return self.rows_of(slots)[:, : self.starts]

    def best_starts(self) -> Tensor:
        """The best start of each slot, ``[slots]``; the first of those that are equally good and not given up."""
        values = torch.where(
            self.given_up, self.best_value - self.starts * EQUAL * self.best_value.abs(), self.best_value
        )
        return ranks(self.by_slot(values)[:, : self.starts]).argmin(dim=1)

    @property
    def given_up(self) -> Tensor:
        """Rows ``[rows]`` that the search has given up."""
        return (self.status == Status.PRUNED) | (self.status == Status.DUPLICATE)

    def best_rows(self) -> Tensor:
        """The row of the best start of each slot, ``[slots]``."""
        return torch.arange(len(self.neuron_in_slot), device=self.status.device) * self.size + self.best_starts()

    def occupy(self, slots: Sequence[int], neurons: Sequence[int]) -> None:
        """Put neurons into free slots, whose starts have begun."""
        self.neuron_in_slot[self._numbers(slots)] = self._numbers(neurons)
        for done in (self.shifted, self.frame_shifted, self.generations):
            done[list(slots)] = 0
        self.by_slot(self.status)[list(slots), self.starts :] = int(Status.EMPTY)

    def release(self, slots: Sequence[int]) -> int:
        """Make slots free; returns the steps that their rows had taken."""
        if not slots:
            return 0
        rows = self.rows_of(slots).flatten()
        steps = int(self.steps[rows].sum())
        self.neuron_in_slot[self._numbers(slots)] = -1
        self.status[rows] = int(Status.EMPTY)
        self.steps[rows] = 0
        return steps

    @property
    def only_starts(self) -> Tensor:
        """Slots ``[slots]`` in which there is nothing but starts, since the rest has been adopted, or has not begun."""
        return (self.by_slot(self.status)[:, self.starts :] == Status.EMPTY).all(dim=1)

    def ranked_starts(self) -> Tensor:
        """The numbers of the rows of each slot's starts, ``[slots, starts]``, the best first."""
        return self.numbers[:, : self.starts].gather(1, ranks(self.values[:, : self.starts]).argsort(dim=1))

    def adopt_moved(self) -> int:
        """Give what moved copies, or averages, have become, if that is better, to the best start.

        Returns:
            The steps of copies that led nowhere.
        """
        moved = self.numbers[:, self.starts :]
        done = self.at_rest & (self.status[moved] != Status.EMPTY).any(dim=1)
        moved, best = moved[done], self.best_rows()[done]
        # One that was given up ended for being no better than another row, or hardly.
        values = self.values.flatten()[moved].masked_fill(self.given_up[moved], -torch.inf)
        values, winner = tie_broken(values).max(dim=1)
        winner = moved.gather(1, winner[:, None]).flatten()
        gain = values.isfinite() & (
            self.best_value[winner] > self.best_value[best] + EQUAL * self.best_value[best].abs()
        )
        for values in (self.best_stimulus, self.best_score, self.best_value, self.status):
            values[best[gain]] = values[winner[gain]]
        steps = int(self.steps.sum())
        self.steps[best[gain]] += self.steps[winner[gain]]
        self.status[moved] = int(Status.EMPTY)
        self.steps[moved] = 0
        return steps - int(self.steps.sum())

    def _numbers(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, device=self.status.device)
