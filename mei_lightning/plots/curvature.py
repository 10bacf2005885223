"""How far one MEI is determined: the directions in which it can be turned, and what the response rests on."""

import math

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mei_lightning.analysis.curvature import ANGLE, FALL
from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.analysis.populations import position_of
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.drawing import draw_scale_bar, draw_tiles, draw_traces, maps_and_limit, shade, window_of, write
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.plots.style import STYLE, WIDTH, NotebookFigure, channel_colors, tidy

_LEAST, _MOST, _OTHER = "#0072B2", "#D55E00", "0.35"


def plot_mei_curvature(meis: xr.Dataset, curvature: xr.Dataset, neuron: str, figure: Figure | None = None) -> Figure:
    """Draw the least and the most determined direction of one neuron's MEI, and what the response to it rests on.

    In the upper half there are, in space and in time, the MEI and the two directions as stimuli, each split into parts
    as in ``plot_mei``; and the contribution of each pixel and each frame to the response. The lower half has the
    responses to the MEI turned by 30 degrees in each of the found directions, to both sides, over its curvature, with
    the fall that the curvature predicts. A direction is free if both are above the dashed line. The dotted line is the
    curvature in all directions in which the response does not bend.

    Args:
        meis: MEIs as ``find_meis`` returns them.
        curvature: from ``mei_curvature``, or from ``analyze_meis(curvature=True)``.
        neuron: the neuron's label, e.g. ``"session_1/3"``.
        figure: an empty figure to draw into; by default a new one, 180 mm wide.

    Returns:
        The figure.

    Raises:
        ValueError: if one of the datasets has no neuron of that label, or it has no curvature.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 5)], max_steps=20, progress_bar=False)
        >>> curvature = ml.mei_curvature("simulated", meis, directions=3, progress_bar=False)
        >>> figure = ml.plot_mei_curvature(meis, curvature, "session_1/5")
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['MEI', 'least determined', 'most determined', 'contribution']
    """
    if "curvature" not in curvature:
        raise InvalidValueError(
            "This dataset has no curvature: make it with mei_curvature, or with analyze_meis(curvature=True)."
        )
    row = meis.isel(neuron=position_of(meis, neuron))
    found = curvature.isel(neuron=position_of(curvature, neuron))
    if not np.isfinite(found["curvature"].values).any():
        raise InvalidValueError(f"The curvature of {neuron!r} is not known: it has no MEI, or no positive score.")
    facts = dataset_stimulus_format(meis)
    still = meis.sizes["time"] == 1
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(WIDTH, 4.2 if still else 5.4), layout="constrained")
        free = found["free_directions"].item()
        counted = "" if math.isnan(free) else f"   ·   {free:.0f} of {_known(found)} found directions are free"
        figure.suptitle(f"{neuron}{counted}", fontsize=9, fontweight="bold", x=0.02, ha="left")
        grid = figure.add_gridspec(2 if still else 3, 4, height_ratios=[1, 1.3] if still else [1, 0.75, 1.3])
        parts = [
            ("MEI", "black", *_split(row["stimulus"])),
            ("least determined", _LEAST, *_split(found["least_determined"])),
            ("most determined", _MOST, *_split(found["most_determined"])),
            ("contribution", "black", *_contribution(found)),
        ]
        for column, (title, color, maps, traces) in enumerate(parts):
            map_ax = figure.add_subplot(grid[0, column])
            draw_tiles(map_ax, [maps], max(float(np.abs(maps).max()), 1e-30))
            map_ax.set_title(title, color=color, pad=14)
            for number, name in enumerate(facts.channel_names):
                middle = (number * 1.07 + 0.5) * facts.width
                write(map_ax, name, middle, 0, dy=2, ha="center", color=channel_colors(facts.channel_names)[number])
            if column == 0:
                draw_scale_bar(map_ax, facts, label_size=6)
            if not still:
                _draw_course(figure.add_subplot(grid[1, column]), traces, row, facts, column)
        _draw_turns(figure.add_subplot(grid[-1, :]), found)
    return figure


def _known(found: xr.Dataset) -> int:
    return int(np.isfinite(found["curvature"].values).sum())


def _split(stimulus: xr.DataArray) -> tuple[list[NDArray[np.floating]], list[NDArray[np.floating]]]:
    """The spatial and the temporal parts of the channels."""
    values = stimulus.transpose("channel", "time", "y", "x").values.astype(np.float64)
    parts = list(zip(*decompose_channels(values), strict=True))
    return maps_and_limit(values, parts)[0], [temporal for temporal, _, _ in parts]


def _contribution(found: xr.Dataset) -> tuple[list[NDArray[np.floating]], list[NDArray[np.floating]]]:
    in_space = found["contribution_in_space"].transpose("channel", "y", "x").values
    return list(in_space), list(found["contribution_in_time"].transpose("channel", "time").values)


def _draw_course(
    ax: Axes, traces: list[NDArray[np.floating]], row: xr.Dataset, facts: StimulusFormat, column: int
) -> None:
    draw_traces(ax, traces, facts)
    shade(ax, [window_of(row, facts)], facts.frame_rate)
    ax.set_xlabel("time (s)")
    if column in (0, 3):
        ax.set_ylabel("stimulus" if column == 0 else "response")


def _draw_turns(ax: Axes, found: xr.Dataset) -> None:
    """The responses to the turned MEI over curvature, with what the curvature predicts."""
    values = found["curvature"].values
    responses = found["turned_response"].transpose("turn", "angle").values
    linear, last = found["linear_curvature"].item(), _known(found) - 1
    curvatures = np.linspace(min(0.0, np.nanmin(values)), 1.05 * max(np.nanmax(values), linear), 100)
    lowest, highest = np.nanmin(responses, initial=1 - FALL), np.nanmax(responses, initial=1.0)
    ax.plot(
        curvatures,
        1 - curvatures / 2 * math.radians(ANGLE) ** 2,
        color="0.6",
        linewidth=1.0,
        label="predicted by the curvature",
    )
    ax.axhline(1 - FALL, color="0.4", linewidth=0.8, linestyle="--", label=f"{1 - FALL:.0%}: free above")
    ax.axvline(linear, color="0.4", linewidth=0.8, linestyle=":", label="where the response does not bend")
    for number in range(last + 1):
        color = _LEAST if number == 0 else _MOST if number == last else _OTHER
        ax.plot([values[number]] * 2, responses[number], color=color, linewidth=1.0, marker="o", markersize=3.5)
    margin = 0.08 * (highest - lowest)
    ax.set_ylim(lowest - margin, highest + margin)
    ax.set_xlabel("curvature of the direction")
    ax.set_ylabel(f"response at ±{ANGLE:g} degrees\n(share of that to the MEI)")
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.24), borderaxespad=0, ncols=3)
    tidy(ax)
