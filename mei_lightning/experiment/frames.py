"""MEIs one after the other as 8-bit frames, and when each of them is shown."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mei_lightning.analysis.populations import position_of
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.experiment.levels import (
    BRIGHTEST,
    COLOURS,
    colours_of,
    light_of_values,
    ranges_of_projector,
    values_outside,
    values_to_send,
    words_for_light,
)
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.frames import Frames, dataset_stimulus_format, projector_levels
from mei_lightning.results.configuration import as_data


@dataclass(frozen=True)
class ProjectorStimuli:
    """What a projector shows, and how it came about.

    Args:
        frames: ``[frame, height, width, 3]``, the values of red, green and blue that are sent to the projector.
        frame_rate: frames per second (Hz).
        frame_times: a row for each frame of the video: ``neuron`` (empty for the background), ``repeat`` (from 0, -1
            for the background), ``frame`` (of the neuron's stimulus, -1 for the background) and ``onset_s``, seconds
            from the start of the video.
        levels: a row for each neuron and channel: ``neuron``, ``channel``, ``colour`` (which of R, G and B show it),
            ``background`` (the value of its 0), ``lowest`` and ``highest`` value before rounding, how many
            ``values`` there are, and how many of them are ``below`` 0 and ``above`` 255 once rounded.
        shown_as: what was chosen (gap, enlargement, repeats, seed of the order, trigger, light), and the values of red,
            green and blue that are sent for the background.

    Example:
        >>> shown = [(-1.294, 7.528), (-0.907, 5.494)]  # green and UV that the projector has
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], ranges=shown, max_steps=4, progress_bar=False)
        >>> stimuli = ml.projector_stimuli(meis, ["session_1/0"], gap=1.0, repeats=2)
        >>> stimuli.presentations["first_frame"].tolist()  # after 30 frames of background, and after 30 + 40 + 30
        [30, 100]
        >>> stimuli.levels[["channel", "colour", "background"]].values.tolist()
        [['green', 'G', 37], ['UV', 'B', 36]]
    """

    frames: Frames
    frame_rate: float
    frame_times: pd.DataFrame
    levels: pd.DataFrame
    shown_as: Mapping[str, Any]

    @property
    def presentations(self) -> pd.DataFrame:
        """A row for each showing of a stimulus, with ``neuron``, ``repeat``, ``first_frame`` and ``onset_s``."""
        first = self.frame_times[self.frame_times["frame"] == 0]
        return first.rename_axis("first_frame").reset_index()[["neuron", "repeat", "first_frame", "onset_s"]]


def projector_stimuli(
    meis: xr.Dataset,
    neurons: Sequence[str],
    *,
    gap: float = 1.0,
    clip: bool = False,
    colours: Mapping[str, str] | None = None,
    frame_rate: float | None = None,
    repeats: int = 1,
    order_seed: int | None = None,
    enlargement: int = 1,
    trigger: int = 0,
    gamma: float | None = None,
    measured_light: np.ndarray | str | Path | None = None,
) -> ProjectorStimuli:
    """The MEIs of some neurons, one after the other, in the values of an 8-bit projector.

    A value is ``stimulus * sd + mean`` with the mean and the sd that the model's training stimuli were normalised
    with, rounded. Each stimulus comes after a gap of background, the value of 0, and a gap ends the video.

    Args:
        meis: MEIs as ``find_meis`` returns them.
        neurons: labels, in the order of showing, e.g. ``["session_1/5", "session_1/7"]``.
        gap: seconds of background, rounded to whole frames.
        clip: show 0 for values below 0 and 255 for those above 255, and warn. Otherwise there must be none.
        colours: the projector's colours (``"R"``, ``"G"``, ``"B"`` or several) that show each channel; by default G
            for green, B for UV or blue, R for red and all for grey. A colour that shows no channel is 0.
        frame_rate: images per second (Hz) of still images; movies have their own.
        repeats: how often all of them are shown, one round after the other.
        order_seed: show each round in a random order of its own, which this number determines; by default each is in
            the order of ``neurons``.
        enlargement: pixels of the screen, along each side, that show a pixel of the model.
        trigger: side of a square, in pixels of the screen, in a black strip below the stimulus: white while the first
            frame of a stimulus is shown, for a photodiode; 0 for none.
        gamma: of a projector whose light is ``(value / 255) ** gamma``; the values that are sent make up for it.
        measured_light: the light that was measured for each of the values 0 to 255, ``[256]`` or ``[256, 3]``, an
            array or a .npy or .csv file; the values that are sent make up for it. By default light is taken to be
            proportional to the value.

    Returns:
        The frames ``[frame, height, width, 3]``, 8-bit, with their times and what is known of them.

    Raises:
        ValueError: if there are values outside 0 to 255 and ``clip`` is False, a neuron does not exist or is not
            finished, mean and sd are not known, or an argument does not fit.

    Example:
        >>> shown = [(-1.294, 7.528), (-0.907, 5.494)]  # green and UV that the projector has
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], ranges=shown, max_steps=4, progress_bar=False)
        >>> stimuli = ml.projector_stimuli(meis, ["session_1/0"], gap=1.0, enlargement=4)
        >>> stimuli.frames.shape, stimuli.frames.dtype  # 30 + 40 + 30 frames of 4 * 18 rows and 4 * 16 columns
        ((100, 72, 64, 3), dtype('uint8'))
    """
    facts = dataset_stimulus_format(meis)
    rate = _rate(facts, frame_rate)
    shown_by = colours_of(facts.channel_names, colours)
    _check(gap, repeats, enlargement, trigger)
    light = light_of_values(gamma, measured_light)
    stimuli = _stimuli(meis, neurons)
    background = projector_levels(np.zeros((len(facts.channel_names), 1, facts.height, facts.width)), facts)
    of_neuron = {
        neuron: projector_levels(stimulus.astype(np.float64), facts)
        for neuron, stimulus in zip(neurons, stimuli, strict=True)
    }
    table = _table_of_levels(of_neuron, background, shown_by)
    _check_within(table, facts, clip)

    rest = _as_frames(background.repeat(round(gap * rate), axis=1), shown_by, light)
    shown = {neuron: _as_frames(levels, shown_by, light) for neuron, levels in of_neuron.items()}
    parts, times = [rest], [_times("", -1, len(rest))]
    for repeat, order in enumerate(_rounds(neurons, repeats, order_seed)):
        for neuron in order:
            parts += [shown[neuron], rest]
            times += [_times(neuron, repeat, len(shown[neuron])), _times("", -1, len(rest))]
    frame_times = pd.concat(times, ignore_index=True)
    frame_times["onset_s"] = np.arange(len(frame_times)) / rate
    frames = np.concatenate(parts).repeat(enlargement, axis=1).repeat(enlargement, axis=2)
    if trigger:
        frames = _with_trigger(frames, trigger, (frame_times["frame"] == 0).to_numpy())
    shown_as = as_data(
        {
            "gap_s": gap,
            "screen_pixels_of_a_pixel": enlargement,
            "repeats": repeats,
            "order_seed": order_seed,
            "trigger_pixels": trigger,
            "light": words_for_light(gamma, measured_light),
            "background_rgb": _as_frames(background, shown_by, light)[0, 0, 0].tolist(),
        }
    )
    return ProjectorStimuli(frames, rate, frame_times, table, shown_as)


def _check(gap: float, repeats: int, enlargement: int, trigger: int) -> None:
    if not gap >= 0:
        raise InvalidValueError(f"The gap between stimuli is {gap} s; it cannot be negative.")
    for name, value, least in (("repeats", repeats, 1), ("enlargement", enlargement, 1), ("trigger", trigger, 0)):
        if int(value) != value or value < least:
            raise InvalidValueError(f"{name}={value} has to be a whole number, at least {least}.")


def _check_within(table: pd.DataFrame, facts: StimulusFormat, clip: bool) -> None:
    if not (outside := values_outside(table)):
        return
    if not clip:
        raise InvalidValueError(
            f"{outside}\nFind the MEIs within its range, ranges={ranges_of_projector(facts)}, or say clip=True to "
            "show these clipped."
        )
    warnings.warn(f"Clipped: {outside}", stacklevel=3)


def _rounds(neurons: Sequence[str], repeats: int, order_seed: int | None) -> list[list[str]]:
    """The neurons in the order of each round."""
    if order_seed is None:
        return [list(neurons)] * repeats
    random = np.random.default_rng(order_seed)
    return [[neurons[number] for number in random.permutation(len(neurons))] for _ in range(repeats)]


def _table_of_levels(
    of_neuron: Mapping[str, NDArray[np.float64]], background: NDArray[np.float64], shown_by: Mapping[str, str]
) -> pd.DataFrame:
    rows = []
    for neuron, levels in of_neuron.items():
        for (name, colour), of_channel, at_rest in zip(shown_by.items(), levels, background, strict=True):
            rounded = of_channel.round()
            rows.append(
                {
                    "neuron": neuron,
                    "channel": name,
                    "colour": colour,
                    "background": int(values_to_send(at_rest, None)[0, 0, 0]),
                    "lowest": float(of_channel.min()),
                    "highest": float(of_channel.max()),
                    "values": of_channel.size,
                    "below": int((rounded < 0).sum()),
                    "above": int((rounded > BRIGHTEST).sum()),
                }
            )
    return pd.DataFrame(rows)


def _rate(facts: StimulusFormat, frame_rate: float | None) -> float:
    if facts.frame_rate is not None:
        if frame_rate not in (None, facts.frame_rate):
            raise InvalidValueError(
                f"These movies have {facts.frame_rate:g} frames per second; frame_rate={frame_rate}."
            )
        return facts.frame_rate
    if frame_rate is None or not frame_rate > 0:
        raise InvalidValueError(f"Still images need a positive frame_rate, images per second, got {frame_rate}.")
    return float(frame_rate)


def _stimuli(meis: xr.Dataset, neurons: Sequence[str]) -> list[np.ndarray]:
    """The stimuli ``[channel, time, y, x]`` of some neurons, all of them finished."""
    if isinstance(neurons, str) or not neurons:
        raise InvalidValueError(f"neurons={neurons!r}: give a list of at least one label.")
    ordered = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x")
    numbers = [position_of(meis, neuron) for neuron in neurons]
    statuses = meis["status"].values[numbers]
    stimuli = [ordered[number].values for number in numbers]
    for neuron, status, stimulus in zip(neurons, statuses, stimuli, strict=True):
        if status == "interrupted" or not np.isfinite(stimulus).all():
            raise InvalidValueError(f"Neuron {neuron} has no finished stimulus (status '{status}'); leave it out.")
    return stimuli


def _as_frames(levels: NDArray[np.float64], shown_by: Mapping[str, str], light: NDArray[np.float64] | None) -> Frames:
    """Frames ``[time, height, width, 3]`` of levels ``[channel, time, height, width]``."""
    frames = np.zeros((*levels.shape[1:], len(COLOURS)), dtype=np.uint8)
    for of_channel, letters in zip(levels, shown_by.values(), strict=True):
        for number in (COLOURS.index(letter) for letter in letters):
            frames[..., number] = values_to_send(of_channel, None if light is None else light[:, number])
    return frames


def _with_trigger(frames: Frames, side: int, is_first: NDArray[np.bool_]) -> Frames:
    """Frames with a black strip below, as high as the square on its left that is white where a stimulus begins."""
    width = max(side, frames.shape[2])
    wide = np.pad(frames, ((0, 0), (0, side), (0, width - frames.shape[2]), (0, 0)))
    wide[is_first, -side:, :side] = BRIGHTEST
    return wide


def _times(neuron: str, repeat: int, count: int) -> pd.DataFrame:
    frames = np.arange(count) if neuron else np.full(count, -1)
    return pd.DataFrame({"neuron": [neuron] * count, "repeat": np.full(count, repeat), "frame": frames})
