"""torchmetrics of a population of MEIs, for use during a run or afterwards, on any number of devices."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class ScoreStatistics(Metric):
    """The mean of scores and their quantiles; scores that are not finite do not count.

    ``compute`` returns ``mean`` and ``quantile_0.00`` to ``quantile_1.00``, NaN before the first score.
    """

    full_state_update = False
    scores: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor) -> None:
        """Take in scores of any shape."""
        assert isinstance(self.scores, list)
        self.scores.append(scores[scores.isfinite()].float())

    def compute(self) -> dict[str, Tensor]:
        """The statistics of all scores, by name."""
        scores = _joined(self.scores, self.device)
        if not len(scores):
            scores = scores.new_full((1,), torch.nan)
        quantiles = torch.quantile(scores, scores.new_tensor(QUANTILES))
        named = {f"quantile_{level:.2f}": value for level, value in zip(QUANTILES, quantiles, strict=True)}
        return {**named, "mean": scores.mean()}


def mean_of_known() -> MeanMetric:
    """The mean of values of all devices, e.g. the share of stimuli that have converged; NaN does not count.

    NaN as long as nothing is known.
    """
    return MeanMetric(nan_strategy="ignore")


def seed_similarity(stimuli: Tensor, best: Tensor, counts: Tensor) -> Tensor:
    """Mean cosine similarity of the stimuli from other seeds with the best one of a neuron.

    Args:
        stimuli: ``[seeds, ...]``.
        best: the number of the best seed.
        counts: which stimuli count, ``[seeds]`` of bool.

    Returns:
        A number from -1 to 1; NaN if there are no other stimuli.
    """
    flat = stimuli.flatten(1)
    others = counts.clone()
    others[best] = False
    return torch.cosine_similarity(flat, flat[best][None], dim=1)[others].mean()


def _joined(parts: list[Tensor] | Tensor, device: torch.device) -> Tensor:
    """A state that is a list, or one tensor once several devices' lists have been joined."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0, device=device)
