"""What was found for the neurons in some slots."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mei_lightning.acceleration.blocks import all_threads
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.optimization.metrics import seed_similarity
from mei_lightning.optimization.out_of_memory import RowsAtATime
from mei_lightning.optimization.row_state import Status
from mei_lightning.optimization.slotted_rows import SlottedRows
from mei_lightning.problem import MEIProblem
from mei_lightning.results.store import MEIResult


@torch.no_grad()
def results_of(
    rows: SlottedRows, slots: Sequence[int], problem: MEIProblem, complete: Tensor, at_a_time: RowsAtATime
) -> list[MEIResult]:
    """The best of the rows of each neuron, with scores and responses by the model itself, and how alike the rows are.

    Args:
        rows: of a device.
        slots: of the neurons.
        problem: that they belong to.
        complete: slots ``[slots]`` whose neuron is done; others were interrupted.
        at_a_time: how many stimuli the model is shown at a time.
    """
    if not slots:
        return []
    device, own = rows.status.device, torch.tensor(slots, device=rows.status.device)
    starts, best = rows.starts_of(slots), rows.best_starts()[own]
    best_rows = starts.gather(1, best[:, None]).flatten()
    stimulus, numbers = rows.best_stimulus[best_rows], rows.neuron_in_slot[own].tolist()

    def evaluate(part: slice) -> tuple[Tensor, Tensor]:
        return problem.objective.for_rows(numbers[part]).to(device).traces_and_scores(stimulus[part])

    with all_threads(), full_precision():
        response, scores = map(torch.cat, zip(*at_a_time.results(evaluate, len(numbers)), strict=True))
    start_scores = rows.best_score[starts].scatter(1, best[:, None], scores[:, None])
    start_scores[rows.given_up[starts].scatter(1, best[:, None], False)] = torch.nan
    alike = start_similarities(rows, slots).tolist()
    status = torch.where(complete[own], rows.status[best_rows], int(Status.ACTIVE))
    return [
        MEIResult(
            number=number,
            stimulus=stimulus[i].cpu().numpy(),
            response=response[i].cpu().numpy(),
            score=scores[i].item(),
            status=Status(int(status[i])).label,
            steps=int(rows.steps[best_rows[i]]),
            best_restart=int(best[i]),
            seed=problem.starts.seed_of(number, int(best[i])),
            restart_scores=start_scores[i].cpu().numpy(),
            restart_similarity=alike[i],
        )
        for i, number in enumerate(numbers)
    ]


def start_similarities(rows: SlottedRows, slots: Sequence[int]) -> Tensor:
    """How alike the stimuli of each neuron's starts are to the best, ``[len(slots)]``."""
    starts = rows.starts_of(slots)
    counts = rows.best_score[starts].isfinite() & (rows.status[starts] != Status.PRUNED)
    best = rows.best_starts()[torch.tensor(slots, device=rows.status.device)]
    return torch.stack(
        [seed_similarity(rows.best_stimulus[own], *which) for own, *which in zip(starts, best, counts, strict=True)]
    )
