"""What an optimisation starts from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mei_lightning.constraints import Constraint
from mei_lightning.objectives import NeuronObjective
from mei_lightning.results.configuration import as_data, in_words


@dataclass(frozen=True)
class NeuronStart:
    """What is known of a neuron, or a group of neurons, before its stimuli are optimised.

    Args:
        label: what it is called in results.
        number: its position among the neurons of the run.
        shape: ``(channels, time, height, width)`` of its stimuli.
        objective: of all neurons of the run.
        constraint: where stimuli may live, or None.
        device: where the objective's model is.
    """

    label: str
    number: int
    shape: tuple[int, ...]
    objective: NeuronObjective
    constraint: Constraint | None
    device: torch.device

    def scores(self, stimuli: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]`` for this neuron, on the device."""
        return self.objective.for_rows([self.number] * len(stimuli)).to(self.device)(stimuli.to(self.device))

    def feasible(self, stimuli: Tensor) -> Tensor:
        """What the optimisation makes of stimuli before its first step."""
        return stimuli if self.constraint is None else self.constraint.to(stimuli.device)(stimuli)


class InitialStimuli:
    """Makes the initial stimuli of each neuron; derive from it for a kind of your own.

    Its settings belong to the configuration of a run: those arguments of the constructor that are kept as attributes of
    the same names or, if it has others, what ``__repr__`` tells.

    Example:
        >>> class Ramp(ml.InitialStimuli):
        ...     def __call__(self, neuron, seeds):
        ...         ramp = torch.linspace(-1, 1, neuron.shape[-1])
        ...         return ramp.expand(len(seeds), *neuron.shape)
        >>> problem = ml.MEIProblem("simulated", [("session_1", 0)], ml.MEISettings(initial=Ramp(), restarts=2))
        >>> problem.starts(0).shape, problem.starts(0)[1, 0, 0, 0, [0, -1]].tolist()
        (torch.Size([2, 2, 40, 18, 16]), [-1.0, 1.0])
    """

    def check(self, labels: Sequence[str], shape: Sequence[int]) -> None:
        """Raise an error unless there are stimuli for these neurons, ``shape`` (channels, time, height, width) each."""

    def check_model(self, name: str, digest: str) -> None:
        """Warn if there is something wrong with a run of the model of this name, with weights of this digest."""

    def describe(self, labels: Sequence[str]) -> str:
        """What tells it from other settings in words, for a run of these neurons."""
        return repr(self)

    def configuration(self, labels: Sequence[str]) -> dict[str, Any]:
        """What tells it from other settings as data, for the configuration of a run of these neurons."""
        if type(self).describe is not InitialStimuli.describe:
            return in_words(self, self.describe(labels))
        data: dict[str, Any] = as_data(self)
        return data

    def __call__(self, neuron: NeuronStart, seeds: Sequence[int]) -> Tensor:
        """Initial stimuli ``[restarts, channels, time, height, width]`` on the CPU, before the constraint.

        Args:
            neuron: whose.
            seeds: one for each restart. All that is random has to come from them.
        """
        raise NotImplementedError
