"""Several stimuli of one neuron in a row: the parts of figures that set stimuli beside each other."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from numpy.typing import NDArray

from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.drawing import draw_scale_bar, draw_tiles, draw_traces, maps_and_limit, shade, window_of, write
from mei_lightning.plots.style import channel_colors

_STIMULUS = ("channel", "time", "y", "x")

StimulusAxes = tuple[Axes, Axes | None]
"""Axes for the maps of a stimulus and, unless it is a still image, below them for its course in time."""


def map_size(facts: StimulusFormat) -> tuple[float, float]:
    """Width and height, in inches, of the maps of all channels of a stimulus side by side."""
    width = max(1.0, 0.6 * len(facts.channel_names))
    return width, min(width / len(facts.channel_names) * facts.height / facts.width, 1.2)


def row_height(facts: StimulusFormat) -> float:
    """Height, in inches, of a row of stimuli with their courses in time, if they have any."""
    return map_size(facts)[1] + (0.3 if facts.is_still else 0.85)


def first_neurons(meis: xr.Dataset, max_neurons: int) -> xr.Dataset:
    """The neurons that a figure shows.

    Raises:
        ValueError: if there are none, or ``max_neurons`` is not positive.
    """
    shown = meis.isel(neuron=slice(max(max_neurons, 0)))
    if shown.sizes["neuron"] == 0:
        raise InvalidValueError(f"There is nothing to draw: no neurons, with {max_neurons=}.")
    return shown


def draw_beside(
    axes: Sequence[StimulusAxes], row: xr.Dataset, kind: str, facts: StimulusFormat
) -> NDArray[np.floating[Any]]:
    """Draw the MEI of a neuron and those of a kind beside it, their courses in time divided by their norms.

    Args:
        axes: for each.
        row: the neuron's part of a dataset of MEIs.
        kind: the dimension of the others, "member" or "repeat".
        facts: of the stimuli.

    Returns:
        The stimuli, ``[stimuli, channels, time, height, width]``.
    """
    own, others = row["stimulus"].transpose(*_STIMULUS), row[f"{kind}_stimulus"].transpose(kind, *_STIMULUS)
    stimuli = np.concatenate([own.values[None], others.values]).astype(np.float64)
    norms = np.linalg.norm(stimuli.reshape(len(stimuli), -1), axis=1)
    draw_row(axes, stimuli, np.where(norms > 0, norms, 1), row, facts, missing="no MEI")
    return stimuli


def stimulus_axes(figure: Figure, cell: SubplotSpec, map_height: float, still: bool) -> StimulusAxes:
    """Axes for a stimulus in a cell of a grid."""
    if still:
        return figure.add_subplot(cell), None
    parts = cell.subgridspec(2, 1, height_ratios=[map_height, 0.45], hspace=0.12)
    return figure.add_subplot(parts[0]), figure.add_subplot(parts[1])


def draw_row(
    axes: Sequence[StimulusAxes],
    stimuli: NDArray[np.floating[Any]],
    sizes: Sequence[float] | NDArray[Any],
    row: xr.Dataset,
    facts: StimulusFormat,
    missing: str = "not finite",
) -> None:
    """Draw stimuli of a neuron side by side, its label before them, and their courses in time on one scale.

    Args:
        axes: for each.
        stimuli: ``[stimuli, channels, time, height, width]``.
        sizes: by which the courses in time are divided.
        row: the neuron's part of a dataset of MEIs.
        facts: of the stimuli.
        missing: what stands in place of a stimulus that is not finite.
    """
    for (ax, trace_ax), stimulus, size in zip(axes, stimuli, sizes, strict=True):
        if not np.isfinite(stimulus).all():
            ax.set_axis_off()
            ax.text(0.5, 0.5, missing, ha="center", va="center", transform=ax.transAxes)
            if trace_ax is not None:
                trace_ax.set_axis_off()
            continue
        parts = list(zip(*decompose_channels(stimulus), strict=True))
        maps, limit = maps_and_limit(stimulus, parts)
        draw_tiles(ax, [maps], limit)
        if trace_ax is not None:
            draw_traces(trace_ax, [temporal / size for temporal, _, _ in parts], facts)
            shade(trace_ax, [window_of(row, facts)], facts.frame_rate)
            trace_ax.tick_params(labelleft=False, labelbottom=False, length=2, labelsize=6)
    beside(axes[0][0], textwrap.fill(str(row["neuron"].item()), 14), -6, "right")
    drawn = [trace_ax for _, trace_ax in axes if trace_ax is not None and trace_ax.lines]
    largest = max((ax.get_ylim()[1] for ax in drawn), default=1.0)
    for trace_ax in drawn:
        trace_ax.set_ylim(-largest, largest)


def label_time(axes: Sequence[StimulusAxes]) -> None:
    """Write the times below the courses in time of the last row."""
    for _, trace_ax in axes:
        if trace_ax is not None:
            trace_ax.tick_params(labelbottom=True)
            trace_ax.set_xlabel("time (s)", fontsize=6.5, labelpad=1)


def beside(ax: Axes, text: str, points: float, align: str, height: float = 0.5) -> None:
    """Write so many points to the right of the left edge, at a share of the height."""
    ax.annotate(
        text,
        (0, height),
        (points, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=7,
        annotation_clip=False,
    )


def name_columns(axes: Sequence[Axes], titles: Sequence[str], facts: StimulusFormat) -> None:
    """Write titles and the channels above the first row, and a scale below its first map."""
    for ax, title in zip(axes, titles, strict=True):
        left, right = ax.get_xlim()
        for number, (name, color) in enumerate(
            zip(facts.channel_names, channel_colors(facts.channel_names), strict=True)
        ):
            middle = (number + 0.5) / len(facts.channel_names) * (right - left) + left
            write(ax, name, middle, 0, dy=2, ha="center", va="bottom", color=color, size=6.5)
        ax.set_title(title, fontweight="bold", pad=14)
    draw_scale_bar(axes[0], facts, label_size=6)
