"""What is optimised, and the feasible stimuli that it stands for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mei_lightning.constraints import Constraint, check_channel_count, range_bounds
from mei_lightning.parameterizations import Parameterization, feasible_stimulus


@dataclass(frozen=True)
class StimulusSpace:
    """Where stimuli may live, and what they are made from.

    Args:
        constraint: where stimuli may live; None for anywhere.
        parameterization: what makes them from parameters; None where they are pixels, their own parameters.
    """

    constraint: Constraint | None = None
    parameterization: Parameterization | None = None

    def check(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli."""
        self.check_shape(stimulus.shape)
        if self.constraint is None:
            return
        self.constraint.check_stimulus(stimulus)
        if self.parameterization is not None:
            with torch.no_grad():
                self.constraint.check_stimulus(self.parameterization(self.parameterization.parameters_of(stimulus)))

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise a ValueError if no stimuli of this shape, ``[rows, channels, time, height, width]``, are allowed."""
        if self.constraint is None:
            return
        if (ranges := self.constraint.channel_ranges()) is not None:
            range_bounds(ranges)
            check_channel_count(ranges, shape)
        self.constraint.check(shape)

    def project(self, stimulus: Tensor) -> Tensor:
        """The feasible stimuli for some stimuli ``[rows, channels, time, height, width]``."""
        return stimulus if self.constraint is None else self.constraint.to(stimulus.device)(stimulus)

    @torch.no_grad()
    def initial_parameters(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """What is optimised from some stimuli on, and the feasible stimuli that it stands for."""
        if self.parameterization is None:
            feasible = self.project(stimulus)
            return feasible, feasible
        parameterization = self.parameterization.to(stimulus.device)
        parameters = parameterization.parameters_of(stimulus)
        return parameters, self.project(parameterization(parameters))

    def stimuli(self, parameters: Tensor, note_share: Callable[[Tensor], None] | None = None) -> Tensor:
        """The feasible stimuli that parameters of at least one row stand for.

        Args:
            parameters: ``[rows, ...]``.
            note_share: is told in ``backward`` what share of each row's gradient is left by the projection, if there
                is one behind a parameterisation.
        """
        if self.parameterization is None:
            return parameters
        stimulus = self.parameterization(parameters)
        if self.constraint is None:
            return stimulus
        return feasible_stimulus(stimulus, self.project, note_share or _nobody)


def _nobody(share: Tensor) -> None:
    """Nobody asks for it."""
