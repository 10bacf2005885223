"""Stimuli as RGB frames, and the format that a stimulus has.

Colours on the screen: a stimulus of one channel is grey; of two (green and UV) shows green as green and UV, which no
screen has, as violet (red and blue in equal parts), so that equal values in both are grey; of three is red, green and
blue. The neutral value 0 is mid-grey, and all channels share one symmetric scale: brighter than grey is above 0, darker
below.
"""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat

Frames = NDArray[np.uint8]

MID_GREY = 128
VISIBLE_SIDE = 384

COLORS = 3
"""Channels that a screen can show."""


def stimulus_as_array(stimulus: Tensor | ArrayLike) -> NDArray[np.float64]:
    """A copy of a stimulus ``[channels, time, height, width]`` as a float64 array.

    Raises:
        ValueError: if the stimulus does not have four dimensions, or is empty.
    """
    if isinstance(stimulus, Tensor):
        stimulus = stimulus.detach().cpu().double().numpy()
    values = np.array(stimulus, dtype=np.float64)
    if values.ndim != 4 or values.size == 0:
        hint = " Pick one of the batch, stimulus[0]." if values.ndim == 5 else ""
        raise InvalidValueError(
            f"A stimulus is [channels, time, height, width], but this has shape {values.shape}.{hint}"
        )
    return values


def assumed_stimulus_format(shape: tuple[int, ...]) -> StimulusFormat:
    """The format taken for a stimulus ``[channels, time, height, width]`` that comes without one.

    Two channels are those of Höfling et al. 2024 (green and UV, pixels of 50 um, or of 12.5 um if there are more than
    20 columns, with that paper's mean and sd); one is grey and three are red, green and blue, of unknown pixel size.
    Videos have 30 Hz; a single frame is a still image.
    """
    channels, time_steps, height, width = shape
    names = {1: ("grey",), 2: ("green", "UV"), 3: ("red", "green", "blue")}
    frame_rate = None if time_steps == 1 else 30.0
    channel_names = names.get(channels, tuple(f"channel {number + 1}" for number in range(channels)))
    if channels != 2:
        return StimulusFormat(channel_names, height, width, frame_rate)
    if width > 20:
        return StimulusFormat(channel_names, height, width, frame_rate, 12.5, (37.198, 36.761), (30.269, 42.655))
    return StimulusFormat(channel_names, height, width, frame_rate, 50.0, (37.417, 36.132), (28.905, 39.841))


def dataset_stimulus_format(dataset: xr.Dataset) -> StimulusFormat:
    """The format of the stimuli in a dataset of MEIs, from its ``channel`` coordinate and its attributes."""
    facts = dataset.attrs
    return StimulusFormat(
        tuple(str(name) for name in dataset["channel"].values),
        dataset.sizes["y"],
        dataset.sizes["x"],
        frame_rate=facts.get("frame_rate"),
        pixel_size=facts.get("pixel_size"),
        mean=facts.get("mean"),
        sd=facts.get("sd"),
        frames_lost=int(facts.get("frames_lost", 0)),
    )


def stimulus_to_rgb_frames(
    stimulus: Tensor | ArrayLike,
    *,
    apply_undo_video_normalization: bool = False,
    stimulus_format: StimulusFormat | None = None,
) -> Frames:
    """Turn a stimulus into frames for the screen.

    By default 0 becomes mid-grey (128) and the largest magnitude of the whole stimulus, in any channel, white (255) or
    black (1), so that colours keep the balance between the channels. The stimulus itself is not changed.

    Args:
        stimulus: ``[channels, time, height, width]`` with one (grey), two (green, UV) or three (RGB) channels.
        apply_undo_video_normalization: show instead what the projector shows, ``value * sd + mean`` on its 8-bit
            scale, clipped to 0 and 255.
        stimulus_format: where ``mean`` and ``sd`` are found; by default those of Höfling et al. 2024 for two channels.

    Returns:
        ``[time, height, width, 3]``, red, green and blue from 0 to 255.

    Raises:
        ValueError: if the stimulus does not have four dimensions or has more than three channels, or if mean and sd
            are needed but not known.
    """
    values = stimulus_as_array(stimulus)
    channels = len(values)
    if channels > COLORS:
        raise InvalidValueError(
            f"A screen shows at most three channels, but the stimulus has {channels}. "
            "Pick some, e.g. stimulus[:3], or use plot_stimulus_composition, which shows any number."
        )
    if apply_undo_video_normalization:
        levels = projector_levels(values, stimulus_format or assumed_stimulus_format(values.shape))
    else:
        largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
        levels = MID_GREY + 127 * values / (largest or 1.0)
    levels_8bit = np.nan_to_num(levels, nan=MID_GREY, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)
    shown_by_red_green_blue = {1: [0, 0, 0], 2: [1, 0, 1], 3: [0, 1, 2]}[channels]
    return np.ascontiguousarray(np.moveaxis(levels_8bit[shown_by_red_green_blue], 0, -1))


def enlarge(frames: Frames, factor: int) -> Frames:
    """Repeat each pixel of ``[..., height, width, 3]`` ``factor`` times in both directions."""
    return frames.repeat(factor, axis=-3).repeat(factor, axis=-2)


def projector_levels(values: NDArray[np.float64], facts: StimulusFormat) -> NDArray[np.float64]:
    """A stimulus ``[channels, time, height, width]`` on the projector's 8-bit scale, neither rounded nor clipped.

    Raises:
        ValueError: if the format has no mean and sd, or other channels.
    """
    if facts.mean is None or facts.sd is None:
        raise InvalidValueError(
            "The projector's values are stimulus * sd + mean, but mean and sd are not known. Give the model a "
            "StimulusFormat that has both."
        )
    if len(facts.mean) != len(values):
        raise InvalidValueError(
            f"The stimulus has {len(values)} channels, but stimulus_format has {facts.channel_names}."
        )
    mean, sd = (np.reshape(value, (-1, 1, 1, 1)) for value in (facts.mean, facts.sd))
    return values * sd + mean
