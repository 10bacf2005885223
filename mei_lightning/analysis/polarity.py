"""Whether a neuron answers to increments of light, to decrements, or to both."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mei_lightning.analysis.decomposition import Array
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.models.precision import precision_of_stimuli
from mei_lightning.neurons import NeuronOrGroup
from mei_lightning.objectives import MeanReducer, NeuronObjective

Polarity: TypeAlias = Literal["ON", "OFF", "ON-OFF", ""]

ON_OFF_SHARE = 1 / 3
"""A neuron is ON-OFF if its weaker response, to light or dark, is at least this share of its stronger one."""

_LARGE = 0.5
_SECONDS_OF_STEP = 0.25


def polarity_of_course(temporal: ArrayLike) -> Polarity:
    """ON if the centre's course in time ends bright, OFF if it ends dark.

    The last frame with at least half of the course's largest magnitude counts: it is what the neuron answers to, and
    the rebound of the neuron's response comes before it in its MEI. An ON-OFF neuron is not recognised: its MEI
    alternates, as that of any transient neuron does.

    Args:
        temporal: ``[time]``.

    Returns:
        "ON" or "OFF"; "" if the course is zero.

    Raises:
        ValueError: if ``temporal`` is not one-dimensional or empty.
    """
    values = np.asarray(temporal, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InvalidValueError(f"A temporal course is [time], but this has shape {values.shape}.")
    magnitude = np.abs(values)
    if not magnitude.max() > 0:
        return ""
    last = np.flatnonzero(magnitude >= _LARGE * magnitude.max())[-1]
    return "ON" if values[last] > 0 else "OFF"


def polarity_of_responses(on: float, off: float) -> Polarity:
    """Polarity from the responses to a step of light and a step of dark.

    Args:
        on: how much the step of light raises the response.
        off: how much the step of dark raises it.

    Returns:
        "ON-OFF" if the weaker is at least a third of the stronger (``ON_OFF_SHARE``), else "ON" or "OFF" for the
        stronger; "" if neither raises the response, or one is NaN.
    """
    on, off = max(on, 0.0), max(off, 0.0)
    if not max(on, off) > 0:
        return ""
    if min(on, off) >= ON_OFF_SHARE * max(on, off):
        return "ON-OFF"
    return "ON" if on > off else "OFF"


def step_of_light(temporal: Array, spatial: Array, reference: int, ranges: Array | None = None) -> Array:
    """The values, in space and colour, of a step of light in a neuron's centre, shaped as its MEI.

    Args:
        temporal: the channels' courses in time ``[channel, time]``.
        spatial: the channels' spatial parts ``[channel, height, width]``, positive in the centre.
        reference: the channel that gets brighter in the centre, as far as the MEI ever goes from the background
            there. The others follow as they do in the MEI.
        ranges: lowest and highest value ``[channel, 2]``; the step is made weaker so that it and the opposite step
            are inside.

    Returns:
        ``[channel, height, width]``; zeros if the reference channel is zero.
    """
    course = temporal[reference]
    if not course.any():
        return np.zeros_like(spatial)
    strength = np.abs(course).max() * (temporal @ course) / (course @ course)
    step = strength[:, None, None] * spatial
    if ranges is None:
        return step
    room = np.minimum(-ranges[:, 0], ranges[:, 1])
    largest = np.abs(step).max(axis=(1, 2))
    return step * min(1.0, np.min(room[largest > 0] / largest[largest > 0]))


def step_onset(facts: StimulusFormat, time_steps: int) -> int:
    """Frame at which a step begins: when the response begins, but not in the last quarter of a second.

    Args:
        facts: the model's stimulus.
        time_steps: frames of the stimulus.
    """
    shown = 1 if facts.frame_rate is None else max(1, round(_SECONDS_OF_STEP * facts.frame_rate))
    return max(0, min(facts.frames_lost, time_steps - shown))


@in_usual_modes
def responses_to_steps(
    model: nn.Module,
    neurons: Sequence[NeuronOrGroup],
    steps: Array,
    onset: int,
    time_steps: int,
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> tuple[Array, Array]:
    """How much a step of light, and one of dark, raises the response of each neuron.

    Args:
        model: as for ``NeuronObjective``.
        neurons: the neuron, or the group, of each step.
        steps: each neuron's step of light, ``[neuron, channel, height, width]``, in the model's units.
        onset: frame at which the step begins; the background, 0, comes before.
        time_steps: frames of the stimulus.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        For light and for dark, ``[neuron]``: the most by which the response exceeds that to the background, over
        the response's frames.
    """
    # Light, dark and background are three rows of a neuron.
    signs = np.array([1.0, -1.0, 0.0])
    objective = NeuronObjective(model, [neuron for neuron in neurons for _ in signs], MeanReducer())
    kind = precision_of_stimuli(model) or torch.float32

    def stimuli(rows: list[int]) -> Tensor:
        numbers, kinds = np.divmod(rows, len(signs))
        shown = torch.from_numpy(steps[numbers] * signs[kinds, None, None, None]).to(kind)
        stimulus = shown.new_zeros(len(rows), shown.shape[1], time_steps, *shown.shape[2:])
        stimulus[:, :, onset:] = shown[:, :, None]
        return stimulus

    traces = predict_rows(
        objective,
        stimuli,
        NeuronObjective.traces,
        title="Responses to light and dark",
        accelerator=accelerator,
        progress_bar=progress_bar,
    )
    light, dark, background = traces.double().unflatten(0, (-1, len(signs))).unbind(1)
    return (light - background).amax(1).numpy(), (dark - background).amax(1).numpy()
