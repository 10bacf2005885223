"""Figures of MEIs: of one neuron, and an overview of many.

Figures are made without pyplot: nothing stays open, ``figure.savefig(path)`` writes them, and a notebook shows one that
is a cell's last value. Times are those of ``stimuli.py``.
"""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.drawing import (
    TILE_GAP,
    draw_response,
    draw_scale_bar,
    draw_spatial,
    draw_spectrum,
    draw_temporal,
    draw_tiles,
    draw_traces,
    maps_and_limit,
    shade,
    spread_frames,
    window_of,
    write,
)
from mei_lightning.plots.frames import (
    dataset_stimulus_format,
    stimulus_to_rgb_frames,
)
from mei_lightning.plots.style import STYLE, NotebookFigure, channel_colors
from mei_lightning.wording import first_few, how_many

Array = NDArray[np.floating[Any]]


def plot_mei(dataset: xr.Dataset, neuron: str, figure: Figure | None = None) -> Figure:
    """Draw one neuron's MEI: frames, shape in space, course in time, spectrum, and the neuron's response to it.

    Args:
        dataset: MEIs as ``find_meis`` returns them.
        neuron: the neuron's label, e.g. ``"session_1/3"``.
        figure: an empty figure to draw into; by default a new one, 180 mm wide.

    Returns:
        The figure.

    Raises:
        ValueError: if the dataset has no neuron of that label.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> figure = ml.plot_mei(meis, "session_1/0")
        >>> [ax.get_title() for ax in figure.axes[1:]]  # below the frames
        ['Space (share explained)', 'Spectrum (dotted: mean)', 'Time', 'Response (shaded: objective)']
    """
    labels = [str(label) for label in dataset["neuron"].values]
    if neuron not in labels:
        raise InvalidValueError(f"The dataset has no neuron {neuron!r}. Its neurons: {first_few(labels)}.")
    row = dataset.isel(neuron=labels.index(neuron))
    facts = dataset_stimulus_format(dataset)
    values = row["stimulus"].transpose("channel", "time", "y", "x").values.astype(np.float64)
    still = values.shape[1] == 1
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(7.1, 2.3 if still else _movie_heights(facts)[1]))
        figure.suptitle(_title(row), fontsize=9, fontweight="bold", x=0.02, ha="left")
        if not np.isfinite(values).all():
            figure.text(0.5, 0.5, "The stimulus is not finite.", ha="center")
        elif still:
            _draw_still(figure, values, facts)
        else:
            _draw_movie(figure, values, row, facts)
    return figure


