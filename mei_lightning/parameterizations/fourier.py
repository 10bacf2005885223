"""Stimuli made from waves in space and time, slow and wide ones first, within bands."""

import math
from numbers import Real

import torch
from torch import Tensor

from mei_lightning.arguments import is_positive
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.parameterizations.base import Parameterization

Band = tuple[float | None, float | None]
"""Lowest and highest frequency, both included; None means unbounded."""


class Fourier(Parameterization):
    """Sums of waves in space and time, ``x = H (s * z)``, of chosen frequencies, of which low ones weigh more.

    H is the discrete Hartley transform over time, height and width, which holds what the Fourier transform of a real
    stimulus does in as many real numbers: ``H z = Re F z - Im F z``, its own inverse. The scale is ``s = 1 / max(f,
    f_1)^decay`` with f the frequency in cycles per sample, over time and space together, and f_1 that of one cycle per
    longest side (Olah, Mordvintsev and Schubert 2017, Distill, "Feature visualization"; Mordvintsev et al. 2018,
    Distill, "Differentiable image parameterizations"). With
    Adam, as there, ``decay=1`` makes steps fall off with 1/f; with gradient ascent ``decay=0.5`` does, since the scale
    counts twice then, in the gradient and in the stimulus.

    Waves are periodic: the last frame goes on in the first, and one border in the opposite one. A norm keeps the bands;
    clipping to a range comes last and adds other frequencies, and so do a mask and filters, which are not periodic.

    Parameters are ``[rows, channels, frequencies within the bands]``.

    Args:
        temporal: lowest and highest temporal frequency in Hz; None for one or both means unbounded.
        spatial: lowest and highest spatial frequency, of any orientation, in cycles per mm of retina, or per degree.
        decay: the power of the scale; 0 for none.
        micrometres_per_degree: of the retina, about 31 in the mouse (Remtulla and Hallett 1985, Vision Research 25);
            ``spatial`` is in cycles per degree then.

    Raises:
        ValueError: if a band is no pair of numbers or empty, or a number is not positive; in ``for_stimuli``, if the
            frame rate or pixel size that a band needs is not known, or a stimulus has no frequency within the bands.

    Example:
        >>> facts = ml.StimulusFormat(("luminance",), height=4, width=4, frame_rate=30.0)
        >>> slow = ml.Fourier(temporal=(1.0, 4.0)).for_stimuli((1, 1, 30, 4, 4), facts)
        >>> flash = torch.zeros(1, 1, 30, 4, 4)
        >>> flash[:, :, 15] = 1.0  # all temporal frequencies
        >>> shown = slow(slow.parameters_of(flash))[0, 0, :, 0, 0]
        >>> (torch.fft.rfft(shown).abs() > 0.01).nonzero().flatten()  # in Hz, as the stimulus lasts 1 s
        tensor([1, 2, 3, 4])
    """

    scale: Tensor
    chosen: Tensor

    def __init__(
        self,
        temporal: Band | None = None,
        spatial: Band | None = None,
        decay: float = 0.5,
        micrometres_per_degree: float | None = None,
    ) -> None:
        super().__init__()
        self.temporal = _checked("temporal", temporal)
        self.spatial = _checked("spatial", spatial)
        if decay != 0 and not is_positive(decay):
            raise InvalidValueError(f"Fourier(decay={decay!r}) must be at least 0 and finite.")
        if micrometres_per_degree is not None and not is_positive(micrometres_per_degree):
            raise InvalidValueError(
                f"Fourier(micrometres_per_degree={micrometres_per_degree!r}) must be positive and finite."
            )
        self.decay = decay
        self.micrometres_per_degree = micrometres_per_degree

    def prepare(self, shape: torch.Size, stimulus_format: StimulusFormat | None) -> None:
        """Choose the frequencies within the bands, and scale them."""
        _, *sides = shape
        frequencies = [torch.fft.fftfreq(side, dtype=torch.float64) for side in sides]
        time, height, width = torch.meshgrid(*frequencies, indexing="ij")
        temporal, spatial = time.abs(), torch.hypot(height, width)
        within = torch.ones_like(time, dtype=torch.bool)
        existing = []
        if self.temporal is not None:
            hertz = temporal * self._frame_rate(stimulus_format)
            within &= _within(hertz, self.temporal)
            existing.append(f"temporal ones are {_described(hertz)} Hz")
        if self.spatial is not None:
            cycles = spatial * self._pixels_per_unit(stimulus_format)
            within &= _within(cycles, self.spatial)
            unit = "mm" if self.micrometres_per_degree is None else "degree"
            existing.append(f"spatial ones {_described(cycles)} cycles per {unit}")
        if not within.any():
            raise InvalidValueError(
                f"A stimulus of {sides[0]} frames of {sides[1]} x {sides[2]} pixels has no frequency within the bands "
                f"of {self!r}: its {', and its '.join(existing)}. Choose other bands, or a longer stimulus."
            )
        scale = torch.hypot(temporal, spatial).clamp(min=1 / max(sides)).pow(-self.decay)[within]
        self.register_buffer("chosen", within.flatten().nonzero().flatten(), persistent=False)
        self.register_buffer("scale", (scale / scale.max()).to(torch.get_default_dtype()), persistent=False)

    def _frame_rate(self, stimulus_format: StimulusFormat | None) -> float:
        if stimulus_format is None:
            raise InvalidValueError(
                f"Fourier(temporal={self.temporal}) is in Hz, which needs the frame rate of the stimulus: give "
                "for_stimuli(shape, stimulus_format) one with a frame_rate, or leave temporal out."
            )
        if stimulus_format.frame_rate is None:
            raise InvalidValueError(
                f"Fourier(temporal={self.temporal}) is in Hz, and still images have no frame rate: leave temporal out."
            )
        return stimulus_format.frame_rate

    def _pixels_per_unit(self, stimulus_format: StimulusFormat | None) -> float:
        if stimulus_format is None or stimulus_format.pixel_size is None:
            raise InvalidValueError(
                f"Fourier(spatial={self.spatial}) needs the size of a pixel on the retina: give "
                "for_stimuli(shape, stimulus_format) one with a pixel_size, or leave spatial out."
            )
        return (self.micrometres_per_degree or 1000.0) / stimulus_format.pixel_size

    def forward(self, parameters: Tensor) -> Tensor:
        """Stimuli ``[rows, channels, time, height, width]``."""
        assert self.shape is not None
        pixels = math.prod(self.shape[1:])
        spectrum = parameters.new_zeros(*parameters.shape[:2], pixels)
        spectrum = spectrum.index_copy(2, self.chosen, parameters * self.scale)
        return _hartley(spectrum.unflatten(2, self.shape[1:]))

    def parameters_of(self, stimulus: Tensor) -> Tensor:
        """The parameters of the nearest stimuli: their own waves, as far as these are within the bands."""
        return _hartley(stimulus).flatten(2)[..., self.chosen] / self.scale

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        degrees = self.micrometres_per_degree
        unit = "" if degrees is None else f", micrometres_per_degree={degrees:g}"
        return f"temporal={self.temporal}, spatial={self.spatial}, decay={self.decay:g}{unit}"


