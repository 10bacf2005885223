"""MEIs as what a projector shows in an experiment: 8-bit frames, lossless, and when each of them is shown."""

import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pandas as pd
import xarray as xr

from mei_lightning.analysis.populations import position_of
from mei_lightning.exceptions import AlreadyThereError, InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.video import Frames, dataset_stimulus_format, projector_levels
from mei_lightning.results.dataset import check_store
from mei_lightning.results.replacing import replace

BRIGHTEST = 255
_COLOURS = "RGB"
_KNOWN_COLOURS = {"green": "G", "uv": "B", "red": "R", "blue": "B", "grey": "RGB", "gray": "RGB"}
_NAMED_IN_MESSAGES = 5


@dataclass(frozen=True)
class ProjectorStimuli:
    """What a projector shows, and how it came about.

    Args:
        frames: ``[frame, height, width, 3]``, the values of red, green and blue.
        frame_rate: frames per second (Hz).
        frame_times: a row for each frame of the video: ``neuron`` (empty for the background), ``frame`` (of the
            neuron's stimulus, -1 for the background) and ``onset_s``, seconds from the start of the video.
        levels: a row for each neuron and channel: ``neuron``, ``channel``, ``colour`` (which of R, G and B show it),
            ``background`` (the value of its 0), ``lowest`` and ``highest`` value before rounding, how many
            ``values`` there are, and how many of them are ``below`` 0 and ``above`` 255 once rounded.
    """

    frames: Frames
    frame_rate: float
    frame_times: pd.DataFrame
    levels: pd.DataFrame


def projector_stimuli(
    meis: xr.Dataset,
    neurons: Sequence[str],
    *,
    gap: float = 1.0,
    clip: bool = False,
    colours: Mapping[str, str] | None = None,
    frame_rate: float | None = None,
) -> ProjectorStimuli:
    """The MEIs of some neurons, one after the other, in the values of an 8-bit projector.

    A value is ``stimulus * sd + mean`` with the mean and the sd that the model's training stimuli were normalised
    with, rounded. Each stimulus comes after a gap of background, the value of 0, and a gap ends the video. Pixels are
    not enlarged: a pixel of a frame is a pixel of the model.

    Args:
        meis: MEIs as ``find_meis`` returns them.
        neurons: labels, in the order of showing, e.g. ``["session_1/5", "session_1/7"]``.
        gap: seconds of background, rounded to whole frames.
        clip: show 0 for values below 0 and 255 for those above 255, and warn. Otherwise there must be none.
        colours: the projector's colours (``"R"``, ``"G"``, ``"B"`` or several) that show each channel; by default G
            for green, B for UV or blue, R for red and all for grey. A colour that shows no channel is 0.
        frame_rate: images per second (Hz) of still images; movies have their own.

    Raises:
        ValueError: if there are values outside 0 to 255 and ``clip`` is False, a neuron does not exist or is not
            finished, mean and sd are not known, or an argument does not fit.
    """
    facts = dataset_stimulus_format(meis)
    rate = _rate(facts, frame_rate)
    shown_by = _colours_of(facts.channel_names, colours)
    if not gap >= 0:
        raise InvalidValueError(f"The gap between stimuli is {gap} s; it cannot be negative.")
    stimuli = _stimuli(meis, neurons)
    background = projector_levels(np.zeros((len(facts.channel_names), 1, facts.height, facts.width)), facts)
    background_frames = _as_frames(background.repeat(round(gap * rate), axis=1), shown_by)

    parts, times, table = [background_frames], [_times("", len(background_frames))], []
    for neuron, stimulus in zip(neurons, stimuli, strict=True):
        levels = projector_levels(stimulus.astype(np.float64), facts)
        for name, of_channel, at_rest in zip(facts.channel_names, levels, background, strict=True):
            rounded = of_channel.round()
            table.append(
                {
                    "neuron": neuron,
                    "channel": name,
                    "colour": shown_by[name],
                    "background": int(_eight_bit(at_rest)[0, 0, 0]),
                    "lowest": float(of_channel.min()),
                    "highest": float(of_channel.max()),
                    "values": of_channel.size,
                    "below": int((rounded < 0).sum()),
                    "above": int((rounded > BRIGHTEST).sum()),
                }
            )
        parts += [_as_frames(levels, shown_by), background_frames]
        times += [_times(neuron, levels.shape[1]), _times("", len(background_frames))]
    levels_table = pd.DataFrame(table)
    if outside := _values_outside(levels_table):
        if not clip:
            raise InvalidValueError(
                f"{outside}\nFind the MEIs within its range, ranges={_ranges_of_projector(facts)}, or say clip=True to "
                "show these clipped."
            )
        warnings.warn(f"Clipped: {outside}", stacklevel=2)
    frame_times = pd.concat(times, ignore_index=True)
    frame_times["onset_s"] = np.arange(len(frame_times)) / rate
    return ProjectorStimuli(np.concatenate(parts), rate, frame_times, levels_table)


