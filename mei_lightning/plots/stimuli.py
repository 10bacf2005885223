"""One stimulus, drawn in space, time and frequency, or as its frames side by side.

Stimulus frame k is drawn at k / frame rate; response frame k at (k + frames lost) / frame rate, the time of the last
stimulus frame that it depends on.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.drawing import (
    draw_response,
    draw_spatial,
    draw_spectrum,
    draw_temporal,
    spread_frames,
    window_on_stimulus,
)
from mei_lightning.plots.frames import (
    VISIBLE_SIDE,
    Frames,
    assumed_stimulus_format,
    enlarge,
    stimulus_as_array,
    stimulus_to_rgb_frames,
)
from mei_lightning.plots.style import DIVERGING_MAP

Array = NDArray[np.floating[Any]]

GUTTER_LEVEL = 70  # of 255, between the frames of a contact sheet


def plot_stimulus_composition(
    stimulus: Tensor | ArrayLike,
    temporal_trace_ax: Axes,
    freq_ax: Axes | None,
    spatial_ax: Axes,
    lowpass_cutoff: float = 10.0,
    highlight_x_list: Sequence[tuple[int, int]] | None = None,
    *,
    stimulus_format: StimulusFormat | None = None,
    response: Tensor | ArrayLike | None = None,
    window: tuple[int, int] | None = None,
) -> None:
    """Draw a stimulus as its course in time, its spectrum and its shape in space, for each channel.

    Each channel is split by ``decompose``: the spatial parts stand side by side (red above the mean, blue below, each
    scaled to its centre, with the share of the stimulus that the split explains), the temporal parts carry the
    stimulus' unit. A still image (one frame) is drawn as it is, and the axes of time and frequency say so.

    Args:
        stimulus: ``[channels, time, height, width]``, any number of channels.
        temporal_trace_ax: where to draw the temporal parts, over seconds.
        freq_ax: where to draw their amplitude spectra and mark the amplitude-weighted frequencies; None leaves it out.
        spatial_ax: where to draw the spatial parts.
        lowpass_cutoff: highest frequency to draw and to weigh (Hz).
        highlight_x_list: pairs of first and last stimulus frame to shade in the course in time.
        stimulus_format: channel names, frame rate, pixel size and frames lost; by default those that
            ``assumed_stimulus_format`` gives.
        response: the neuron's response ``[time']``, drawn on an axis of its own over the course in time.
        window: first response frame of the objective and the one after its last, shaded in the course in time.

    Raises:
        ValueError: if the stimulus, the format, the response, the window or the frames to shade do not go together.

    Example:
        >>> from matplotlib.figure import Figure
        >>> in_time, in_frequency, in_space = Figure().subplots(1, 3)
        >>> stimulus = torch.sin(torch.arange(30.0)).view(1, 30, 1, 1).expand(2, 30, 18, 16)  # green, UV
        >>> ml.plot_stimulus_composition(stimulus, in_time, in_frequency, in_space)
        >>> in_time.get_xlabel(), in_frequency.get_xlabel()
        ('time (s)', 'frequency (Hz)')
    """
    values = stimulus_as_array(stimulus)
    facts = stimulus_format or assumed_stimulus_format(values.shape)
    _check_format(values, facts)
    time_steps = values.shape[1]
    trace = None if response is None else _as_trace(response)
    # A format that no model has been tried with does not say.
    frames_lost = facts.frames_lost or 0
    if stimulus_format is None:
        if trace is None and window is not None:
            raise InvalidValueError(
                f"Where the window={window} of response frames lies on the stimulus depends on the frames that the "
                "model loses. Pass stimulus_format=model.stimulus_format, or the response."
            )
        frames_lost = 0 if trace is None else max(0, time_steps - len(trace))
    if trace is not None and (len(trace) == 0 or len(trace) != time_steps - frames_lost):
        raise InvalidValueError(
            f"The response has {len(trace)} frames, but a stimulus of {time_steps} frames, of which the model loses "
            f"{frames_lost}, gives {time_steps - frames_lost}."
        )
    shaded = [] if window is None else [window_on_stimulus(window, time_steps, frames_lost)]
    for first, last in highlight_x_list or ():
        if not 0 <= first <= last < time_steps:
            raise InvalidValueError(
                f"highlight_x_list has ({first}, {last}), but the stimulus has frames 0 to {time_steps - 1}."
            )
        shaded.append((first, last))
    parts = list(zip(*decompose_channels(values), strict=True))

    draw_spatial(spatial_ax, values, parts, facts)
    if facts.frame_rate is None or time_steps == 1:
        for ax in (temporal_trace_ax, freq_ax):
            if ax is not None:
                ax.set_axis_off()
                ax.text(0.5, 0.5, "still image:\nno course in time", ha="center", va="center", transform=ax.transAxes)
        return
    draw_temporal(temporal_trace_ax, [temporal for temporal, _, _ in parts], facts, shaded)
    if trace is not None:
        response_ax = temporal_trace_ax.twinx()
        draw_response(response_ax, trace, frames_lost, facts.frame_rate, linestyle=(0, (4, 1.5)))
        response_ax.spines["right"].set_visible(True)
    if freq_ax is not None:
        draw_spectrum(freq_ax, [temporal for temporal, _, _ in parts], facts, lowpass_cutoff)


def contact_sheet(
    stimulus: Tensor | ArrayLike, stimulus_format: StimulusFormat | None = None, num_frames: int = 10
) -> Frames:
    """Lay frames of a stimulus out from left to right, as one picture.

    The first row shows the channels together in the colours of ``stimulus_to_rgb_frames`` (left out for more than
    three channels). Below it each channel has a row of its own, red above the mean and blue below, if there are
    several. All rows share one symmetric scale about 0.

    Args:
        stimulus: ``[channels, time, height, width]``.
        stimulus_format: the stimulus' format; only checked.
        num_frames: how many frames to show, evenly spaced from the first to the last.

    Returns:
        Red, green and blue from 0 to 255, ``[rows of pixels, columns of pixels, 3]``.

    Raises:
        ValueError: if the stimulus does not have four dimensions or does not fit its format, or ``num_frames`` is not
            positive.
    """
    values = stimulus_as_array(stimulus)
    if stimulus_format is not None:
        _check_format(values, stimulus_format)
    frames = spread_frames(values.shape[1], num_frames)
    rows = [stimulus_to_rgb_frames(values)[frames]] if len(values) <= 3 else []
    if len(values) > 1:
        limit = np.abs(values).max() or 1.0
        colors = mpl.colormaps[DIVERGING_MAP](values[:, frames] / (2 * limit) + 0.5, bytes=True)[..., :3]
        rows.extend(colors)
    factor = max(1, VISIBLE_SIDE // 4 // max(values.shape[2:]))
    gap = max(1, factor // 2)
    tiles = np.pad(
        enlarge(np.stack(rows), factor), ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=GUTTER_LEVEL
    )
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in tiles])
    return sheet[:-gap, :-gap]


def _check_format(values: Array, facts: StimulusFormat) -> None:
    expected = (len(facts.channel_names), facts.height, facts.width)
    found = (values.shape[0], *values.shape[2:])
    if found != expected:
        raise InvalidValueError(
            f"The stimulus has (channels, height, width) {found}, but stimulus_format has {expected} "
            f"with channels {facts.channel_names}."
        )
    if facts.frame_rate is None and values.shape[1] > 1:
        raise InvalidValueError(f"The stimulus has {values.shape[1]} frames, but stimulus_format has no frame_rate.")


def _as_trace(response: Tensor | ArrayLike) -> Array:
    if isinstance(response, Tensor):
        response = response.detach().cpu().double().numpy()
    trace = np.array(response, dtype=np.float64)
    if trace.ndim != 1:
        raise InvalidValueError(f"The response of one neuron is [time], but this has shape {trace.shape}.")
    return trace
