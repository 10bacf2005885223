"""Where a stimulus may live: norm, range of each channel, frozen pixels, and Gaussian low-pass filters.

A constraint maps stimuli ``[rows, channels, time, height, width]`` to stimuli of the same shape, each row on its own.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.projection import project_norm_and_range
from mei_lightning.wording import first_few

ChannelRanges = Sequence[tuple[float | None, float | None] | None]
"""One ``(low, high)`` for each channel; None in place of a number, or of a pair, means unbounded."""


def range_bounds(ranges: ChannelRanges) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, each ``[channels]``, of one ``(low, high)`` for each channel; None becomes infinite.

    Raises:
        ValueError: if a range is not a pair, holds NaN, or its low exceeds its high.
    """
    bounds = []
    for channel, pair in enumerate(ranges):
        if pair is not None and len(pair) != 2:
            raise InvalidValueError(f"The range of channel {channel} must be (low, high) or None, not {pair!r}.")
        low, high = (None, None) if pair is None else pair
        bound = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
        if not bound[0] <= bound[1]:
            raise InvalidValueError(f"The range {pair!r} of channel {channel} is empty: low must not exceed high.")
        bounds.append(bound)
    if not bounds:
        raise InvalidValueError("ranges is empty: give one (low, high) for each channel, or None for no ranges.")
    low_bounds, high_bounds = zip(*bounds, strict=True)
    return torch.tensor(low_bounds, device="cpu"), torch.tensor(high_bounds, device="cpu")


def check_channel_count(ranges: ChannelRanges, stimulus_shape: Sequence[int]) -> None:
    """Raise a ValueError unless a stimulus is 5-dimensional with as many channels as there are ranges."""
    check_dimensions(stimulus_shape)
    if len(ranges) != stimulus_shape[1]:
        raise InvalidValueError(
            f"{len(ranges)} channel range(s) for a stimulus of {stimulus_shape[1]} channel(s): {tuple(ranges)}. "
            "Give one (low, high), or None, for each channel."
        )


def check_dimensions(stimulus_shape: Sequence[int]) -> None:
    """Raise a ValueError unless a shape is ``[rows, channels, time, height, width]``."""
    if len(stimulus_shape) != 5:
        raise InvalidValueError(f"A stimulus is [rows, channels, time, height, width], not {tuple(stimulus_shape)}.")


def gaussian_filter(stimulus: Tensor, sigma: float, dim: int) -> Tensor:
    """Smooth along one dimension with a Gaussian, truncated at 4 sigma and normalised so that constants stay.

    Beyond its borders a stimulus continues with its border values (``mode="nearest"`` of
    ``scipy.ndimage.gaussian_filter1d``).

    Args:
        stimulus: of any shape.
        sigma: standard deviation in entries of that dimension (frames or pixels).
        dim: the dimension.

    Returns:
        A tensor of the same shape.
    """
    length, radius = stimulus.shape[dim], int(4 * sigma + 0.5)
    entries = torch.arange(length, device=stimulus.device)
    padded = torch.arange(-radius, length + radius, device=stimulus.device)
    distances = (padded[:, None] - entries).to(stimulus.dtype)
    weights = (-0.5 * (distances / sigma) ** 2).exp() * (distances.abs() <= radius)
    sources = padded.clamp(0, length - 1) == entries[:, None]
    # One matrix product is faster than many short convolutions.
    matrix = sources.to(stimulus.dtype) @ (weights / weights.sum(0))
    return (stimulus.movedim(dim, -1) @ matrix).movedim(-1, dim)


class Constraint(nn.Module):
    """Maps stimuli ``[rows, channels, time, height, width]`` to where they may live, each row on its own.

    Derive from it for a constraint of your own: ``forward`` returns a new tensor of the same shape.
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor."""
        raise NotImplementedError

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet the constraint."""
        check_dimensions(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli; names the rows at fault."""
        self.check(stimulus.shape)
        _refuse_rows(stimulus.isfinite().flatten(1).all(1).logical_not(), "are not finite: NaN or infinite entries")


def _refuse_rows(at_fault: Tensor, what: str) -> None:
    rows = at_fault.nonzero().flatten().tolist()
    if rows:
        raise InvalidValueError(f"Row(s) {first_few(rows)} of the initial stimulus {what}.")


