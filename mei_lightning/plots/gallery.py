"""A population at a glance: MEIs of each type in space, and all of them in time."""

import textwrap

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mei_lightning.analysis.decomposition import decompose_channels
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.plots.drawing import draw_scale_bar, draw_tiles, shade, window_of
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.plots.style import STYLE, WIDTH, NotebookFigure, channel_colors, neuron_types, readable, tidy

_TRACE_SHARE = 0.25
_LABEL_SHARE = 0.175
_BETWEEN = 0.35  # of a tile's width


def plot_gallery(meis: xr.Dataset, figure: Figure | None = None, *, per_type: int = 6) -> Figure:
    """Draw a population, a row for each type: the MEIs of highest score in space, and those of all its neurons in time.

    Each channel is split by ``decompose``: spatial parts stand side by side, red above the mean and blue below, each
    scaled to its centre; temporal parts carry the stimulus' unit, on one scale for all types. Shaded is the time that
    the objective counts.

    Args:
        meis: MEIs as ``find_meis`` returns them, with ``type (neuron)`` if the types are known; without types, all
            neurons are in one row. With ``temporal_kernel`` and ``spatial_kernel`` as ``measure_meis`` returns them,
            these are drawn, and no stimulus is needed. Neurons without a finite stimulus are left out.
        figure: an empty figure to draw into; by default a new one, 180 mm wide.
        per_type: how many MEIs to show of each type.

    Returns:
        The figure.

    Raises:
        ValueError: if no neuron has a finite stimulus, or ``per_type`` is not positive.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 2)]
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> figure = ml.plot_gallery(meis.assign_coords(type=("neuron", ["ON", "OFF"])), per_type=1)
        >>> len(figure.axes)  # for each of two types one in space and one in time
        4
    """
    if per_type < 1:
        raise InvalidValueError(f"A gallery shows at least one MEI of each type, got {per_type=}.")
    facts = dataset_stimulus_format(meis)
    temporal, spatial = _kernels(meis)
    finite = np.isfinite(temporal).all(axis=(1, 2)) & np.isfinite(spatial).all(axis=(1, 2, 3))
    if not finite.any():
        raise InvalidValueError("No neuron has a finite stimulus: there is nothing to draw.")
    types, scores = neuron_types(meis), np.nan_to_num(meis["score"].values, nan=-np.inf)
    names = [str(name) for name in np.unique(types[finite])]
    still = meis.sizes["time"] == 1
    trace_share = 0.0 if still else _TRACE_SHARE
    tiles_share = 1 - _LABEL_SHARE - trace_share - 0.02
    columns = per_type * (tile_step := len(facts.channel_names) + _BETWEEN)
    row_height = max(0.62, WIDTH * tiles_share / columns * facts.height / facts.width + 0.08)
    height = row_height * len(names) + 0.85
    colors = channel_colors(facts.channel_names)
    tile_points = 72 * WIDTH * tiles_share / columns
    name_size = min(7.0, 1.5 * tile_points / max(len(name) for name in facts.channel_names))
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(WIDTH, height))
        grid = figure.add_gridspec(
            len(names),
            2,
            left=_LABEL_SHARE,
            right=0.985,
            top=1 - 0.38 / height,
            bottom=0.45 / height,
            width_ratios=[tiles_share, max(trace_share, 1e-3)],
            wspace=0.12,
            hspace=0.12,
        )
        trace_axes = []
        for number, name in enumerate(names):
            members = np.flatnonzero((types == name) & finite)
            best = members[np.argsort(-scores[members], kind="stable")][:per_type]
            shown = f",\nbest {len(best)} in space" if len(best) < len(members) else ""
            tiles_ax = figure.add_subplot(grid[number, 0])
            tiles = [it for neuron in best for it in _tiles(temporal[neuron], spatial[neuron])]
            lefts = draw_tiles(
                tiles_ax,
                [tiles],
                1.0,
                lefts=[
                    facts.width * (group * tile_step + channel * 1.07)
                    for group in range(len(best))
                    for channel in range(len(facts.channel_names))
                ],
                right=facts.width * (per_type * tile_step - _BETWEEN + 0.1),
            )
            tiles_ax.set_anchor("W")
            tiles_ax.annotate(
                f"{textwrap.fill(readable(name), 18)}\nn = {len(members)}{shown}",
                (0, 0.5),
                (-6, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="center",
                annotation_clip=False,
            )
            if number == len(names) - 1:
                draw_scale_bar(tiles_ax, facts)
            if number == 0:
                for left, channel_name, color in zip(lefts, facts.channel_names, colors, strict=False):
                    tiles_ax.annotate(
                        channel_name,
                        (left + facts.width / 2, 0),
                        (0, 3),
                        textcoords="offset points",
                        ha="center",
                        va="bottom",
                        color=color,
                        fontsize=name_size,
                        annotation_clip=False,
                    )
            if still:
                continue
            assert facts.frame_rate is not None
            trace_ax = figure.add_subplot(grid[number, 1])
            trace_axes.append(trace_ax)
            trace_ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
            seconds = np.arange(meis.sizes["time"]) / facts.frame_rate
            strength = max(0.12, min(0.9, 2 / np.sqrt(len(members))))
            for channel, color in enumerate(colors):
                courses = temporal[members, channel].T
                trace_ax.plot(
                    seconds, courses, color=color, linewidth=0.7, alpha=strength, rasterized=len(members) > 200
                )
            shade(trace_ax, [window_of(meis, facts)], facts.frame_rate)
            trace_ax.set_xlim(-0.5 / facts.frame_rate, seconds[-1] + 0.5 / facts.frame_rate)
            trace_ax.tick_params(labelbottom=number == len(names) - 1, length=2)
            tidy(trace_ax)
        largest = max((np.abs(ax.dataLim.intervaly).max() for ax in trace_axes), default=1.0) * 1.05 or 1.0
        for ax in trace_axes:
            ax.set_ylim(-largest, largest)
        if trace_axes:
            trace_axes[-1].set_xlabel("time (s)")
            trace_axes[0].legend(
                handles=[
                    Line2D([], [], color=color, label=name)
                    for name, color in zip(facts.channel_names, colors, strict=True)
                ],
                loc="lower left",
                bbox_to_anchor=(0, 1),
                ncols=len(colors),
                frameon=False,
                borderaxespad=0.2,
                handlelength=1.2,
            )
    return figure


def _kernels(meis: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Temporal parts ``[neuron, channel, time]`` and spatial parts ``[neuron, channel, y, x]``, NaN if not finite."""
    if "temporal_kernel" in meis and "spatial_kernel" in meis:
        return (
            meis["temporal_kernel"].transpose("neuron", "channel", "time").values,
            meis["spatial_kernel"].transpose("neuron", "channel", "y", "x").values,
        )
    stimuli = meis["stimulus"].transpose("neuron", "channel", "time", "y", "x").values
    temporal = np.full(stimuli.shape[:3], np.nan)
    spatial = np.full((*stimuli.shape[:2], *stimuli.shape[3:]), np.nan)
    for number in np.flatnonzero(np.isfinite(stimuli).all(axis=(1, 2, 3, 4))):
        temporal[number], spatial[number], _ = decompose_channels(stimuli[number])
    return temporal, spatial


def _tiles(temporal: np.ndarray, spatial: np.ndarray) -> list[np.ndarray]:
    """What is drawn of each channel in space, at most 1: of a still image the image, on one scale for all channels."""
    if temporal.shape[1] > 1:
        return list(spatial)
    images = temporal[:, :, None] * spatial
    return list(images / (np.abs(images).max() or 1.0))
