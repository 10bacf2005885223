"""MEIs across contrasts: how a response changes with the contrast of a stimulus in each of two channels.

``chromatic_landscape`` does the same for a neuron of a dataset of MEIs, within the ranges of the run.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.gradients import gradient_of
from mei_lightning.objectives import as_objective


class MeiAcrossContrasts(nn.Module):
    """A stimulus with a contrast for each channel, as a module that can be differentiated by the contrasts.

    Args:
        contrast_values: the contrasts, ``[channels]``.
        stim: ``[1, channels, time, height, width]``.
    """

    def __init__(self, contrast_values: Tensor, stim: Tensor) -> None:
        super().__init__()
        self.contrast_values = nn.Parameter(contrast_values)
        self.stim = nn.Parameter(stim.detach(), requires_grad=False)

    def forward(self) -> Tensor:
        """The stimulus ``[1, channels, time, height, width]``, each channel times its contrast."""
        return self.contrast_values[:, None, None, None] * self.stim


def trainer_fn(
    mei_contrast_gen: MeiAcrossContrasts,
    model_neuron: Any,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
    lr: float = 1.0,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The gradient of an objective by the contrasts ``[channels]``, and the objective itself.

    Args:
        mei_contrast_gen: the stimulus and its contrasts, which stay what they are.
        model_neuron: an objective of this package or of openretina.
        optimizer_class: accepted for openretina's callers; nothing is optimised.
        lr: the same.
    """
    score = as_objective(model_neuron)(mei_contrast_gen()).sum()
    (gradient,) = torch.autograd.grad(score, mei_contrast_gen.contrast_values)
    return gradient.cpu().numpy(), score.detach().cpu().numpy()


def get_gradient_grid(
    stim: Tensor,
    model_neuron: Any,
    n_channels: int = 2,
    start: float = -1,
    stop: float = 1,
    step_size: float = 0.1,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """An objective, and its gradient by the contrasts, on a grid of contrasts of two channels.

    The grid is the one that is asked for; openretina's runs from -1 to 1 whatever ``start`` and ``stop`` say.

    Args:
        stim: ``[1, 2, time, height, width]``.
        model_neuron: an objective of this package or of openretina.
        n_channels: 2.
        start: the lowest contrast, of both channels.
        stop: the highest.
        step_size: from one to the next.

    Returns:
        The gradient ``[2, n, n]``, the objective ``[n, n]`` and the gradient's norm ``[n, n]``, by the contrast of
        the first and of the second channel; and the contrasts ``[n]`` of the first and of the second channel.

    Raises:
        ValueError: if the stimulus does not have two channels, or there are no contrasts.
    """
    if n_channels != 2 or stim.ndim != 5 or stim.shape[:2] != (1, 2):
        raise InvalidValueError(
            f"Contrasts are those of one stimulus of two channels, [1, 2, time, height, width]; got n_channels="
            f"{n_channels} and a stimulus of shape {tuple(stim.shape)}."
        )
    contrasts = np.arange(start, stop + step_size, step_size) if step_size > 0 else np.empty(0)
    if not len(contrasts):
        raise InvalidValueError(f"There are no contrasts from start={start} to stop={stop} by step_size={step_size}.")
    objective = as_objective(model_neuron)
    gradients, responses = [], []
    for contrast in contrasts:
        pairs = torch.tensor([[contrast, other] for other in contrasts]).to(stim).requires_grad_()
        scores = objective(pairs[:, :, None, None, None] * stim.detach())
        gradient = gradient_of(scores.sum(), pairs)
        gradients.append(gradient.T.double().cpu().numpy())
        responses.append(scores.detach().double().cpu().numpy())
    grid = np.stack(gradients, axis=1)
    return grid, np.stack(responses), np.linalg.norm(grid, axis=0), contrasts, contrasts.copy()


def equalize_channels(stim: Tensor, flip_green: bool = False) -> Tensor:
    """Each stimulus with all its channels at equal norms, the norm of all together staying what it is.

    Args:
        stim: ``[rows, channels, time, height, width]``; openretina's leaves zeros of all rows but the first.
        flip_green: reverse the first channel.

    Raises:
        ValueError: if a channel is zero.
    """
    norms = stim.flatten(2).norm(dim=2)
    if not norms.all():
        raise InvalidValueError("A channel of the stimulus is zero, so no factor gives it a norm.")
    factors = stim.flatten(1).norm(dim=1, keepdim=True) / (stim.shape[1] ** 0.5 * norms)
    if flip_green:
        factors = torch.cat([-factors[:, :1], factors[:, 1:]], dim=1)
    return stim * factors[:, :, None, None, None]
