"""Stimuli as MP4, animated PNG and GIF files, in the colours of ``frames.py``."""

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO

import av
import numpy as np
import xarray as xr
from av.video.reformatter import ColorRange, Colorspace
from matplotlib.font_manager import findfont
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.paths import local_path
from mei_lightning.plots.frames import (
    VISIBLE_SIDE,
    Frames,
    assumed_stimulus_format,
    dataset_stimulus_format,
    enlarge,
    stimulus_as_array,
    stimulus_to_rgb_frames,
)
from mei_lightning.wording import how_many

MOSAIC_SIDE = 1280
_BT709 = 1


def save_stimulus_to_mp4_video(
    stimulus: Tensor | ArrayLike,
    filepath: str | Path,
    fps: float | None = None,
    start_at_frame: int = 0,
    apply_undo_video_normalization: bool = False,
    *,
    stimulus_format: StimulusFormat | None = None,
) -> None:
    """Save a stimulus as an H.264 video that browsers and slides play, in colours as of ``stimulus_to_rgb_frames``.

    Pixels are enlarged by a whole factor to a visible size.

    Args:
        stimulus: ``[channels, time, height, width]`` with one (grey), two (green, UV as violet) or three (RGB)
            channels.
        filepath: where to write, ending in ``.mp4``.
        fps: frames per second of the video; by default the stimulus' own rate (30 if unknown). Less is slow motion.
        start_at_frame: the first stimulus frame to show.
        apply_undo_video_normalization: show the projector's 8-bit values, ``value * sd + mean``, rather than the
            symmetric scale.
        stimulus_format: frame rate, mean and sd of the stimulus; by default those of Höfling et al. 2024 for two
            channels, 30 Hz for others.

    Raises:
        ValueError: if the path does not end in ``.mp4``, the first frame is not in the stimulus, ``fps`` is not
            positive, or as ``stimulus_to_rgb_frames``.

    Example:
        >>> import av
        >>> ml.save_stimulus_to_mp4_video(torch.randn(2, 10, 18, 16), "stimulus.mp4", fps=5)  # green, UV
        >>> with av.open("stimulus.mp4") as video:
        ...     print(video.streams.video[0].frames, video.streams.video[0].average_rate)  # frames, Hz
        10 5
    """
    filepath = _with_suffix(filepath, ".mp4")
    frames, rate = _frames_and_rate(
        stimulus, fps, start_at_frame, apply_undo_video_normalization, stimulus_format, smallest_factor=2
    )
    write_mp4(filepath, frames, rate)


def save_stimulus_to_animated_png(
    stimulus: Tensor | ArrayLike,
    filepath: str | Path,
    fps: float | None = None,
    start_at_frame: int = 0,
    apply_undo_video_normalization: bool = False,
    *,
    stimulus_format: StimulusFormat | None = None,
) -> None:
    """Save a stimulus as an animated PNG, lossless and looping; arguments as ``save_stimulus_to_mp4_video``.

    Raises:
        ValueError: if the path does not end in ``.png``, or as ``save_stimulus_to_mp4_video``.

    Example:
        >>> from PIL import Image
        >>> ml.save_stimulus_to_animated_png(torch.randn(2, 10, 18, 16), "stimulus.png")  # green, UV
        >>> with Image.open("stimulus.png") as picture:
        ...     print(picture.n_frames, picture.size)  # 22 x 22 for each of 16 x 18 pixels
        10 (352, 396)
    """
    filepath = _with_suffix(filepath, ".png")
    data = animated_png_bytes(
        stimulus, fps, start_at_frame, apply_undo_video_normalization, stimulus_format=stimulus_format
    )
    filepath.write_bytes(data)


