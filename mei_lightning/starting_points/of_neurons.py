"""The initial stimuli of all neurons of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mei_lightning.constraints import Constraint
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.neurons import Neuron, group_label, seed_of_row
from mei_lightning.objectives import NeuronObjective
from mei_lightning.starting_points.base import InitialStimuli, NeuronStart


@dataclass(frozen=True)
class StartsOfNeurons:
    """Makes the initial stimuli of a neuron from its number; an object that other processes can be sent.

    Args:
        initial: the kind of initial stimuli.
        groups: the neurons, or groups of neurons.
        objective: of all of them.
        shape: ``(channels, time, height, width)`` of a stimulus.
        constraint: where stimuli may live.
        dtype: of stimuli, that of the model's weights; None for whatever ``initial`` makes.
        restarts: the number of each neuron's initial stimuli.
        seed: of the run.
    """

    initial: InitialStimuli
    groups: Sequence[Sequence[Neuron]]
    objective: NeuronObjective
    shape: tuple[int, ...]
    constraint: Constraint
    dtype: torch.dtype | None
    restarts: int
    seed: int

    def seed_of(self, number: int, restart: int) -> int:
        """The seed of a neuron's restart, of 63 bits."""
        return seed_of_row(self.seed, self.groups[number], restart)

    def __call__(self, number: int) -> Tensor:
        """Initial stimuli ``[restarts, channels, time, height, width]`` of a neuron.

        Raises:
            ValueError: if they are of another shape.
        """
        device = next((weight.device for weight in self.objective.model.parameters()), torch.device("cpu"))
        label = group_label(self.groups[number])
        neuron = NeuronStart(label, number, self.shape, self.objective, self.constraint, device)
        seeds = [self.seed_of(number, restart) for restart in range(self.restarts)]
        stimuli = self.initial(neuron, seeds).to(self.dtype)
        if stimuli.shape != (self.restarts, *self.shape):
            raise InvalidValueError(
                f"{self.initial!r} made stimuli of shape {tuple(stimuli.shape)}; it should be "
                f"{(self.restarts, *self.shape)}: [restarts, channels, time, height, width]."
            )
        return stimuli
