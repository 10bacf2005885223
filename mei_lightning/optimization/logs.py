"""What TensorBoard shows of a population of stimuli, as numbers by their names."""

from torch import Tensor

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
    values = {"stimulus/norm": row_norms(stimuli).mean()}
    if (bounds := _bounds(constraint)) is not None:
        at_bound = (stimuli <= bounds[0]) | (stimuli >= bounds[1])
        values["stimulus/clipped_share"] = at_bound.count_nonzero() / stimuli.numel()
    return values


def _bounds(constraint: Constraint | None) -> tuple[Tensor, Tensor] | None:
    """Low and high of each channel, as they broadcast over stimuli: of the last constraint that has ranges."""
    found = None
    for part in [] if constraint is None else constraint.modules():
        if isinstance(part, NormAndRange) and part.low is not None and part.high is not None:
            found = part.low.view(1, -1, 1, 1, 1), part.high.view(1, -1, 1, 1, 1)
    return found
