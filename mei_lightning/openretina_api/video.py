"""openretina's functions that show stimuli as videos, in notebooks and as files."""

import base64
import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import animation
from numpy.typing import ArrayLike
from torch import Tensor

from mei_lightning.exceptions import InvalidValueError, MissingPackageError
from mei_lightning.openretina_api.constants import pre_normalisation_values_18x16
from mei_lightning.paths import local_path
from mei_lightning.plots.frames import MID_GREY, VISIBLE_SIDE, Frames, enlarge
from mei_lightning.plots.video import save_stimulus_to_mp4_video as save_stimulus_to_mp4_video
from mei_lightning.plots.video import write_mp4

_PLAYED_RATE = 20
"""Frames per second at which ``play_stimulus`` and ``play_sample_batch`` show stimuli."""


def undo_video_normalization(
    video: Tensor, values_dict: Mapping[str, float] = pre_normalisation_values_18x16
) -> Tensor:
    """A stimulus on the projector's 8-bit scale, as whole numbers (rounded towards 0).

    Args:
        video: ``[channels, time, height, width]``, in the model's units.
        values_dict: for each channel ``channel_<number>_mean`` and ``channel_<number>_std``.

    Raises:
        ValueError: if there is no mean or sd of a channel.
    """
    try:
        mean, sd = (
            torch.tensor([values_dict[f"channel_{channel}_{name}"] for channel in range(len(video))])
            for name in ("mean", "std")
        )
    except KeyError as error:
        raise InvalidValueError(
            f"values_dict has no {error} for a video of {len(video)} channels; it has {', '.join(values_dict)}."
        ) from error
    shape = (-1, 1, 1, 1)
    return (video * sd.to(video).reshape(shape) + mean.to(video).reshape(shape)).type(torch.int)


def prepare_video_for_display(video_array: ArrayLike) -> Frames:
    """Frames for the screen: one channel as grey, green and UV as green and violet, three as they are.

    Numbers with a fraction are scaled so that the lowest is black and the highest white, others are taken for 8-bit
    values. A last row or column is left out if there is an odd number of them, which players do not show.

    Args:
        video_array: ``[time, height, width, channels]``, or ``[channels, time, height, width]`` if the first size is
            the smallest.

    Returns:
        ``[time, height, width, 3]``, red, green and blue from 0 to 255.

    Raises:
        ValueError: if there are not four dimensions, or one to three channels.
    """
    video = np.asarray(video_array)
    if video.ndim != 4 or video.size == 0:
        raise InvalidValueError(f"A video is [time, height, width, channels], but this has shape {video.shape}.")
    if np.argmin(video.shape) == 0:
        video = np.moveaxis(video, 0, -1)
    channels = video.shape[-1]
    if channels > 3:
        raise InvalidValueError(f"A screen shows one to three channels, but the video has {channels}.")
    video = video[..., {1: [0, 0, 0], 2: [1, 0, 1], 3: [0, 1, 2]}[channels]]
    if np.issubdtype(video.dtype, np.floating):
        low, high = video.min(), video.max()
        video = (video - low) / (high - low) * 255 if high > low else np.full_like(video, MID_GREY)
    height, width = (size - size % 2 for size in video.shape[1:3])
    return np.ascontiguousarray(video[:, :height, :width].astype(np.uint8))


def numpy_to_mp4_video(
    video_array: ArrayLike,
    save_path: str | os.PathLike[str] | None = None,
    fps: float = 30,
    display_video: bool = True,
    display_width: int = 640,
    display_height: int = 360,
) -> None:
    """Write a video as MP4, and show it in a notebook.

    Args:
        video_array: as for ``prepare_video_for_display``.
        save_path: where to write, ending in ``.mp4``; None to show it only.
        fps: frames per second.
        display_video: whether to show it.
        display_width: width in the notebook (pixels).
        display_height: height in the notebook (pixels).

    Raises:
        ValueError: if the video is to be neither written nor shown, the path does not end in ``.mp4``, or as
            ``prepare_video_for_display``.
        ImportError: if it is to be shown and IPython is not installed.
    """
    if not display_video and save_path is None:
        raise InvalidValueError("Give a save_path, or display_video=True: otherwise there is nothing to do.")
    if save_path is not None and Path(save_path).suffix != ".mp4":
        raise InvalidValueError(f"save_path='{save_path}': this writes MP4 videos. Let it end in '.mp4'.")
    display = _ipython_display() if display_video else None
    data = _mp4_bytes(prepare_video_for_display(video_array), fps)
    if save_path is not None:
        local_path("save_path", save_path).write_bytes(data)
    if display is not None:
        shown = display.Video(data, embed=True, mimetype="video/mp4", width=display_width, height=display_height)
        display.display(shown)