def animated_png_bytes(
    stimulus: Tensor | ArrayLike,
    fps: float | None = None,
    start_at_frame: int = 0,
    apply_undo_video_normalization: bool = False,
    *,
    stimulus_format: StimulusFormat | None = None,
) -> bytes:
    """The content of the file that ``save_stimulus_to_animated_png`` writes, e.g. for TensorBoard.

    Raises:
        ValueError: as ``save_stimulus_to_mp4_video``.
    """
    frames, rate = _frames_and_rate(
        stimulus, fps, start_at_frame, apply_undo_video_normalization, stimulus_format, smallest_factor=1
    )
    buffer = BytesIO()
    _write_with_pillow(buffer, "PNG", frames, rate)
    return buffer.getvalue()


def save_stimulus_to_gif(
    stimulus: Tensor | ArrayLike,
    filepath: str | Path,
    fps: float | None = None,
    start_at_frame: int = 0,
    apply_undo_video_normalization: bool = False,
    *,
    stimulus_format: StimulusFormat | None = None,
) -> None:
    """Save a stimulus as a looping GIF; arguments as ``save_stimulus_to_mp4_video``.

    A GIF has 256 colours a frame and shows each frame for whole hundredths of a second (30 Hz becomes 33 Hz). The
    animated PNG is exact in both.

    Raises:
        ValueError: if the path does not end in ``.gif``, or as ``save_stimulus_to_mp4_video``.

    Example:
        >>> from PIL import Image
        >>> ml.save_stimulus_to_gif(torch.randn(1, 10, 18, 16), "stimulus.gif", fps=10)  # grey
        >>> with Image.open("stimulus.gif") as picture:
        ...     print(picture.n_frames, picture.info["duration"])  # ms of a frame
        10 100
    """
    filepath = _with_suffix(filepath, ".gif")
    frames, rate = _frames_and_rate(
        stimulus, fps, start_at_frame, apply_undo_video_normalization, stimulus_format, smallest_factor=1
    )
    with filepath.open("wb") as file:
        _write_with_pillow(file, "GIF", frames, rate)


def save_meis_to_mp4_video(
    dataset: xr.Dataset,
    filepath: str | Path,
    fps: float | None = None,
    total: int | None = None,
) -> None:
    """Save the MEIs of all neurons side by side in one H.264 video, each labelled if there is room.

    Each stimulus has its own symmetric scale about 0, as in ``stimulus_to_rgb_frames``; one that is not finite is grey.

    Args:
        dataset: MEIs, ``stimulus`` with dimensions (neuron, channel, time, y, x).
        filepath: where to write, ending in ``.mp4``.
        fps: frames per second of the video; by default the stimuli's own rate (30 if unknown).
        total: how many neurons there are; if the dataset has a part of them only, a line above says so.

    Raises:
        ValueError: if the path does not end in ``.mp4``, the dataset has no neurons or more than three channels, or
            ``fps`` is not positive.

    Example:
        >>> import av
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> ml.save_meis_to_mp4_video(meis, "meis.mp4")
        >>> with av.open("meis.mp4") as video:
        ...     print(video.streams.video[0].frames, video.streams.video[0].average_rate)  # frames, Hz
        40 30
    """
    filepath = _with_suffix(filepath, ".mp4")
    if dataset.sizes["neuron"] == 0:
        raise InvalidValueError("The dataset has no neurons: there is nothing to show.")
    rate = _frame_rate(fps, dataset_stimulus_format(dataset))
    stimuli = dataset["stimulus"].transpose("neuron", "channel", "time", "y", "x").values
    tiles = np.stack([stimulus_to_rgb_frames(stimulus) for stimulus in stimuli])
    count = dataset.sizes["neuron"]
    title = how_many(count, total) if total is not None and count < total else ""
    write_mp4(filepath, _mosaic(tiles, [str(label) for label in dataset["neuron"].values], title), rate)


def _with_suffix(filepath: str | Path, suffix: str) -> Path:
    place = local_path("filepath", filepath)
    if place.suffix.lower() != suffix:
        raise InvalidValueError(f"This writes {suffix} files, but the path is '{filepath}'. Let it end in '{suffix}'.")
    return place


