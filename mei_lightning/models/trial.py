"""Trying a model out, before any work: what it is, and whether it is what it is said to be."""

from collections.abc import Sequence
from inspect import signature

import torch
from torch import Tensor

from mei_lightning.exceptions import InvalidTypeError, InvalidValueError, MEIError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.coupling import check_rows_are_apart
from mei_lightning.models.network_errors import NO_GRAD, OF_NETWORKS, way_out, what_it_says
from mei_lightning.models.precision import like_weights
from mei_lightning.models.read_out import session_responses

_DEVIATION = 0.2
"""Standard deviation of the noise that is shown, in the model's units."""
_SAME = 1e-3
"""Relative difference up to which two answers to the same stimulus are the same: more than rounding anywhere."""


def try_model(model: RetinaModel, time_steps: int, sessions: Sequence[str | None]) -> None:
    """See by a few passes whether a model is what it is said to be.

    Each session answers one stimulus, and one that is a frame longer where it answers as many neurons as frames; the
    first one also the same stimulus again, alone and beside another one.

    Args:
        model: the model, frozen.
        time_steps: frames of the stimuli that it will see.
        sessions: the sessions that will be asked.

    Raises:
        ValueError: if the model does not take such stimuli, if its responses do not have the shape that they should
            have, do not follow the stimulus in a differentiable way, or differ from one call to the next, or from one
            batch to the next.
        TypeError: if it returns something else than a tensor, or does not take the session's name.
    """
    stimulus = _noise(model, 1, time_steps)
    first = sessions[0]
    with torch.random.fork_rng(devices=[]):
        with torch.enable_grad():
            responses = _answer(model, stimulus.clone().requires_grad_(), first)
        _check_time_axis(model, responses.shape, time_steps, first)
        _check_shape(model, responses.shape, time_steps, first)
        if not responses.requires_grad:
            raise InvalidValueError(
                f"The responses of model '{model.name}' do not depend on the stimulus in a differentiable way. "
                f"{NO_GRAD}"
            )
        with torch.no_grad():
            for session in sessions[1:]:
                shape = _answer(model, stimulus, session).shape
                _check_time_axis(model, shape, time_steps, session)
                _check_shape(model, shape, time_steps, session)
            _check_same(model, responses.detach(), _answer(model, stimulus, first))
            check_rows_are_apart(model, stimulus, responses.detach(), first)


def _noise(model: RetinaModel, batch: int, time_steps: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(model.stimulus_shape(time_steps, batch), generator=generator, device="cpu")
    return _DEVIATION * like_weights(model, noise)


def _answer(model: RetinaModel, stimulus: Tensor, session: str | None) -> Tensor:
    _check_signature(model)
    try:
        return session_responses(model, stimulus, session)
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except MEIError:
        raise
    except OF_NETWORKS as error:
        raise InvalidValueError(
            f"Model '{model.name}' cannot compute a stimulus [batch, channels, time, height, width] of shape "
            f"{tuple(stimulus.shape)}: {what_it_says(error)}. {_way_out(model, stimulus, session)}"
        ) from error


def _check_signature(model: RetinaModel) -> None:
    if type(model).forward is not RetinaModel.forward:
        return
    arguments = {"data_key": None} if model.has_sessions else {}
    try:
        called = signature(model.network.forward)
    except ValueError:
        return
    try:
        called.bind(None, **arguments)
    except TypeError as error:
        asked = "network(stimulus, data_key=session)" if model.has_sessions else "network(stimulus)"
        change = (
            "take the name of the session in its forward: def forward(self, stimulus, data_key). Or, if it has no "
            "sessions, give neurons_per_session=N."
            if model.has_sessions
            else 'name its sessions, neurons_per_session={"monday": N}, if it has some, or give its further arguments '
            "a default."
        )
        raise InvalidTypeError(f"Model '{model.name}' cannot be called as {asked} ({error}): {change}") from None


def _way_out(model: RetinaModel, stimulus: Tensor, session: str | None) -> str:
    arguments = None
    if type(model).forward is RetinaModel.forward:
        arguments = {"data_key": model.key_of_session(session)} if model.has_sessions else {}
    return (
        way_out(model.network, stimulus, model.stimulus_format.is_still, arguments)
        or "Check channel_names, height, width and frame_rate of its StimulusFormat, and time_steps."
    )


def _check_shape(model: RetinaModel, responses: Sequence[int], time_steps: int, session: str | None) -> None:
    lost = model.stimulus_format.frames_lost
    frames, neurons = time_steps - lost, model.neurons_per_session[session or ""]
    shape = tuple(responses)
    if shape == (1, frames, neurons):
        return
    if shape == (1, neurons, frames):
        change = "It has neurons and time exchanged: let its forward return responses.mT, the right order of the "
        change += "network's output."
    elif shape[:2] == (1, frames):
        change = f"Give neurons_per_session={shape[2]}, or leave it out."
    elif shape[0] == 1 and shape[2] == neurons and shape[1] <= time_steps:
        change = f"Give frames_lost={time_steps - shape[1]} in its StimulusFormat, or leave it out."
    else:
        change = f"Check frames_lost={lost}, neurons_per_session, and the order of the network's output."
    raise InvalidValueError(
        f"Model '{model.name}' answered a stimulus of {time_steps} frames with responses of shape {shape}, but "
        f"[batch, time', neurons] should be (1, {frames}, {neurons}). {change}"
    )


def _check_same(model: RetinaModel, responses: Tensor, again: Tensor) -> None:
    size = responses.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if responses.numel() else 0.0
    if not torch.allclose(responses, again, rtol=_SAME, atol=_SAME * size, equal_nan=True):
        raise InvalidValueError(
            f"Model '{model.name}' answers the same stimulus differently from one call to the next. Take noise out of "
            "its forward, and let dropout be off in evaluation mode: nn.Dropout, or F.dropout(x, training="
            "self.training)."
        )


def _check_time_axis(model: RetinaModel, shape: Sequence[int], time_steps: int, session: str | None) -> None:
    """See whether it is the axis of time that grows with the stimulus, where the sizes do not tell."""
    if model.stimulus_format.is_still or shape[1] != shape[2]:
        return
    try:
        with torch.no_grad():
            longer = session_responses(model, _noise(model, 1, time_steps + 1), session)
    except Exception:
        # A network that takes stimuli of one length only.
        return
    if longer.shape[1:] == (shape[1], shape[2] + 1):
        raise InvalidValueError(
            f"Model '{model.name}' has neurons and time exchanged: of a stimulus that is a frame longer there is a "
            "response of one neuron more. Let its forward return responses.mT, which is [batch, time', neurons]."
        )
