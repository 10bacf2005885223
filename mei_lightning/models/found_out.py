"""What a network is, found out by calling it: how many frames it loses, and how many neurons it has."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mei_lightning.devices import defaults_like
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.network_errors import OF_NETWORKS, responses_alone, way_out, what_it_says
from mei_lightning.models.precision import like_weights

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

    Raises:
        ValueError: if the responses have neurons and time exchanged.
    """
    for frames in _FRAMES:
        answer, longer = (_responses(network, _movie(size, length), session) for length in (frames, frames + 1))
        if answer is not None and longer is not None:
            _check_axes(network, answer, longer)
            follows = answer.ndim == longer.ndim == 3 and longer.shape[1] == answer.shape[1] + 1
            return frames - answer.shape[1] if follows and 0 < answer.shape[1] <= frames else None
    return None


def neurons_of(network: nn.Module, size: Sequence[int], is_still: bool) -> int | None:
    """The number of neurons of a network without sessions.

    Args:
        network: in evaluation mode.
        size: channels, height and width of a stimulus.
        is_still: whether it takes still images.

    Raises:
        ValueError: if it answers no stimulus of this size, or with something else than responses ``[batch, neurons]``
            or ``[batch, time', neurons]``.
        TypeError: if it returns no tensor.
    """
    stimuli = [_movie(size, frames) for frames in ([1] if is_still else _FRAMES)]
    first_error = None
    for stimulus in stimuli:
        try:
            answer = _answer(network, stimulus[:, :, 0] if is_still else stimulus, None)
        except Exception as error:
            # Whatever goes wrong: it is said below, if no other length helps.
            first_error = first_error or error
            continue
        responses = responses_alone(answer, type(network).__name__)
        if responses.ndim not in (2, 3):
            raise _unknown(network, stimulus, is_still, f"responses have the shape {tuple(responses.shape)}")
        if not is_still:
            longer = _responses(network, _movie(size, stimulus.shape[2] + 1), None)
            _check_axes(network, responses, responses if longer is None else longer)
        return responses.shape[-1]
    assert first_error is not None
    change = None
    if isinstance(first_error, OF_NETWORKS):
        change = way_out(network, like_weights(network, stimuli[0]), is_still, {})
    raise _unknown(network, stimuli[0], is_still, what_it_says(first_error), change) from first_error


def _unknown(
    network: nn.Module, stimulus: Tensor, is_still: bool, reason: str, change: str | None = None
) -> InvalidValueError:
    shown = stimulus[:, :, 0] if is_still else stimulus
    axes = "[batch, channels, height, width]" if is_still else "[batch, channels, time, height, width]"
    taken = " (without a frame_rate it is taken for a model of still images)" if is_still else ""
    needed = "[batch, neurons]" if is_still else "[batch, time', neurons]"
    change = change or (
        f"It has to answer with {needed}: check channel_names, height, width and frame_rate of its StimulusFormat, and "
        "give neurons_per_session, of each session if it has sessions."
    )
    return InvalidValueError(
        f"The number of neurons of a {type(network).__name__} could not be found out, by a stimulus {axes} of shape "
        f"{tuple(shown.shape)}{taken}: {reason}. {change}"
    )


def _check_axes(network: nn.Module, answer: Tensor, longer: Tensor) -> None:
    """See whether it is the last axis that grows with the stimulus."""
    if answer.ndim == 3 and longer.shape == (*answer.shape[:2], answer.shape[2] + 1):
        raise InvalidValueError(
            f"The output of {type(network).__name__} looks like [batch, neurons, time']: its last axis is longer for a "
            "longer stimulus. Exchange its last two axes: let its forward return responses.mT, which is [batch, time', "
            "neurons]."
        )


def _movie(size: Sequence[int], frames: int) -> Tensor:
    channels, height, width = size
    return torch.zeros(1, channels, frames, height, width)


@torch.no_grad()
def _answer(network: nn.Module, stimulus: Tensor, session: str | int | None) -> object:
    arguments = {} if session is None else {"data_key": session}
    shown = like_weights(network, stimulus)
    with torch.random.fork_rng(devices=[]), defaults_like(shown):
        return network(shown, **arguments)


def _responses(network: nn.Module, stimulus: Tensor, session: str | int | None) -> Tensor | None:
    try:
        answer = _answer(network, stimulus, session)
    except Exception:
        # Whatever goes wrong: what is wrong with the model is said when it is tried with the stimuli of a run.
        return None
    return answer if isinstance(answer, Tensor) else None
