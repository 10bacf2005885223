"""Scores of many rows, with their gradient, in blocks of rows that share nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mei_lightning.acceleration.blocks import (
    ROWS_FIRST,
    ROWS_LAST,
    ROWS_PER_BLOCK,
    map_row_chunks,
    on_one_thread_each,
    sizes_of_blocks,
)
from mei_lightning.acceleration.fast_model import FastModel
from mei_lightning.acceleration.row_arithmetic import per_row
from mei_lightning.objectives import NeuronObjective, Objective


@dataclass(frozen=True)
class _Block:
    """Some rows of a batch.

    Args:
        places: of the rows in the batch, to index with; a slice where they are one after the other.
        count: how many they are.
        size: how many rows there are when the last one has filled the block up.
        objective: of all these.
    """

    places: slice | list[int]
    count: int
    size: int
    objective: Objective


class ObjectiveInBlocks(Objective):
    """An objective whose rows a CPU computes in blocks, each from stimulus to gradient on one thread.

    The gradient is computed along with the scores, so that what a block keeps for it never leaves the caches, and
    memory does not grow with the number of rows. It is that of minus their sum, for which a loss asks; to weigh scores
    otherwise takes one more pass over the stimuli. A row's result is the same to the last bit whatever rows there are.

    Args:
        objective: of all rows.
        rows: which of them, in the order of the stimuli.
    """

    def __init__(self, objective: NeuronObjective, rows: Sequence[int]) -> None:
        super().__init__()
        # Rounding varies with the size of what is computed together: the last row fills a block up, and groups of
        # neurons share one only with groups of the same size.
        places_of_sizes: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            places_of_sizes.setdefault(len(objective.groups[row]), []).append(place)
        model = objective.model
        smallest = model.smallest_block if isinstance(model, FastModel) else ROWS_PER_BLOCK
        self._blocks: list[_Block] = []
        for places in places_of_sizes.values():
            start = 0
            for size in sizes_of_blocks(len(places), smallest):
                own = places[start : start + size]
                filled = [*own, *[own[-1]] * (size - len(own))]
                of_block = objective.for_rows([rows[place] for place in filled])
                self._blocks.append(_Block(_as_slice(own), len(own), size, of_block))
                start += size

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        scores: Tensor = _Scores.apply(stimulus, self._blocks)
        return scores


def _as_slice(places: list[int]) -> slice | list[int]:
    """Places as a slice, with which nothing is copied, if they are one after the other."""
    first, last = places[0], places[-1]
    return slice(first, last + 1) if places == list(range(first, last + 1)) else places


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stimulus: Tensor, blocks: Sequence[_Block]) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(stimulus) if needs_gradient else None
        scores = stimulus.new_empty(len(stimulus))

        def compute(block: _Block) -> None:
            places, count = block.places, block.count
            # As prepared cores take stimuli, and return their gradients.
            shown = stimulus[places].permute(ROWS_LAST)
            own = stimulus.new_empty(*shown.shape[:-1], block.size)
            own[..., :count] = shown
            own[..., count:] = own[..., count - 1 : count]
            own.requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                own_scores = block.objective(own.permute(ROWS_FIRST))
                if gradient is not None:
                    own_scores.sum().neg().backward()
                    assert own.grad is not None
                    gradient[places] = own.grad[..., :count].permute(ROWS_FIRST)
            scores[places] = own_scores.detach()[:count].to(scores.dtype)

        on_one_thread_each(compute, blocks)
        ctx.gradient = gradient
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_scores: Tensor) -> tuple[Tensor, None]:
        # Not kept for another time, so that it can be weighed where it is.
        gradient, ctx.gradient = ctx.gradient, None
        weights = -gradient_of_scores

        def weigh(rows: slice) -> None:
            gradient[rows].mul_(per_row(weights[rows], gradient))

        if not (weights == 1).all():
            map_row_chunks(weigh, len(gradient), gradient.device)
        return gradient, None
