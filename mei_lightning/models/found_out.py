"""What a network is, found out by calling it: how many frames it loses, and how many neurons it has."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FRAMES = (40, 80, 160, 320)
"""Lengths of stimuli to try, until one is long enough."""


def frames_lost_by(network: nn.Module, size: Sequence[int], session: str | int | None) -> int | None:
    """How many frames fewer than the stimulus the responses of a network of movies have.

    Args:
        network: in evaluation mode.
        size: channels, height and width of a stimulus.
        session: one to ask, if there are sessions.

    Returns:
        None if it cannot be told, e.g. because the network takes stimuli of one length only.
    """
    for frames in _FRAMES:
        answer, longer = (_responses(network, _movie(size, length), session) for length in (frames, frames + 1))
        if answer is not None and longer is not None:
            follows = answer.ndim == longer.ndim == 3 and longer.shape[1] == answer.shape[1] + 1
            return frames - answer.shape[1] if follows and 0 < answer.shape[1] <= frames else None
    return None


def neurons_of(network: nn.Module, size: Sequence[int], is_still: bool) -> int | None:
    """The number of neurons of a network without sessions.

    Args:
        network: in evaluation mode.
        size: channels, height and width of a stimulus.
        is_still: whether it takes still images.

    Returns:
        None if it cannot be told.
    """
    stimuli = [torch.zeros(1, *size)] if is_still else [_movie(size, frames) for frames in _FRAMES]
    for stimulus in stimuli:
        answer = _responses(network, stimulus, None)
        if answer is not None:
            return answer.shape[-1] if answer.ndim in (2, 3) else None
    return None


def _movie(size: Sequence[int], frames: int) -> Tensor:
    channels, height, width = size
    return torch.zeros(1, channels, frames, height, width)


@torch.no_grad()
def _responses(network: nn.Module, stimulus: Tensor, session: str | int | None) -> Tensor | None:
    weight = next((one for one in network.parameters() if one.is_floating_point()), stimulus)
    arguments = {} if session is None else {"data_key": session}
    try:
        with torch.random.fork_rng(devices=[]):
            answer = network(stimulus.to(weight.device, weight.dtype), **arguments)
    except Exception:
        # Whatever goes wrong: what is wrong with the model is said when it is tried with the stimuli of a run.
        return None
    return answer if isinstance(answer, Tensor) else None