def _hartley(values: Tensor) -> Tensor:
    """The discrete Hartley transform over the last three dimensions; orthonormal, and its own inverse."""
    spectrum = torch.fft.fftn(values, dim=(2, 3, 4), norm="ortho")
    return spectrum.real - spectrum.imag


def _checked(name: str, band: Band | None) -> Band | None:
    if band is None:
        return None
    pair = hasattr(band, "__len__") and len(band) == 2
    if not pair or not all(value is None or isinstance(value, Real) for value in band):
        raise InvalidValueError(
            f"Fourier({name}={band!r}) must be (low, high), one of which can be None, or None for all."
        )
    low, high = (None if value is None else float(value) for value in band)
    if not 0 <= (low or 0.0) <= (math.inf if high is None else high):
        raise InvalidValueError(f"Fourier({name}={band!r}) is empty: 0 <= low <= high has to hold.")
    return low, high


def _described(frequencies: Tensor) -> str:
    """Which frequencies there are; the highest is that of Nyquist, along the diagonal in space."""
    positive = frequencies[frequencies > 0]
    return f"0 and {positive.min():.3g} to {positive.max():.3g}" if len(positive) else "0"


def _within(frequency: Tensor, band: Band) -> Tensor:
    low, high = band
    # A band that ends at a frequency of the grid includes it, however that is rounded.
    return (frequency >= (low or 0.0) * (1 - 1e-9)) & (frequency <= (math.inf if high is None else high) * (1 + 1e-9))
