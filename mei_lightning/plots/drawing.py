"""The parts that figures of stimuli are made of: images of channels, courses in time, spectra, responses."""

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from mei_lightning.analysis.decomposition import amplitude_spectrum, temporal_frequency
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.style import DIVERGING_MAP, RESPONSE_COLOR, WINDOW_COLOR, channel_colors, tidy

Array = NDArray[np.floating[Any]]


TILE_GAP = 0.07  # of a tile's width


def window_on_stimulus(window: tuple[int, int], time_steps: int, frames_lost: int) -> tuple[int, int]:
    """First and last stimulus frame under a window (first, one after the last) of response frames."""
    start, stop = window
    if not 0 <= start < stop <= time_steps - frames_lost:
        raise InvalidValueError(
            f"The window={window} is outside the response, which has {time_steps - frames_lost} frames "
            f"({time_steps} stimulus frames, of which the model loses {frames_lost})."
        )
    return start + frames_lost, stop - 1 + frames_lost


def window_of(row: xr.Dataset, facts: StimulusFormat) -> tuple[int, int]:
    """First and last stimulus frame under the objective's window of a dataset; all response frames if it has none."""
    start = row.attrs.get("window_start", 0)
    stop = row.attrs.get("window_stop", row.sizes["response_time"])
    return window_on_stimulus((start, stop), row.sizes["time"], facts.frames_lost)


def spread_frames(time_steps: int, num_frames: int) -> NDArray[np.int64]:
    """Numbers of so many frames, spread over a stimulus; raises a ValueError if they are none."""
    if num_frames < 1:
        raise InvalidValueError(f"A contact sheet needs at least one frame, got {num_frames=}.")
    return np.linspace(0, time_steps - 1, min(num_frames, time_steps)).round().astype(np.int64)


def draw_spatial(ax: Axes, values: Array, parts: list[tuple[Array, Array, float]], facts: StimulusFormat) -> None:
    """Draw the channels of a stimulus in space, side by side, with a scale and a colour bar."""
    maps, limit = maps_and_limit(values, parts)
    if values.shape[1] == 1:
        titles = list(facts.channel_names)
        heading = "Image"
    else:
        separator = " " if len(parts) <= 2 else "\n"
        titles = [
            f"{name}{separator}({share:.0%})" for name, (_, _, share) in zip(facts.channel_names, parts, strict=True)
        ]
        heading = "Space (share explained)"
    lefts = draw_tiles(ax, [maps], limit, margin_right=0.45)
    for left, title, color in zip(lefts, titles, channel_colors(facts.channel_names), strict=True):
        write(ax, title, left + facts.width / 2, 0, dy=3, ha="center", va="bottom", color=color)
    title_lines = 1 + max(title.count("\n") for title in titles)
    ax.set_title(heading, pad=6 + 1.2 * title_lines * FontProperties(size="small").get_size_in_points())
    draw_scale_bar(ax, facts)
    left, right = ax.get_xlim()
    bottom, top = ax.get_ylim()
    bar_left = (lefts[-1] + 1.08 * facts.width - left) / (right - left)
    bar_width, bar_bottom = 0.07 * facts.width / (right - left), (facts.height - bottom) / (top - bottom)
    bar_ax = ax.inset_axes((bar_left, bar_bottom, bar_width, facts.height / (bottom - top)))
    bar = ax.figure.colorbar(ax.images[0], cax=bar_ax, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels(["−1", "0", "1"] if limit == 1 else [f"{-limit:.2g}".replace("-", "−"), "0", f"{limit:.2g}"])
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(length=2, labelsize="x-small")


def maps_and_limit(values: Array, parts: list[tuple[Array, Array, float]]) -> tuple[list[Array], float]:
    """What is drawn of each channel in space, and the value of the darkest red: the image itself of a still image."""
    if values.shape[1] == 1:
        return [channel[0] for channel in values], float(np.abs(values).max()) or 1.0
    return [spatial for _, spatial, _ in parts], 1.0


def draw_tiles(
    ax: Axes,
    rows: list[list[Array]],
    limit: float,
    margin_right: float = 0.0,
    lefts: list[float] | None = None,
    right: float | None = None,
) -> list[float]:
    """Draw maps ``[height, width]`` on a grid, and return the left edges of the columns.

    Args:
        ax: where to draw, in units of pixels.
        rows: the maps of each row.
        limit: the value of the darkest red.
        margin_right: space to leave at the right, in widths of a map.
        lefts: the left edges; by default with a small gap.
        right: where the axes end; by default after the last map and the margin.
    """
    height, width = rows[0][0].shape
    step_x, step_y = width * (1 + TILE_GAP), height + TILE_GAP * width
    if lefts is None:
        lefts = [column * step_x for column in range(len(rows[0]))]
    for number, maps in enumerate(rows):
        for left, values in zip(lefts, maps, strict=True):
            top = number * step_y
            extent = (left, left + width, top + height, top)
            ax.imshow(values, cmap=DIVERGING_MAP, vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")
            ax.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="0.3", linewidth=0.6))
    ax.set_xlim(-0.02 * width, lefts[-1] + width * (1.02 + margin_right) if right is None else right)
    ax.set_ylim((len(rows) - 1) * step_y + height * 1.02, -0.02 * height)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return lefts


