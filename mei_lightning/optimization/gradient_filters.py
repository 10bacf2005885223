"""What becomes of the gradient of each step before the optimizer sees it."""

from torch import Tensor

from mei_lightning.arguments import in_short, is_number
from mei_lightning.constraints import gaussian_filter
from mei_lightning.exceptions import InvalidValueError


class GradientFilter:
    """Changes gradients with respect to stimuli, each row on its own; derive from it for one of your own.

    Its settings belong to the configuration of a run: those arguments of the constructor that are kept as attributes of
    the same names or, if it has others, what ``__repr__`` tells.

    Example:
        >>> class OnlyUV(ml.GradientFilter):
        ...     def __call__(self, gradient):
        ...         return gradient * torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
        >>> meis = ml.find_meis(
        ...     "simulated", [("session_1", 0)], gradient_filter=OnlyUV(), max_steps=8, progress_bar=False
        ... )
        >>> energy = meis.stimulus.std(["neuron", "time", "y", "x"])
        >>> bool(energy.sel(channel="green") < 0.1 * energy.sel(channel="UV"))  # green has not grown
        True
    """

    def __call__(self, gradient: Tensor) -> Tensor:
        """The changed gradient, as a new tensor.

        Args:
            gradient: ``[rows, channels, time, height, width]``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what becomes of gradients: write __call__.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class GradientBlur(GradientFilter):
    """Smooths the gradient of each step with a Gaussian, so that stimuli have less fine structure.

    Walker et al. 2019 (Nature Neuroscience 22, "Inception loops discover what excites neurons most using deep
    predictive models") filter the gradients from which they make MEIs so that high spatial frequencies grow slowly.
    Unlike a blur of the stimulus itself (``SpatialLowPass`` and ``TemporalLowPass``; Yosinski et al. 2015, arXiv
    1506.06579), it does not smooth again what earlier steps have left. Where the norm is fixed, stimuli go towards
    their smoothed gradient: that of a linear neuron to its filter, smoothed once. As ever, the best stimulus on the way
    is kept, which can hold some of the noise that it began with. For a filter that falls off with a power of the
    frequency, and changes only how an optimum is reached, see ``Fourier(decay=...)``.

    At its borders a gradient goes on as its mirror image (``mode="reflect"`` of ``scipy.ndimage.gaussian_filter``). So
    the filter is symmetric and, but for being truncated at 4 standard deviations, positive definite: a small step along
    the smoothed gradient raises the value.

    Args:
        space: standard deviation over height and width in pixels; 0 for none.
        time: standard deviation in frames; 0 for none.

    Raises:
        ValueError: if one is negative or not finite.

    Example:
        >>> gradient = torch.zeros(1, 1, 1, 9, 9)
        >>> gradient[..., 4, 4] = 1.0
        >>> smooth = ml.GradientBlur(space=1.0)(gradient)
        >>> print(f"{smooth.sum():.2f} {smooth.max():.2f}")  # the same sum, and 1 / (2 pi) in the middle
        1.00 0.16
        >>> blur = ml.GradientBlur(space=1.0, time=1.0)
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], gradient_filter=blur, max_steps=4, progress_bar=False)
    """

    def __init__(self, space: float = 0.0, time: float = 0.0) -> None:
        for name, sigma in (("space", space), ("time", time)):
            if not is_number(sigma) or sigma < 0:
                raise InvalidValueError(
                    f"GradientBlur({name}={in_short(sigma)}) must be a standard deviation, at least 0 and finite."
                )
        self.space = float(space)
        self.time = float(time)

    def __call__(self, gradient: Tensor) -> Tensor:
        """The smoothed gradient ``[rows, channels, time, height, width]``."""
        for sigma, dims in ((self.time, (2,)), (self.space, (3, 4))):
            for dim in dims if sigma else ():
                gradient = gaussian_filter(gradient, sigma, dim, border="reflect")
        return gradient

    def __repr__(self) -> str:
        return f"GradientBlur(space={self.space:g}, time={self.time:g})"
