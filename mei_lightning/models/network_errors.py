"""What is said of a network that cannot compute a stimulus, or returns something else than responses."""

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mei_lightning
from mei_lightning.exceptions import InvalidTypeError

OF_NETWORKS = (RuntimeError, ValueError, IndexError, AssertionError)
"""Errors with which a network refuses a stimulus."""

NO_GRAD = "Take torch.no_grad(), torch.inference_mode(), detach() and numpy() out of its forward."

_BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


def what_it_says(error: Exception) -> str:
    """The first line of a network's error, and which line of the user's own code it comes from."""
    said = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    of_libraries = [str(Path(library.__file__).parent) for library in (torch, mei_lightning) if library.__file__]
    for place in reversed(traceback.extract_tb(error.__traceback__)):
        if not place.filename.startswith((*of_libraries, "<")):
            return f"{said} (line {place.lineno} of {place.filename})"
    return said


def responses_alone(answer: object, name: str) -> Tensor:
    """What a network returns, if it is a tensor.

    Args:
        answer: what it returned.
        name: the model's.

    Raises:
        TypeError: if it is no tensor.
    """
    if isinstance(answer, Tensor):
        return answer
    raise InvalidTypeError(
        f"The network of model '{name}' returned a {type(answer).__name__}, where the responses alone "
        "are needed, as a tensor: change the last line of its forward to return responses."
    )


def way_out(network: nn.Module, stimulus: Tensor, is_still: bool, arguments: Mapping[str, Any] | None) -> str | None:
    """What to change, found by trying what a network takes in place of a stimulus that it refuses.

    Args:
        network: the network, frozen.
        stimulus: one, ``[1, channels, time, height, width]``, with a single frame for a network of still images.
        is_still: whether the network is said to be one of still images.
        arguments: what it is called with besides; None if it is not to be called.

    Returns:
        A sentence; None if nothing helps.
    """
    if any(values.is_inference() for values in (*network.parameters(), *network.buffers())):
        return "Its weights were made under torch.inference_mode(): make or load it outside of that."
    for name, part in network.named_modules():
        if isinstance(part, _BATCH_NORMS) and part.running_mean is None:
            return (
                f"Its layer '{name}' ({type(part).__name__}) has no running statistics: it needs a batch, on all of "
                "which its answer depends."
            )
    for shown, change in _other_stimuli(stimulus, is_still) if arguments is not None else ():
        try:
            with torch.no_grad():
                answer = network(shown, **(arguments or {}))
        except Exception:
            # Whatever goes wrong: this is not what it takes.
            continue
        # Others are what came of an axis that was taken for another one.
        if not isinstance(answer, Tensor) or (answer.ndim in (2, 3) and len(answer) == len(shown)):
            return change
    return None


def _other_stimuli(stimulus: Tensor, is_still: bool) -> Iterator[tuple[Tensor, str]]:
    # Two, since a single one can be taken for an axis of something else.
    stimulus = stimulus.detach().expand(2, -1, -1, -1, -1)
    seen = stimulus[:, :, 0] if is_still else stimulus
    yield seen, NO_GRAD
    height, width = seen.shape[-2:]
    yield seen.mT, f"It takes height={width} and width={height}: exchange them in its StimulusFormat."
    for channels in range(1, 5):
        if channels != seen.shape[1]:
            yield (
                seen[:, :1].expand(-1, channels, *[-1] * (seen.ndim - 2)),
                f"It takes {channels} channel(s): give so many channel_names in its StimulusFormat.",
            )
    if is_still:
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
