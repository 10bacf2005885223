"""What TensorBoard shows of a population of stimuli, as numbers by their names."""

import torch
from torch import Tensor

from mei_lightning.acceleration.blocks import for_few_rows
from mei_lightning.acceleration.row_arithmetic import row_norms
from mei_lightning.constraints import Constraint, NormAndRange
from mei_lightning.optimization.metrics import ScoreStatistics


def values_of_scores(scores: Tensor) -> dict[str, Tensor]:
    """Statistics of scores ``[n]`` of all devices."""
    if not len(scores):
        return {}
    statistics = ScoreStatistics(sync_on_compute=False).to(scores.device)
    statistics.update(scores)
    return {f"score/{name}": value for name, value in statistics.compute().items()}


def values_of_stimuli(stimuli: Tensor, constraint: Constraint | None) -> dict[str, Tensor]:
    """The mean norm of stimuli ``[rows, ...]``, and the share of their entries at a bound, if there are bounds."""
    if not len(stimuli):
        return {}
    norms = stimuli.new_empty(len(stimuli))
    clipped = torch.zeros(len(stimuli), dtype=torch.long, device=stimuli.device)
    bounds = _bounds(constraint)

    def measure(rows: slice) -> None:
        norms[rows] = row_norms(stimuli[rows])
        if bounds is not None:
            at_bound = (stimuli[rows] <= bounds[0]) | (stimuli[rows] >= bounds[1])
            clipped[rows] = at_bound.flatten(1).count_nonzero(dim=1)

    for_few_rows(measure, len(stimuli), stimuli.device)
    share = {} if bounds is None else {"stimulus/clipped_share": clipped.sum() / stimuli.numel()}
    return {"stimulus/norm": norms.mean(), **share}


def _bounds(constraint: Constraint | None) -> tuple[Tensor, Tensor] | None:
    """Low and high of each channel, as they broadcast over stimuli: of the last constraint that has ranges."""
    found = None
    for part in [] if constraint is None else constraint.modules():
        if isinstance(part, NormAndRange) and part.low is not None and part.high is not None:
            found = part.low.view(1, -1, 1, 1, 1), part.high.view(1, -1, 1, 1, 1)
    return found
