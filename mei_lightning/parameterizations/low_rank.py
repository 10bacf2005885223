"""Stimuli that are separable in space and time, or sums of a few that are."""

import torch
from torch import Tensor

from mei_lightning.arguments import is_whole
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.parameterizations.base import Parameterization


class LowRank(Parameterization):
    """Sums of products of a course in time and a picture, for each channel: ``x[t, p] = sum_r a_r[t] b_r[p]``.

    Rank 1 is a separable stimulus, one picture whose contrast changes; a moving one takes rank 2. After the low-rank
    receptive fields of Park and Pillow 2013 (NeurIPS, "Bayesian inference for low rank spatiotemporal neural receptive
    fields"). A norm keeps the rank; clipping to a range comes last and can raise it.

    Parameters are ``[rows, channels, rank * (time + height * width)]``: all a_r, then all b_r. A given stimulus is
    approximated by its singular value decomposition, with the singular values shared equally between a and b.

    Args:
        rank: the number of products of each channel.

    Raises:
        ValueError: if the rank is not a positive whole number; in ``for_stimuli``, if the stimulus has fewer
            frames or pixels.

    Example:
        >>> separable = ml.LowRank(rank=1).for_stimuli((1, 2, 40, 18, 16))
        >>> parameters = separable.parameters_of(torch.randn(1, 2, 40, 18, 16))
        >>> parameters.shape  # of each channel, 40 for the course in time and 18 * 16 for the picture
        torch.Size([1, 2, 328])
        >>> torch.linalg.matrix_rank(separable(parameters).flatten(3))
        tensor([[1, 1]])
    """

    def __init__(self, rank: int = 1) -> None:
        super().__init__()
        if not is_whole(rank, 1):
            raise InvalidValueError(f"LowRank(rank={rank!r}) must be a whole number, at least 1.")
        self.rank = rank

    def prepare(self, shape: torch.Size, stimulus_format: StimulusFormat | None) -> None:
        """Check that the stimulus has frames and pixels enough for the rank."""
        _, time, height, width = shape
        if self.rank > min(time, height * width):
            raise InvalidValueError(
                f"LowRank(rank={self.rank}) is more than a stimulus of {time} frame(s) and {height * width} pixels can "
                f"have: at most {min(time, height * width)}."
            )

    def forward(self, parameters: Tensor) -> Tensor:
        """Stimuli ``[rows, channels, time, height, width]``."""
        assert self.shape is not None
        _, time, height, width = self.shape
        courses, pictures = parameters.split([self.rank * time, self.rank * height * width], dim=2)
        product = courses.unflatten(2, (self.rank, time)).mT @ pictures.unflatten(2, (self.rank, height * width))
        return product.unflatten(3, (height, width))

    def parameters_of(self, stimulus: Tensor) -> Tensor:
        """The parameters of the nearest stimuli of this rank."""
        courses, values, pictures = torch.linalg.svd(stimulus.flatten(3), full_matrices=False)
        share = values[..., : self.rank, None].sqrt()
        return torch.cat(
            [(courses.mT[..., : self.rank, :] * share).flatten(2), (pictures[..., : self.rank, :] * share).flatten(2)],
            dim=2,
        )

    def extra_repr(self) -> str:
        """The values, for ``repr``."""
        return f"rank={self.rank}"