def draw_scale_bar(ax: Axes, facts: StimulusFormat, label_size: float | str = "small") -> None:
    """Draw a bar of a round length, at most 0.4 of the width, just under the first map."""
    if facts.pixel_size is None:
        return
    longest = 0.4 * facts.width * facts.pixel_size
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= longest * (1 + 1e-9))
    pixels = length / facts.pixel_size
    below = 6.0
    lower = ScaledTranslation(0, -below / 72, ax.figure.dpi_scale_trans)
    bar = Line2D([0, pixels], [facts.height] * 2, color="black", linewidth=2.5, solid_capstyle="butt", clip_on=False)
    bar.set_transform(ax.transData + lower)
    ax.add_artist(bar)
    write(ax, f"{length:g} µm", pixels, facts.height, dx=3, dy=-below, ha="left", va="center", size=label_size)


def write(
    ax: Axes, text: str, x: float, y: float, *, dx: float = 0, dy: float = 0, size: float | str = "small", **style: Any
) -> None:
    """Write at a place in data coordinates, shifted by points, without clipping."""
    ax.annotate(text, (x, y), (dx, dy), textcoords="offset points", fontsize=size, annotation_clip=False, **style)


def draw_temporal(ax: Axes, temporals: list[Array], facts: StimulusFormat, shaded: list[tuple[int, int]]) -> None:
    """Draw the channels of a stimulus in time, with spans of frames shaded."""
    draw_traces(ax, temporals, facts)
    shade(ax, shaded, facts.frame_rate)
    ax.set_title("Time")
    ax.set_xlabel("time (s)")
    ax.set_ylabel("stimulus")


def draw_traces(ax: Axes, temporals: list[Array], facts: StimulusFormat) -> None:
    """Draw the temporal parts ``[time]`` of the channels, in their colours, over seconds."""
    frame_rate = facts.frame_rate
    assert frame_rate is not None
    ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for temporal, name, color in zip(temporals, facts.channel_names, channel_colors(facts.channel_names), strict=True):
        ax.plot(np.arange(len(temporal)) / frame_rate, temporal, color=color, label=name)
    limit = 1.1 * float(np.abs(temporals).max()) or 1.0
    ax.set_ylim(-limit, limit)
    ax.set_xlim(-0.5 / frame_rate, (len(temporals[0]) - 0.5) / frame_rate)
    tidy(ax)


def draw_response(ax: Axes, trace: Array, frames_lost: int, frame_rate: float, linestyle: Any = "-") -> None:
    """Draw the response of a neuron, at the times of the last stimulus frames that it depends on."""
    ax.plot((np.arange(len(trace)) + frames_lost) / frame_rate, trace, color=RESPONSE_COLOR, linestyle=linestyle)
    ax.set_ylabel("response", color=RESPONSE_COLOR)
    finite = trace[np.isfinite(trace)]
    ax.set_ylim(1.1 * finite.min(initial=0.0), 1.1 * finite.max(initial=0.0) or 1.0)
    tidy(ax)


def draw_spectrum(ax: Axes, temporals: list[Array], facts: StimulusFormat, cutoff: float) -> None:
    """Draw the amplitude spectra of the channels up to a frequency in Hz."""
    frame_rate = facts.frame_rate
    assert frame_rate is not None
    for temporal, name, color in zip(temporals, facts.channel_names, channel_colors(facts.channel_names), strict=True):
        frequencies, amplitudes = amplitude_spectrum(temporal, frame_rate, cutoff)
        weighted = temporal_frequency(temporal, frame_rate, cutoff)
        label = f"{name}: no change" if math.isnan(weighted) else f"{name}: {weighted:.1f} Hz"
        ax.plot(frequencies, amplitudes, color=color, label=label)
        if not math.isnan(weighted):
            ax.axvline(weighted, color=color, linewidth=0.8, linestyle=":")
    ax.set_xlim(0, cutoff)
    ax.set_ylim(0, 1.3 * ax.dataLim.ymax or 1.0)
    ax.set_title("Spectrum (dotted: mean)")
    ax.set_xlabel("frequency (Hz)")
    ax.set_ylabel("amplitude")
    ax.legend(frameon=False, loc="upper right", handlelength=1.2, borderaxespad=0.2)
    tidy(ax)


def shade(ax: Axes, spans: list[tuple[int, int]], frame_rate: float | None) -> None:
    """Shade spans of first and last stimulus frame, each frame from half a frame before to half a frame after it."""
    assert frame_rate is not None
    for first, last in spans:
        ax.axvspan((first - 0.5) / frame_rate, (last + 0.5) / frame_rate, color=WINDOW_COLOR, alpha=0.1, linewidth=0)
