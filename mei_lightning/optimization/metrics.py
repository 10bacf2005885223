"""torchmetrics of a population of MEIs, for use during a run or afterwards, on any number of devices."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

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


class ConvergedShare(Metric):
    """The share of stimuli whose optimisation has converged; NaN before the first."""

    full_state_update = False
    converged: Tensor
    total: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("converged", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, converged: Tensor) -> None:
        """Take in whether each stimulus has converged, of bool."""
        self.converged += converged.bool().sum()
        self.total += converged.numel()

    def compute(self) -> Tensor:
        """The share, from 0 to 1."""
        return self.converged / self.total


class SeedSimilarity(Metric):
    """How alike the stimuli are that a neuron's different seeds lead to: ``seed_similarity``, its mean over neurons.

    Neurons with a single seed do not count; NaN before the first that does.
    """

    full_state_update = False
    total: Tensor
    neurons: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("neurons", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, similarity: Tensor) -> None:
        """Take in similarities of neurons, of any shape."""
        known = similarity[similarity.isfinite()]
        self.total += known.sum()
        self.neurons += known.numel()

    def compute(self) -> Tensor:
        """The mean, from -1 to 1."""
        return self.total / self.neurons


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