class NormAndRange(Constraint):
    """An L2 norm and a range for each channel, both holding together exactly; some pixels may be frozen.

    See `project_norm_and_range` for the projection. Frozen pixels take a given value and are outside the norm.

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
            does not contain 0, the mask is not of zeros and ones, or ``frozen`` is given without a mask.
    """

    low: Tensor | None
    high: Tensor | None
    mask: Tensor | None
    frozen: Tensor | None

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
        if norm is not None and not 0 < norm < math.inf:
            raise InvalidValueError(f"norm={norm} must be positive and finite, or None for no norm.")
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
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("mask", None if mask is None else _free_pixels(mask), persistent=False)
        values = _by_channel(torch.as_tensor(frozen, dtype=torch.get_default_dtype()))
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
        mask = _expand("mask", self.mask, pixels)
        frozen = _expand("frozen", self.frozen, pixels)
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
            _refuse_rows(
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


def _by_channel(values: Tensor) -> Tensor:
    return values[:, None, None, None] if values.ndim == 1 else values


def _free_pixels(mask: Tensor | Sequence[float]) -> Tensor:
    values = _by_channel(torch.as_tensor(mask))
    if not ((values == 0) | (values == 1)).all():
        raise InvalidValueError(
            "A mask consists of 1 (free) and 0 (frozen), or True and False; other values were found."
        )
    if not values.any():
        raise InvalidValueError(f"The mask {tuple(values.shape)} is empty: no pixel is free (1 or True).")
    return values.bool()


def _expand(name: str, values: Tensor | None, pixels: torch.Size) -> Tensor | None:
    """Broadcast to ``[channels, time, height, width]``, or raise a ValueError."""
    try:
        return None if values is None else values.expand(pixels)
    except RuntimeError:
        raise InvalidValueError(
            f"{name} of shape {tuple(values.shape)} does not broadcast to a stimulus [channels, time, height, width] "  # type: ignore[union-attr]
            f"of {tuple(pixels)}."
        ) from None


class FixedNorm(NormAndRange):
    """Each row has this L2 norm over its free entries; see `NormAndRange` for the arguments."""

    def __init__(
        self,
        norm: float,
        *,
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__(norm, norm_is="fixed", mask=mask, frozen=frozen)


class MaximalNorm(NormAndRange):
    """Each row has at most this L2 norm over its free entries; see `NormAndRange` for the arguments."""

    def __init__(
        self,
        norm: float,
        *,
        mask: Tensor | Sequence[float] | None = None,
        frozen: Tensor | Sequence[float] | float = 0.0,
    ) -> None:
        super().__init__(norm, norm_is="maximal", mask=mask, frozen=frozen)


class ChannelRange(NormAndRange):
    """The values of each channel stay within its range; see `NormAndRange` for the arguments."""

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
    `NormAndRange` both hold.

    Args:
        norm: L2 norm before clipping, in the model's units.
        ranges: one ``(low, high)`` for each channel, in the model's units; None means unbounded.

    Raises:
        ValueError: if the norm is not positive or a range is empty.
    """

    def __init__(self, norm: float, ranges: ChannelRanges) -> None:
        super().__init__()
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


class _LowPass(Constraint):
    dims: tuple[int, ...]

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise InvalidValueError(f"{type(self).__name__}(sigma={sigma}) must be positive and finite.")
        self.sigma = sigma

    def forward(self, stimulus: Tensor) -> Tensor:
        """The smoothed stimuli, as a new tensor."""
        for dim in self.dims:
            stimulus = gaussian_filter(stimulus, self.sigma, dim)
        return stimulus

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"sigma={self.sigma:g}"


class TemporalLowPass(_LowPass):
    """Gaussian smoothing over time, as in `gaussian_filter`.

    Not a projection: applied after each step, it smooths again what earlier steps have left.

    Args:
        sigma: standard deviation in frames.
    """

    dims = (2,)


class SpatialLowPass(_LowPass):
    """Gaussian smoothing over height and width, as in `gaussian_filter`.

    Not a projection: applied after each step, it smooths again what earlier steps have left.

    Args:
        sigma: standard deviation in pixels.
    """

    dims = (3, 4)


class Compose(Constraint):
    """Constraints applied one after the other; only the last one holds exactly.

    Example:
        >>> Compose([SpatialLowPass(1.0), NormAndRange(30.0, [(-0.65, 6.27), (-0.91, 6.27)])])
        Compose(
          (0): SpatialLowPass(sigma=1)
          (1): NormAndRange(norm=30, norm_is='fixed', ranges=((-0.65, 6.27), (-0.91, 6.27)))
        )

    Raises:
        ValueError: if there are no constraints, or a norm, range or mask is followed by something else, which would
            undo it.
    """

    def __init__(self, constraints: Iterable[Constraint]) -> None:
        super().__init__()
        for constraint in constraints:
            for part in constraint.children() if isinstance(constraint, Compose) else (constraint,):
                self.add_module(str(len(self._modules)), part)
        parts = list(self._parts())
        if not parts:
            raise InvalidValueError("Compose([]) has no constraints.")
        for part, after in itertools.pairwise(parts):
            if isinstance(part, NormAndRange):
                raise InvalidValueError(
                    f"{after} after {part} would undo it. Put the norm and range last, in one "
                    "NormAndRange(norm, ranges, mask=...), which holds all of them together."
                )

    def _parts(self) -> Iterable[Constraint]:
        return cast(Iterable[Constraint], self.children())

    def forward(self, stimulus: Tensor) -> Tensor:
        """The constrained stimuli, as a new tensor."""
        for part in self._parts():
            stimulus = part(stimulus)
        return stimulus

    def check(self, stimulus_shape: Sequence[int]) -> None:
        """Raise a ValueError if stimuli of this shape cannot meet one of the constraints."""
        for part in self._parts():
            part.check(stimulus_shape)

    def check_stimulus(self, stimulus: Tensor) -> None:
        """Raise a ValueError if an optimisation cannot start from these stimuli; names the rows at fault."""
        for part in self._parts():
            part.check_stimulus(stimulus)
            stimulus = part(stimulus)