def _frame_rate(fps: float | None, facts: StimulusFormat) -> Fraction:
    if fps is None:
        fps = facts.frame_rate or 30.0
    if not (math.isfinite(fps) and fps > 0):
        raise InvalidValueError(f"A video needs a positive number of frames per second, got fps={fps}.")
    return Fraction(float(fps)).limit_denominator(1001)


def _frames_and_rate(
    stimulus: Tensor | ArrayLike,
    fps: float | None,
    start_at_frame: int,
    apply_undo_video_normalization: bool,
    stimulus_format: StimulusFormat | None,
    smallest_factor: int,
) -> tuple[Frames, Fraction]:
    """Enlarged frames ``[time, height, width, 3]``, by an even factor where one is needed, and their rate."""
    values = stimulus_as_array(stimulus)
    facts = stimulus_format or assumed_stimulus_format(values.shape)
    rate = _frame_rate(fps, facts)
    if not 0 <= start_at_frame < values.shape[1]:
        raise InvalidValueError(
            f"The stimulus has frames 0 to {values.shape[1] - 1}, so it cannot start_at_frame={start_at_frame}."
        )
    frames = stimulus_to_rgb_frames(
        values, apply_undo_video_normalization=apply_undo_video_normalization, stimulus_format=facts
    )
    half_factor = math.ceil(VISIBLE_SIDE / (2 * max(frames.shape[1:3])))
    factor = 2 * half_factor if max(frames.shape[1:3]) < VISIBLE_SIDE else smallest_factor
    return enlarge(frames[start_at_frame:], factor), rate


def write_mp4(filepath: str | Path, frames: Iterable[Frames], rate: Fraction) -> None:
    """Encode RGB frames ``[height, width, 3]`` of even height and width as H.264."""
    remaining = iter(frames)
    first = next(remaining)
    # What is before a colon would be a protocol.
    with av.open(os.path.abspath(filepath), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "14", "preset": "veryfast"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        for frame in chain([first], remaining):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_with_pillow(file: IO[bytes], file_format: str, frames: Frames, rate: Fraction) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    if not others:
        first.save(file, file_format)
        return
    first.save(
        file, file_format, save_all=True, append_images=others, duration=float(1000 / rate), loop=0, optimize=False
    )


def _mosaic(tiles: Frames, labels: list[str], title: str = "") -> Iterator[Frames]:
    """Frames of even size with all ``tiles [neurons, time, height, width, 3]`` on a grid, each under its label.

    A title stands above, as far as there is room for it.
    """
    count, time_steps, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    longest = max(columns * (width + 1), rows * (height + 1))
    factor = max(2, min(MOSAIC_SIDE // longest, VISIBLE_SIDE // 2 // max(height, width)) // 2 * 2)
    font = ImageFont.truetype(findfont("DejaVu Sans"), size=12)
    label_height = 20 if width * factor >= 96 else 0
    title_height = 20 if title else 0
    gap = max(2, factor // 2 // 2 * 2)
    cell_height, cell_width = height * factor + label_height + gap, width * factor + gap
    background = Image.new(
        "RGB", (columns * cell_width + gap, title_height + rows * cell_height + gap), (255, 255, 255)
    )
    corners = [
        (title_height + gap + number // columns * cell_height + label_height, gap + number % columns * cell_width)
        for number in range(count)
    ]
    draw = ImageDraw.Draw(background)
    draw.text((gap, 2), title, fill=(0, 0, 0), font=font)
    if label_height:
        for (top, left), label in zip(corners, labels, strict=True):
            # Pillow measures a single line only.
            text = " ".join(label.split())
            while draw.textlength(text, font=font) > width * factor and len(text) > 2:
                text = "…" + text[2:]
            draw.text((left, top - label_height + 2), text, fill=(0, 0, 0), font=font)
    canvas = np.array(background)
    for time_step in range(time_steps):
        for (top, left), tile in zip(corners, tiles[:, time_step], strict=True):
            canvas[top : top + height * factor, left : left + width * factor] = enlarge(tile, factor)
        yield canvas.copy()
