"""Norm, range of each channel, and frozen pixels."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mei_lightning.arguments import positive_number
from mei_lightning.constraints.base import Constraint, refuse_rows
from mei_lightning.constraints.masks import by_channel, expanded, free_pixels
from mei_lightning.constraints.projection import project_norm_and_range
from mei_lightning.constraints.ranges import ChannelRanges, check_channel_count, range_bounds
from mei_lightning.exceptions import InvalidValueError


class NormAndRange(Constraint):
    """An L2 norm and a range for each channel, both holding together exactly; some pixels may be frozen.

    A row x becomes ``clip(s * x, low, high)`` with one number s for the whole row: with a maximal norm the nearest
    stimulus that meets both (the Euclidean projection), with a fixed norm the one of that norm and within the ranges
    whose inner product with x is largest. The norm holds to 1e-6 of its value in single precision. A row whose signs
    ask for bounds that are too close to 0 gets as large a norm as these allow. Frozen pixels take a given value and are
    outside the norm.

    Args:
        norm: L2 norm of a stimulus over all its free entries, in the model's units; None for none.
        ranges: one ``(low, high)`` for each channel, in the model's units; None, for one number, for a pair or for
            all, means unbounded. With a norm, 0 has to be inside each range.
        norm_is: ``"fixed"`` (the norm of each row is ``norm``) or ``"maximal"`` (at most ``norm``).
        mask: which pixels are free (True or 1) and which frozen (False or 0): ``[channels]``, or any shape that
            broadcasts to ``[channels, time, height, width]``. None: all are free.
        frozen: the value of frozen pixels: a number, or a tensor of a shape as that of ``mask``.

    Raises:
        ValueError: if there is nothing to constrain, the norm is not positive, a range is empty or, with a norm,
            does not contain 0, the mask is not of zeros and ones, or ``frozen`` is given without a mask. What does
            not fit the shape of the stimuli, or cannot be reached with it, is refused by ``check``.
        TypeError: if the norm is no number.

    Example:
        >>> constraint = ml.NormAndRange(norm=5.0, ranges=[(-4.0, 4.0)])
        >>> stimulus = torch.tensor([1.0, 10.0]).reshape(1, 1, 1, 1, 2)
        >>> constraint(stimulus).flatten().round(decimals=3)  # 10 becomes 4, so that 3 is left for the other pixel
        tensor([3., 4.])
    """

    def __init__(
        self,
        norm: float | None = None,
        ranges: ChannelRanges | None = None,
        *,
        norm_is: Literal["fixed", "maximal"] = "fixed",
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__()
        if norm is None and ranges is None and mask is None:
            raise InvalidValueError("NormAndRange() constrains nothing: give a norm, ranges or a mask.")
        if norm is not None:
            norm = positive_number("norm", norm, ", or None for no norm")
        if norm_is not in ("fixed", "maximal"):
            raise InvalidValueError(f"norm_is={norm_is!r} must be 'fixed' or 'maximal'.")
        low, high = (None, None) if ranges is None else range_bounds(ranges)
        if norm is not None and low is not None and high is not None and ((low > 0) | (high < 0)).any():
            raise InvalidValueError(
                f"ranges={tuple(ranges or ())} with norm={norm}: the norm is measured from 0, so 0 has to be inside "
                "each range. Shift the stimulus so that its mean level is 0, or drop the norm."
            )
        self.norm = norm
        self.ranges = None if ranges is None else tuple(ranges)
        self.norm_is: Literal["fixed", "maximal"] = norm_is
        # Here and not in the class, where the reference would take them for the types of the arguments.
        self.low: Tensor | None
        self.high: Tensor | None
        self.mask: Tensor | None
        self.frozen: Tensor | None
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("mask", None if mask is None else free_pixels(mask), persistent=False)
        values = by_channel(torch.as_tensor(frozen, dtype=torch.get_default_dtype()))
        if mask is None and values.any():
            raise InvalidValueError("frozen is the value of the pixels that a mask freezes; give a mask as well.")
        self.register_buffer("frozen", None if mask is None else values, persistent=False)

    def forward(self, stimulus: Tensor) -> Tensor:
        """The projected stimuli, as a new tensor without gradient."""
        if self.ranges is not None:
            check_channel_count(self.ranges, stimulus.shape)
        bounds = None if self.low is None or self.high is None else (self.low, self.high)
        if self.mask is None or self.frozen is None:
            return project_norm_and_range(stimulus, self.norm, bounds, norm_is=self.norm_is)
        free = stimulus.detach().masked_fill(~self.mask, 0)
        projected = project_norm_and_range(free, self.norm, bounds, norm_is=self.norm_is)
        return projected.masked_fill_(~self.mask, 0).add_(self.frozen.to(projected) * ~self.mask)

    def channel_ranges(self) -> ChannelRanges | None:
        """The ranges that it was made with."""
        return self.ranges

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet the constraint.

        Raises:
            ValueError: if the number of ranges is not that of the channels, the mask or ``frozen`` does not
                broadcast to a stimulus, a frozen value is out of range, or the ranges of the free pixels are too
                narrow for a fixed norm.
        """
        super().check(stimulus_shape)
        pixels = torch.Size(stimulus_shape[1:])
        if self.ranges is not None:
            check_channel_count(self.ranges, stimulus_shape)
        mask = None if self.mask is None else expanded("mask", self.mask, pixels)
        frozen = None if self.frozen is None else expanded("frozen", self.frozen, pixels)
        if self.low is None or self.high is None:
            return
        low, high = (bound[:, None, None, None] for bound in (self.low, self.high))
        if mask is not None and frozen is not None:
            outside = ((frozen < low) | (frozen > high)) & ~mask
            if outside.any():
                value = frozen[outside][0].item()
                raise InvalidValueError(f"Frozen value {value:g} is outside the channel's range; ranges={self.ranges}.")
        if self.norm is not None and self.norm_is == "fixed":
            bound = torch.maximum(-low, high).expand(pixels)
            largest = (bound if mask is None else bound[mask]).double().square().sum().sqrt().item()
            if self.norm > largest * (1 + 1e-6):
                raise InvalidValueError(
                    f"norm={self.norm:g} cannot be reached within ranges={self.ranges}: the largest possible norm of "
                    f"a stimulus {tuple(pixels)} is {largest:g}. Lower the norm or widen the ranges."
                )

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if a row is not finite or, with a fixed norm, is zero where it may vary."""
        super().check_stimulus(stimulus)
        if self.norm is not None and self.norm_is == "fixed":
            free = self(stimulus) if self.mask is None else torch.where(self.mask, self(stimulus), 0)
            refuse_rows(
                ~free.flatten(1).any(1),
                f"are zero (within ranges and mask) and cannot be scaled to norm {self.norm:g}: start from noise",
            )

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        parts = [] if self.norm is None else [f"norm={self.norm:g}", f"norm_is={self.norm_is!r}"]
        if self.ranges is not None:
            parts.append(f"ranges={self.ranges}")
        if self.mask is not None and self.frozen is not None:
            parts.append(f"mask={tuple(self.mask.shape)} with {int(self.mask.sum())} of {self.mask.numel()} free")
            parts.append(f"frozen={self.frozen.item():g}" if self.frozen.numel() == 1 else "frozen=tensor")
        return ", ".join(parts)


class FixedNorm(NormAndRange):
    """Each row has this L2 norm over its free entries.

    Args:
        norm: the L2 norm of a stimulus over all its free entries, in the model's units.
        mask: which pixels are free (True or 1) and which frozen (False or 0): ``[channels]``, or any shape that
            broadcasts to ``[channels, time, height, width]``. None: all are free.
        frozen: the value of frozen pixels: a number, or a tensor of a shape as that of ``mask``.

    Raises:
        ValueError: if the norm is not positive, the mask is not of zeros and ones, or ``frozen`` is given without one.
        TypeError: if the norm is no number.

    Example:
        >>> constraint = ml.FixedNorm(10.0)
        >>> stimulus = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 1, 2)  # of norm 5
        >>> constraint(stimulus).flatten().round(decimals=3)
        tensor([6., 8.])
    """

    def __init__(
        self,
        norm: float,
        *,
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__(norm, norm_is="fixed", mask=mask, frozen=frozen)


class MaximalNorm(NormAndRange):
    """Each row has at most this L2 norm over its free entries; a row of a smaller norm stays as it is.

    Args:
        norm: the largest L2 norm of a stimulus over all its free entries, in the model's units.
        mask: which pixels are free (True or 1) and which frozen (False or 0): ``[channels]``, or any shape that
            broadcasts to ``[channels, time, height, width]``. None: all are free.
        frozen: the value of frozen pixels: a number, or a tensor of a shape as that of ``mask``.

    Raises:
        ValueError: if the norm is not positive, the mask is not of zeros and ones, or ``frozen`` is given without one.
        TypeError: if the norm is no number.

    Example:
        >>> constraint = ml.MaximalNorm(10.0)
        >>> stimuli = torch.tensor([[3.0, 4.0], [30.0, 40.0]]).reshape(2, 1, 1, 1, 2)  # of norms 5 and 50
        >>> constraint(stimuli).flatten(1).norm(dim=1).round(decimals=3)
        tensor([ 5., 10.])
    """

    def __init__(
        self,
        norm: float,
        *,
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__(norm, norm_is="maximal", mask=mask, frozen=frozen)


class ChannelRange(NormAndRange):
    """The values of each channel are clipped to its range.

    Args:
        ranges: one ``(low, high)`` for each channel, in the model's units; None, for one number or for a pair, means
            unbounded.
        mask: which pixels are free (True or 1) and which frozen (False or 0): ``[channels]``, or any shape that
            broadcasts to ``[channels, time, height, width]``. None: all are free.
        frozen: the value of frozen pixels: a number, or a tensor of a shape as that of ``mask``.

    Raises:
        ValueError: if a range is empty or no pair, the mask is not of zeros and ones, or ``frozen`` is given without
            one.

    Example:
        >>> constraint = ml.ChannelRange([(-1.0, 1.0), (0.0, None)])
        >>> stimulus = torch.tensor([[-3.0, 3.0], [-3.0, 3.0]]).reshape(1, 2, 1, 1, 2)  # two channels
        >>> constraint(stimulus).reshape(2, 2)
        tensor([[-1., 1.],
                [ 0., 3.]])
    """

    def __init__(
        self,
        ranges: ChannelRanges,
        *,
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__(ranges=ranges, mask=mask, frozen=frozen)


class RescaleThenClip(Constraint):
    """Scale each row to a norm, then clip each channel to its range: the rule of Höfling et al. 2024 (eLife 86860).

    For reproducing published stimuli. Clipping takes away some of the norm, the more the larger the steps are; in
    ``NormAndRange`` both hold.

    Args:
        norm: L2 norm before clipping, in the model's units.
        ranges: one ``(low, high)`` for each channel, in the model's units; None means unbounded.

    Raises:
        ValueError: if the norm is not positive or a range is empty.

    Example:
        >>> constraint = ml.RescaleThenClip(10.0, [(-7.0, 7.0)])
        >>> stimulus = torch.tensor([3.0, 4.0]).reshape(1, 1, 1, 1, 2)
        >>> constraint(stimulus).flatten().round(decimals=3)  # 6 and 8 had norm 10; 6 and 7 have less
        tensor([6., 7.])
    """

    def __init__(self, norm: float, ranges: ChannelRanges) -> None:
        super().__init__()
        self.norm = norm
        self.ranges = tuple(ranges)
        self.rescale = FixedNorm(norm)
        self.clip = ChannelRange(ranges)

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor without gradient."""
        return self.clip(self.rescale(stimulus))

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if the number of ranges is not that of the channels."""
        self.clip.check(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if a row is not finite or zero."""
        self.rescale.check_stimulus(stimulus)
