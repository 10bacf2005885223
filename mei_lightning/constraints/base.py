"""What every constraint is."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from mei_lightning.constraints.ranges import ChannelRanges, check_dimensions
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.wording import first_few


class Constraint(nn.Module):
    """Maps stimuli ``[rows, channels, time, height, width]`` to where they may live, each row on its own.

    Derive from it for a constraint of your own: ``forward`` returns a new tensor of the same shape. Where it keeps
    channels to ranges, let ``channel_ranges`` say so: logs and analyses tell from it which values are at a limit.
    ``check`` and ``check_stimulus`` refuse, before any step, stimuli that cannot meet it, with a ``ValueError``.

    Example:
        >>> class OnlyBright(ml.Constraint):
        ...     def forward(self, stimulus):
        ...         return stimulus.clamp(min=0.0)
        >>> constraint = ml.Compose([OnlyBright(), ml.FixedNorm(5.0)])
        >>> stimulus = torch.tensor([-7.0, 6.0, 8.0]).reshape(1, 1, 1, 1, 3)
        >>> constraint(stimulus).flatten().round(decimals=3)
        tensor([0., 3., 4.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor."""
        raise NotImplementedError(f"{type(self).__name__} does not say where stimuli may be: write its method forward.")

    def channel_ranges(self) -> ChannelRanges | None:
        """The range that the values of each channel are kept to; None if there are no ranges.

        By default those of the last of the constraints inside this one that has any.

        Returns:
            One ``(low, high)`` for each channel, in the model's units; None, for one number or for a pair, means
            unbounded.
        """
        return last_channel_ranges(self.children())

    def process(self, x: Tensor) -> Tensor:
        """The constrained stimuli, with openretina's name for it; the constraint moves to where the stimuli are."""
        return self.to(x.device)(x)

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet the constraint."""
        check_dimensions(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli; names the rows at fault."""
        self.check(stimulus.shape)
        refuse_rows(stimulus.isfinite().flatten(1).all(1).logical_not(), "are not finite: NaN or infinite entries")


def last_channel_ranges(parts: Iterable[object]) -> ChannelRanges | None:
    """The ranges of the last of some parts that has any, be it a constraint or a module with constraints inside."""
    for part in reversed(list(parts)):
        ranges = None
        if isinstance(part, Constraint):
            ranges = part.channel_ranges()
        elif isinstance(part, nn.Module):
            ranges = last_channel_ranges(part.children())
        if ranges is not None:
            return ranges
    return None


def refuse_rows(at_fault: Tensor, what: str) -> None:
    """Raise a ValueError that names the rows ``[rows]`` of an initial stimulus that are at fault, if there are any."""
    rows = at_fault.nonzero().flatten().tolist()
    if rows:
        raise InvalidValueError(f"Row(s) {first_few(rows)} of the initial stimulus {what}.")
