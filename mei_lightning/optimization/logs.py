"""What TensorBoard shows of a population of stimuli, as numbers by their names."""

import torch
from torch import Tensor

from mei_lightning.acceleration.row_arithmetic import row_norms
from mei_lightning.constraints import Constraint, range_bounds
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
    values = {"stimulus/norm": row_norms(stimuli).mean()}
    ranges = None if constraint is None else constraint.channel_ranges()
    if ranges is not None:
        low, high = (bound.to(stimuli.device, torch.float).view(1, -1, 1, 1, 1) for bound in range_bounds(ranges))
        # A stimulus in double precision may be at a bound that is rounded to single precision, or at the bound itself.
        single = stimuli.float()
        at_bound = (single <= low) | (single >= high)
        values["stimulus/clipped_share"] = at_bound.count_nonzero() / stimuli.numel()
    return values