def export_for_experiment(
    meis: xr.Dataset | str | Path,
    directory: str | Path,
    neurons: Sequence[str],
    *,
    gap: float = 1.0,
    clip: bool = False,
    colours: Mapping[str, str] | None = None,
    frame_rate: float | None = None,
    video: Literal["mp4", "avi"] = "mp4",
) -> ProjectorStimuli:
    """Write the MEIs of some neurons for an experiment: what ``projector_stimuli`` returns, as files.

    ``stimuli.npy`` has the frames, for ``numpy.load``; ``stimuli.mp4`` (H.264) or ``stimuli.avi`` (FFV1) has the same
    frames, without loss, as RGB; ``frame_times.csv`` says when each is shown; ``levels.csv`` has the range of values
    of each neuron and channel, which of them were clipped, and the projector's colour.

    Args:
        meis: MEIs as ``find_meis`` returns them, or the path of a store of them.
        directory: where to write; made if it is missing.
        neurons, gap, clip, colours, frame_rate: as for ``projector_stimuli``.
        video: "mp4" or "avi".

    Returns:
        What was written.

    Raises:
        ValueError: as ``projector_stimuli``, or if ``video`` is something else; nothing is written.
        FileExistsError: if one of the files exists.
    """
    if video not in ("mp4", "avi"):
        raise InvalidValueError(f"A lossless video is 'mp4' or 'avi', not {video!r}.")
    names = ("stimuli.npy", f"stimuli.{video}", "frame_times.csv", "levels.csv")
    directory = Path(directory)
    if existing := [name for name in names if (directory / name).exists()]:
        raise AlreadyThereError(f"{directory} has {', '.join(existing)} already; give another directory, or move it.")
    if isinstance(meis, xr.Dataset):
        dataset = meis
    else:
        check_store(meis)
        dataset = xr.open_zarr(meis, chunks=None)
    stimuli = projector_stimuli(dataset, neurons, gap=gap, clip=clip, colours=colours, frame_rate=frame_rate)
    directory.mkdir(parents=True, exist_ok=True)
    hidden = directory / f".{uuid.uuid4().hex}.partial"
    hidden.mkdir()
    try:
        np.save(hidden / names[0], stimuli.frames)
        _write_lossless(hidden / names[1], stimuli.frames, stimuli.frame_rate)
        stimuli.frame_times.to_csv(hidden / names[2], index=False)
        stimuli.levels.to_csv(hidden / names[3], index=False)
        for name in names:
            replace(hidden / name, directory / name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return stimuli


def _rate(facts: StimulusFormat, frame_rate: float | None) -> float:
    if facts.frame_rate is not None:
        if frame_rate not in (None, facts.frame_rate):
            raise InvalidValueError(
                f"These movies have {facts.frame_rate:g} frames per second; frame_rate={frame_rate}."
            )
        return facts.frame_rate
    if frame_rate is None or not frame_rate > 0:
        raise InvalidValueError(f"Still images need a positive frame_rate, images per second, got {frame_rate}.")
    return frame_rate


def _colours_of(channel_names: Sequence[str], colours: Mapping[str, str] | None) -> dict[str, str]:
    """The projector's colours of each channel."""
    if colours is None:
        unknown = [name for name in channel_names if name.lower() not in _KNOWN_COLOURS]
        if unknown:
            raise InvalidValueError(
                f"It is not known which colours of the projector show the channels {', '.join(unknown)}. Say it, e.g. "
                f"colours={dict.fromkeys(unknown, 'G')}."
            )
        chosen = {name: _KNOWN_COLOURS[name.lower()] for name in channel_names}
    else:
        if set(colours) != set(channel_names):
            raise InvalidValueError(f"colours={dict(colours)} does not have the channels {', '.join(channel_names)}.")
        chosen = {name: colours[name].upper() for name in channel_names}
    all_colours = "".join(chosen.values())
    if not all(chosen.values()) or set(all_colours) - set(_COLOURS):
        raise InvalidValueError(
            f"A channel is shown by R, G or B, or several of them, e.g. 'RGB', but colours={chosen}."
        )
    if len(set(all_colours)) < len(all_colours):
        raise InvalidValueError(f"A colour of the projector can show one channel only, but colours={chosen}.")
    return chosen


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


def _eight_bit(levels: np.ndarray) -> np.ndarray:
    return levels.round().clip(0, BRIGHTEST).astype(np.uint8)


def _as_frames(levels: np.ndarray, shown_by: Mapping[str, str]) -> Frames:
    """Frames ``[time, height, width, 3]`` of levels ``[channel, time, height, width]``."""
    frames = np.zeros((*levels.shape[1:], len(_COLOURS)), dtype=np.uint8)
    for of_channel, letters in zip(_eight_bit(levels), shown_by.values(), strict=True):
        frames[..., [_COLOURS.index(letter) for letter in letters]] = of_channel[..., None]
    return frames


def _times(neuron: str, count: int) -> pd.DataFrame:
    return pd.DataFrame({"neuron": [neuron] * count, "frame": np.arange(count) if neuron else np.full(count, -1)})


def _values_outside(levels: pd.DataFrame) -> str:
    """How many values are outside the projector's range, of which neurons, and how far; empty if there are none."""
    outside = levels[(levels["below"] > 0) | (levels["above"] > 0)]
    if outside.empty:
        return ""
    lines = [
        f"{row.neuron}, {row.channel}: {row.below} below and {row.above} above, from {row.lowest:.1f} to "
        f"{row.highest:.1f}"
        for row in outside.head(_NAMED_IN_MESSAGES).itertuples()
    ]
    if len(outside) > len(lines):
        lines.append(f"and {len(outside) - len(lines)} more")
    count = outside["below"].sum() + outside["above"].sum()
    return (
        f"{count} of {levels['values'].sum()} values are outside the projector's 0 to {BRIGHTEST}:\n  "
        + "\n  ".join(lines)
    )


def _ranges_of_projector(facts: StimulusFormat) -> list[tuple[float, float]]:
    """Lowest and highest value of each channel, in the model's units."""
    assert facts.mean is not None
    assert facts.sd is not None
    return [
        (round(float(-mean / sd), 3), round(float((BRIGHTEST - mean) / sd), 3))
        for mean, sd in zip(facts.mean, facts.sd, strict=True)
    ]


def _write_lossless(path: Path, frames: Frames, frame_rate: float) -> None:
    codec, pixel_format, options = {
        ".mp4": ("libx264rgb", "rgb24", {"qp": "0"}),
        ".avi": ("ffv1", "bgr0", {}),
    }[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(1001), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixel_format))
            )
        container.mux(stream.encode())