def display_video(
    video_array: ArrayLike | None,
    video_save_path: str | os.PathLike[str] | None = None,
    fps: float = 30,
    display_width: int = 640,
    display_height: int = 360,
) -> None:
    """Show a video in a notebook: the one at a path if there is one, otherwise an array, which is written there.

    Args:
        video_array: as for ``prepare_video_for_display``; None for a video that exists.
        video_save_path: where it is, or is to be written; None to show the array only.
        fps: frames per second of the array.
        display_width: width in the notebook (pixels).
        display_height: height in the notebook (pixels).

    Raises:
        ValueError: if there is neither a file nor an array; as ``numpy_to_mp4_video``.
        ImportError: if IPython is not installed.
    """
    place = None if video_save_path is None else local_path("video_save_path", video_save_path)
    if place is not None and place.exists():
        display = _ipython_display()
        shown = display.Video(str(place), embed=True, mimetype="video/mp4", width=display_width, height=display_height)
        display.display(shown)
        return
    if video_array is None:
        raise InvalidValueError(f"There is no video at '{video_save_path}', and no video_array to make one from.")
    numpy_to_mp4_video(video_array, video_save_path, fps, True, display_width, display_height)


def play_stimulus(video: Tensor, normalise: bool = True) -> Any:
    """A stimulus as a video in a notebook, with controls, in the colours of ``prepare_video_for_display``.

    Args:
        video: ``[channels, time, height, width]``.
        normalise: show the lowest value of all channels as black and the highest as white; otherwise 0 and 1.

    Returns:
        IPython's ``HTML``, which a notebook shows if it is a cell's last value.

    Raises:
        ValueError: if the stimulus does not have four dimensions and one to three channels.
        ImportError: if IPython is not installed.
    """
    display = _ipython_display()
    values = video.detach().cpu().double().numpy()
    if values.ndim != 4:
        raise InvalidValueError(
            f"A stimulus is [channels, time, height, width], but this has shape {values.shape}. Pick one of the "
            "batch, stimulus[0]."
        )
    values = np.moveaxis(values, 0, -1)
    shown = values if normalise else (values.clip(0, 1) * 255).round().astype(np.uint8)
    frames = prepare_video_for_display(shown)
    frames = enlarge(frames, max(1, VISIBLE_SIDE // max(frames.shape[1:3])))
    data = base64.b64encode(_mp4_bytes(frames, _PLAYED_RATE)).decode()
    return display.HTML(f'<video controls loop autoplay muted src="data:video/mp4;base64,{data}"></video>')


def play_sample_batch(video: Tensor, responses: Tensor, neuron_idx: int = 0) -> Any:
    """A stimulus beside the response to it, frame by frame, in a notebook.

    Args:
        video: ``[channels, time, height, width]``.
        responses: ``[time, neurons]``.
        neuron_idx: the neuron to show.

    Returns:
        IPython's ``HTML``, which a notebook shows if it is a cell's last value.

    Raises:
        ValueError: if there is not one response for each frame.
        ImportError: if IPython is not installed.
    """
    display = _ipython_display()
    if video.shape[1] != len(responses):
        raise InvalidValueError(f"The stimulus has {video.shape[1]} frames and the response {len(responses)}.")
    frames = prepare_video_for_display(np.moveaxis(video.detach().cpu().double().numpy(), 0, -1))
    trace = responses[:, neuron_idx].detach().cpu().numpy()
    figure, (image_ax, trace_ax) = plt.subplots(1, 2, figsize=(10, 5), gridspec_kw={"width_ratios": [1, 2]})
    image = image_ax.imshow(frames[0])
    image_ax.set_axis_off()
    (line,) = trace_ax.plot([], [])
    trace_ax.set(
        xlim=(0, len(trace)),
        ylim=(min(0.0, float(trace.min())), 1.1 * max(float(trace.max()), 1e-9)),
        title=f"Neuron {neuron_idx}",
        xlabel="Time (frames)",
        ylabel="Response",
    )

    def show(frame: int) -> list[Any]:
        image.set_data(frames[frame])
        line.set_data(np.arange(frame), trace[:frame])
        return [image, line]

    moving = animation.FuncAnimation(figure, show, frames=len(frames), interval=1000 / _PLAYED_RATE)
    html = display.HTML(moving.to_jshtml())
    plt.close(figure)
    return html


def _mp4_bytes(frames: Frames, fps: float) -> bytes:
    if not fps > 0:
        raise InvalidValueError(f"A video needs a positive number of frames per second, got fps={fps}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_mp4(path, frames, Fraction(fps).limit_denominator(1001))
        return path.read_bytes()


def _ipython_display() -> ModuleType:
    try:
        from IPython import display
    except ImportError as error:
        raise MissingPackageError(
            "Videos are shown in notebooks, and IPython is not installed: pip install ipython. "
            "save_stimulus_to_mp4_video writes a file without it."
        ) from error
    return display
