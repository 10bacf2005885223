"""Trying a model out, before any work: what it is, and whether it is what it is said to be."""

from collections.abc import Iterator, Sequence
from inspect import signature

import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidTypeError, InvalidValueError, MEIError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.coupling import OF_NETWORKS, check_rows_are_apart, what_it_says
from mei_lightning.models.read_out import session_responses

_DEVIATION = 0.2
"""Standard deviation of the noise that is shown, in the model's units."""
_SAME = 1e-3
"""Relative difference up to which two answers to the same stimulus are the same: more than rounding anywhere."""

_BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d

_NO_GRAD = "Take torch.no_grad(), torch.inference_mode(), detach() and numpy() out of its forward."


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
                f"{_NO_GRAD}"
            )
        with torch.no_grad():
            for session in sessions[1:]:
                shape = _answer(model, stimulus, session).shape
                _check_time_axis(model, shape, time_steps, session)
                _check_shape(model, shape, time_steps, session)
            _check_same(model, responses.detach(), _answer(model, stimulus, first))
            check_rows_are_apart(model, stimulus, responses.detach(), first)


def _noise(model: RetinaModel, batch: int, time_steps: int) -> Tensor:
    weight = next((one for one in model.parameters() if one.is_floating_point()), torch.zeros(()))
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn(model.stimulus_shape(time_steps, batch), generator=generator, device="cpu")
    return _DEVIATION * noise.to(weight.device, weight.dtype)


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
        way_out = (
            "take the name of the session in its forward: def forward(self, stimulus, data_key). Or, if it has no "
            "sessions, give neurons_per_session=N."
            if model.has_sessions
            else 'name its sessions, neurons_per_session={"monday": N}, if it has some, or give its further arguments '
            "a default."
        )
        raise InvalidTypeError(f"Model '{model.name}' cannot be called as {asked} ({error}): {way_out}") from None


def _way_out(model: RetinaModel, stimulus: Tensor, session: str | None) -> str:
    """What to change, found by trying what the network takes in place of the stimulus."""
    if any(values.is_inference() for values in (*model.parameters(), *model.buffers())):
        return "Its weights were made under torch.inference_mode(): make or load it outside of that."
    for name, part in model.network.named_modules():
        if isinstance(part, _BATCH_NORMS) and part.running_mean is None:
            return (
                f"Its layer '{name}' ({type(part).__name__}) has no running statistics: it needs a batch, on all of "
                "which its answer depends."
            )
    if type(model).forward is RetinaModel.forward:
        arguments = {"data_key": model.key_of_session(session)} if model.has_sessions else {}
        for shown, change in _other_stimuli(model, stimulus):
            try:
                with torch.no_grad():
                    answer = model.network(shown, **arguments)
            except Exception:
                # Whatever goes wrong: this is not what it takes.
                continue
            # Others are what came of an axis that was taken for another one.
            if not isinstance(answer, Tensor) or (answer.ndim in (2, 3) and len(answer) == len(shown)):
                return change
    return "Check channel_names, height, width and frame_rate of its StimulusFormat, and time_steps."


def _other_stimuli(model: RetinaModel, stimulus: Tensor) -> Iterator[tuple[Tensor, str]]:
    facts = model.stimulus_format
    # Two, since a single one can be taken for an axis of something else.
    stimulus = stimulus.detach().expand(2, -1, -1, -1, -1)
    seen = stimulus[:, :, 0] if facts.is_still else stimulus
    yield seen, _NO_GRAD
    yield seen.mT, f"It takes height={facts.width} and width={facts.height}: exchange them in its StimulusFormat."
    for channels in range(1, 5):
        if channels != len(facts.channel_names):
            yield (
                seen[:, :1].expand(-1, channels, *[-1] * (seen.ndim - 2)),
                f"It takes {channels} channel(s): give so many channel_names in its StimulusFormat.",
            )
    if facts.is_still:
        yield seen.movedim(1, -1), "It has channels last: begin its forward with x = x.movedim(1, -1)."
        yield stimulus.expand(-1, -1, 40, -1, -1), "It takes movies: give the frame_rate in its StimulusFormat."
        return
    yield (
        seen.transpose(1, 2),
        "It takes [batch, time, channels, height, width]: begin its forward with x = x.transpose(1, 2).",
    )
    yield seen.movedim(1, -1), "It has channels last: begin its forward with x = x.movedim(1, -1)."
    yield seen[:, :, 0], "It takes still images: give frame_rate=None in its StimulusFormat."
    frames = stimulus.shape[2]
    yield torch.cat([seen] * 4, dim=2), f"It needs a longer stimulus: give time_steps of more than {frames}."


def _check_shape(model: RetinaModel, responses: Sequence[int], time_steps: int, session: str | None) -> None:
    lost = model.stimulus_format.frames_lost
    frames, neurons = time_steps - lost, model.neurons_per_session[session or ""]
    shape = tuple(responses)
    if shape == (1, frames, neurons):
        return
    if shape == (1, neurons, frames):
        way_out = "It has neurons and time exchanged: let its forward return responses.mT, the right order of the "
        way_out += "network's output."
    elif shape[:2] == (1, frames):
        way_out = f"Give neurons_per_session={shape[2]}, or leave it out."
    elif shape[0] == 1 and shape[2] == neurons and shape[1] <= time_steps:
        way_out = f"Give frames_lost={time_steps - shape[1]} in its StimulusFormat, or leave it out."
    else:
        way_out = f"Check frames_lost={lost}, neurons_per_session, and the order of the network's output."
    raise InvalidValueError(
        f"Model '{model.name}' answered a stimulus of {time_steps} frames with responses of shape {shape}, but "
        f"[batch, time', neurons] should be (1, {frames}, {neurons}). {way_out}"
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