def plot_meis(
    dataset: xr.Dataset, figure: Figure | None = None, max_neurons: int = 48, total: int | None = None
) -> Figure:
    """Draw an overview of many MEIs: for each neuron the spatial parts above the temporal parts of its channels.

    All temporal parts share one scale; each spatial part is scaled to its own centre.

    Args:
        dataset: MEIs as ``find_meis`` returns them.
        figure: an empty figure to draw into; by default a new one, as large as the neurons need.
        max_neurons: how many neurons to draw, the first ones of the dataset.
        total: how many neurons there are, for the title, if the dataset has a part of them only.

    Returns:
        The figure.

    Raises:
        ValueError: if the dataset has no neurons, or ``max_neurons`` is not positive.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2)]
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> figure = ml.plot_meis(meis)
        >>> figure.texts[0].get_text(), len(figure.axes)  # each in space and in time
        ('simulated: MEIs of 2 neurons', 4)
    """
    count = dataset.sizes["neuron"]
    if count == 0 or max_neurons < 1:
        raise InvalidValueError(f"There is nothing to draw: {count} neurons in the dataset, {max_neurons=}.")
    rows = [dataset.isel(neuron=number) for number in range(min(count, max_neurons))]
    facts = dataset_stimulus_format(dataset)
    still = dataset.sizes["time"] == 1
    columns = min(len(rows), max(3, math.ceil(math.sqrt(len(rows)))))
    lines = math.ceil(len(rows) / columns)
    tile_width = max(1.5, 0.7 * len(facts.channel_names))
    map_height = min(tile_width / len(facts.channel_names) * facts.height / facts.width, 1.2)
    trace_height = 0.0 if still else 0.7
    with mpl.rc_context(STYLE):
        if figure is None:
            line_height = 0.5 + map_height + trace_height
            figure = NotebookFigure(figsize=(max(0.6 + (tile_width + 0.25) * columns, 3.0), 0.8 + line_height * lines))
        width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
        left, top, bottom = 0.45 / width, 1 - 0.72 / height, (0.1 if still else 0.42) / height
        grid = figure.add_gridspec(
            lines, columns, left=left, right=1 - 0.2 / width, top=top, bottom=bottom, wspace=0.22, hspace=0.32
        )
        model = f"{dataset.attrs['model']}: " if "model" in dataset.attrs else ""
        title = f"{model}MEIs of {how_many(len(rows), total or count)}"
        figure.text(left, 1 - 0.08 / height, title, fontsize=9, fontweight="bold", ha="left", va="top")
        figure.legend(
            handles=[
                Line2D([], [], color=color, label=name)
                for name, color in zip(facts.channel_names, channel_colors(facts.channel_names), strict=True)
            ],
            loc="upper left",
            bbox_to_anchor=(left, 1 - 0.2 / height),
            ncols=len(facts.channel_names),
            frameon=False,
            borderaxespad=0,
            borderpad=0.3,
        )
        trace_axes = []
        for number, row in enumerate(rows):
            cell = grid[number // columns, number % columns]
            tile = (
                cell.subgridspec(1, 1)
                if still
                else cell.subgridspec(2, 1, height_ratios=[map_height, 0.6], hspace=0.15)
            )
            map_ax = figure.add_subplot(tile[0])
            map_ax.set_title(f"{_name(row)}\n{_short_verdict(row)}", fontsize=6.5, pad=3)
            values = row["stimulus"].transpose("channel", "time", "y", "x").values.astype(np.float64)
            if not np.isfinite(values).all():
                map_ax.set_axis_off()
                map_ax.text(0.5, 0.5, "not finite", ha="center", va="center", transform=map_ax.transAxes)
                continue
            parts = list(zip(*decompose_channels(values), strict=True))
            maps, limit = maps_and_limit(values, parts)
            draw_tiles(map_ax, [maps], limit)
            if number == 0:
                draw_scale_bar(map_ax, facts, label_size=6)
            if not still:
                trace_ax = figure.add_subplot(tile[1])
                trace_ax.patch.set_visible(False)  # the scale bar's label may reach into it
                draw_traces(trace_ax, [temporal for temporal, _, _ in parts], facts)
                shade(trace_ax, [window_of(row, facts)], facts.frame_rate)
                lowest = number + columns >= len(rows)
                trace_ax.tick_params(labelleft=number % columns == 0, labelbottom=lowest, length=2, labelsize=6)
                if lowest:
                    trace_ax.set_xlabel("time (s)", fontsize=6.5, labelpad=1)
                trace_axes.append(trace_ax)
        largest = max((ax.get_ylim()[1] for ax in trace_axes), default=1.0)
        for trace_ax in trace_axes:
            trace_ax.set_ylim(-largest, largest)
    return figure


def _title(row: xr.Dataset) -> str:
    facts = [_name(row), f"score {_score(row)}"]
    if "status" in row:
        facts.append(str(row["status"].item()))
    return "   ·   ".join(facts)


def _name(row: xr.Dataset, most: int = 2) -> str:
    """The label of a neuron or a group; of a large group the first member's, and how many more there are."""
    first, *others = str(row["neuron"].item()).split("+")
    return f"{first} and {len(others)} more" if len(others) >= most else "+".join([first, *others])


def _short_verdict(row: xr.Dataset) -> str:
    status = str(row["status"].item()) if "status" in row else "converged"
    return f"score {_score(row)}" + ("" if status == "converged" else f", {status}")


def _score(row: xr.Dataset) -> str:
    return f"{float(row['score']):.3g}"


def _movie_heights(facts: StimulusFormat) -> tuple[float, float]:
    """Heights in inches of the strip of frames and of the whole figure of one neuron, 180 mm wide."""
    strip = len(facts.channel_names) * min(0.62 * facts.height / facts.width, 1.0)
    return strip, strip + 5.0


def _draw_movie(figure: Figure, values: Array, row: xr.Dataset, facts: StimulusFormat) -> None:
    frame_rate = facts.frame_rate
    assert frame_rate is not None
    strip, total = _movie_heights(facts)
    strip_top, panels_top = 1 - 0.6 / total, 1 - (strip + 1.2) / total
    across = figure.add_gridspec(1, 1, left=0.08, right=0.985, top=strip_top, bottom=strip_top - strip / total)
    panels = figure.add_gridspec(
        2,
        2,
        left=0.08,
        right=0.985,
        top=panels_top,
        bottom=0.45 / total,
        width_ratios=[1, 1.1],
        hspace=0.38,
        wspace=0.24,
    )

    strip_ax = figure.add_subplot(across[0])
    frames = spread_frames(values.shape[1], 10)
    lefts = draw_tiles(strip_ax, [list(channel[frames]) for channel in values], np.abs(values).max() or 1.0)
    for left, frame in zip(lefts, frames, strict=True):
        write(strip_ax, f"{frame / frame_rate:.2f} s", left + facts.width / 2, 0, dy=2, ha="center", va="bottom")
    for number, (name, color) in enumerate(zip(facts.channel_names, channel_colors(facts.channel_names), strict=True)):
        middle = facts.height / 2 + number * (facts.height + TILE_GAP * facts.width)
        write(strip_ax, name, 0, middle, dx=-4, ha="right", va="center", color=color)

    parts = list(zip(*decompose_channels(values), strict=True))
    temporals = [temporal for temporal, _, _ in parts]
    window = [window_of(row, facts)]
    draw_spatial(figure.add_subplot(panels[0, 0]), values, parts, facts)
    draw_spectrum(figure.add_subplot(panels[1, 0]), temporals, facts, 10.0)
    temporal_ax = figure.add_subplot(panels[0, 1])
    draw_temporal(temporal_ax, temporals, facts, window)
    response_ax = figure.add_subplot(panels[1, 1], sharex=temporal_ax)
    draw_response(response_ax, row["response"].values.astype(np.float64), facts.frames_lost, frame_rate)
    shade(response_ax, window, frame_rate)
    response_ax.set_title("Response (shaded: objective)")
    temporal_ax.set_xlabel("")
    response_ax.set_xlabel("time (s)")


def _draw_still(figure: Figure, values: Array, facts: StimulusFormat) -> None:
    in_color = 1 < len(values) <= 3
    panels = figure.add_gridspec(
        1,
        2 if in_color else 1,
        width_ratios=[1, len(values)][: 2 if in_color else 1],
        left=0.04,
        right=0.95,
        top=0.76,
        bottom=0.08,
        wspace=0.15,
    )
    draw_spatial(figure.add_subplot(panels[-1]), values, list(zip(*decompose_channels(values), strict=True)), facts)
    if in_color:
        color_ax = figure.add_subplot(panels[0])
        color_ax.imshow(stimulus_to_rgb_frames(values)[0], interpolation="nearest")
        color_ax.set_axis_off()
        color_ax.set_title("Channels together")
