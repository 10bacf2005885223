"""What openretina does to a stimulus after each step (``StimulusPostprocessor``), as a constraint."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mei_lightning.arguments import check_instance, pairs
from mei_lightning.constraints.base import Constraint
from mei_lightning.constraints.compose import Compose
from mei_lightning.constraints.ranges import ChannelRanges, check_dimensions
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError


@runtime_checkable
class HasProcess(Protocol):
    """A postprocessor of openretina's, or of one's own."""

    def process(self, x: Tensor, /) -> Tensor:
        """The stimulus ``[rows, channels, time, height, width]`` as it shall be."""


class Postprocessor(Constraint):
    """A postprocessor as a constraint: applied to a copy of each row alone, so that rows do not depend on each other.

    Args:
        postprocessor: what has a method ``process``.

    Attributes:
        postprocessor: what it is made with, for the configuration of results.
    """

    def __init__(self, postprocessor: HasProcess) -> None:
        super().__init__()
        self._process = postprocessor.process
        self._kind = type(postprocessor).__name__
        self.postprocessor = what_it_holds(postprocessor)
        self._ranges = getattr(postprocessor, "_min_max_values", getattr(postprocessor, "min_max_values", None))

    def forward(self, stimulus: Tensor) -> Tensor:
        """The processed stimuli."""
        return processed(self._process, stimulus)

    def channel_ranges(self) -> ChannelRanges | None:
        """Those of openretina's ``ChangeNormJointlyClipRangeSeparately``, or of one that calls them alike."""
        try:
            ranges = pairs("min_max_values", self._ranges)
        except InvalidTypeError:
            return None
        return ranges if isinstance(ranges, list) and ranges else None

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if a stimulus of this shape cannot be processed, or not twice to the same."""
        check_dimensions(stimulus_shape)
        shape = (1, *stimulus_shape[1:])
        trial = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu")
        try:
            once, again = (self._process(trial.clone()) for _ in range(2))
        except Exception as error:
            raise InvalidValueError(
                f"constraint: {self._kind}.process fails for a stimulus of shape {shape} with "
                f"{type(error).__name__}: {error}. Mend it, or give norm= and ranges= in its place."
            ) from error
        found = tuple(once.shape) if isinstance(once, Tensor) else type(once).__name__
        if found != shape:
            raise InvalidValueError(
                f"constraint: {self._kind}.process makes {found} of a stimulus of shape {shape}. It has to return the "
                "stimulus as a tensor of the same shape."
            )
        if not once.isfinite().all():
            raise InvalidValueError(
                f"constraint: {self._kind}.process makes values that are not finite, NaN or infinite. Mend it, or "
                "give norm= and ranges= in its place."
            )
        if not torch.equal(once, again):
            raise InvalidValueError(
                f"constraint: {self._kind}.process makes something else of the same stimulus each time. "
                "What is random goes into robustness, e.g. robustness=[Noise(0.1), Jitter(space=1)]."
            )


def processed(process: Any, stimulus: Tensor) -> Tensor:
    """Stimuli ``[rows, channels, time, height, width]`` as a postprocessor makes them of copies, each row alone."""
    if not len(stimulus):
        return stimulus.clone()
    return torch.cat([process(row.clone()) for row in stimulus.split(1)])


def as_constraint(constraint: object) -> Constraint:
    """A constraint; of a postprocessor the one that applies it to each row, of a list all of them in turn.

    Raises:
        TypeError: if it is neither.
        ValueError: if the list is empty, or a norm or range of ours is followed by something that would undo it.
    """
    if isinstance(constraint, list | tuple):
        return Compose([as_constraint(part) for part in constraint])
    if isinstance(constraint, HasProcess) and not isinstance(constraint, Constraint | type):
        return Postprocessor(constraint)
    check_instance("constraint", constraint, Constraint, "NormAndRange(norm=30.0)")
    assert isinstance(constraint, Constraint)
    return constraint


def what_it_holds(part: object) -> object:
    """A part of openretina's, which does not say what it is made with, as the class and the values that it holds."""
    if isinstance(part, nn.Module):
        return part
    held: Mapping[str, Any] = getattr(part, "__dict__", {})
    return {"class": type(part).__name__, "arguments": {name.lstrip("_"): value for name, value in held.items()}}
