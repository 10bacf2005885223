"""Measures of a population by type, and its chromatic contrast."""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.plots.style import (
    OTHER_COLORS,
    POINTS_AS_VECTORS,
    STYLE,
    WIDTH,
    NotebookFigure,
    channel_colors,
    displayed_unit,
    drawing,
    kind_looks,
    neuron_types,
    readable,
    tidy,
    type_looks,
)

_BELOW_LABEL = 28.0  # points from the axes to what is under their label
_WORDS_PER_LINE = 4
_POINT = 9.0  # area in square points
_ROW = 0.17  # inches of a type
_LINE = 0.19  # inches of a line of words in a legend
_SAYS_LITTLE = ("no", "unknown")
_MOST_LABELS = 60  # more different whole numbers than clusters are ever found count something


def plottable_measures(measures: xr.Dataset) -> list[str]:
    """The measures of a dataset that have a value for each neuron, or for each neuron and channel, and any value."""
    return [str(name) for name, values in measures.data_vars.items() if _has_values(values)]


def plot_measure(measures: xr.Dataset, name: str, ax: Axes | None = None) -> Axes:
    """Draw how one measure is distributed, a row for each type.

    A number is drawn as a point for each neuron (for each channel, in its colour, if it has channels) with the median
    and the middle half as a bar, which angles in degrees do not have; a word, a whole number of few different ones
    (as of a cluster), or yes and no, as the share of the type's neurons that have it.

    Args:
        measures: measures as ``measure_meis`` returns them, with ``type (neuron)`` if the types are known.
        name: the variable, with dimension ``neuron`` or ``neuron, channel``.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if there is no such measure with a value for each neuron, or all its values are missing.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> measures = ml.measure_meis(meis, "simulated", progress_bar=False)
        >>> ax = ml.plot_measure(measures, "centre_size")
        >>> ax.get_title(), ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
        ('centre size', 'µm', ['on sustained'])
    """
    if name not in measures or not _has_values(measures[name]):
        known = ", ".join(plottable_measures(measures))
        raise InvalidValueError(f"The dataset has no values of a measure {name!r}. It has {known or 'none'}.")
    types = neuron_types(measures)
    names = list(type_looks(types))
    values = measures[name]
    with drawing(ax, WIDTH / 2, 0.8 + _ROW * 1.6 * len(names) + _height_of_legend(values)) as ax:
        if _is_of_words(values):
            _draw_shares(ax, values.values, types, names)
        else:
            _draw_points(ax, values, types, names)
        ax.set_yticks(range(len(names)), [readable(it) for it in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_title(readable(name))
        tidy(ax)
    return ax


def plot_measures(measures: xr.Dataset, names: Sequence[str] | None = None, figure: Figure | None = None) -> Figure:
    """Draw how measures are distributed by type, a panel for each; see ``plot_measure``.

    Args:
        measures: measures as ``measure_meis`` returns them, with ``type (neuron)`` if the types are known.
        names: which measures; by default all that ``plottable_measures`` gives.
        figure: an empty figure to draw into; by default a new one, 180 mm wide.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no measure to draw, or as ``plot_measure``.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], max_steps=4, progress_bar=False)
        >>> measures = ml.measure_meis(meis, "simulated", progress_bar=False)
        >>> figure = ml.plot_measures(measures, ["polarity", "centre_size"])
        >>> [ax.get_title() for ax in figure.axes]
        ['polarity', 'centre size']
    """
    chosen = plottable_measures(measures) if names is None else list(names)
    if not chosen:
        raise InvalidValueError("The dataset has no measures with values: there is nothing to draw.")
    columns = min(3, len(chosen))
    lines = math.ceil(len(chosen) / columns)
    types = len(type_looks(neuron_types(measures)))
    with mpl.rc_context(STYLE):
        if figure is None:
            of_panel = [_height_of_legend(measures[name]) if name in measures else 0.0 for name in chosen]
            legends = sum(max(of_panel[first : first + columns]) for first in range(0, len(chosen), columns))
            height = lines * (0.75 + _ROW * max(types, 2)) + legends
            figure = NotebookFigure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(chosen) :]:
            ax.set_axis_off()
        for ax, name in zip(axes.flat, chosen, strict=False):
            plot_measure(measures, name, ax)
    return figure


def plot_chromatic_contrast(measures: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw the temporal contrasts of both channels against each other, and where they oppose each other.

    In the shaded quadrants the contrasts have opposite signs, that is, the opponency angle is above pi / 4 (Höfling
    et al. 2024, eLife 86860); the dashed line is equal contrast.

    Args:
        measures: measures as ``measure_meis`` returns them, with ``temporal_contrast (neuron, channel)`` of two
            channels, and with ``type (neuron)`` if the types are known.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if there is no temporal contrast, or not of two channels.

    Example:
        >>> cells = [("session_1", 0), ("session_1", 7)]
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> measures = ml.measure_meis(meis, "simulated", progress_bar=False)
        >>> measures.opponent.values.tolist()
        [False, True]
        >>> ax = ml.plot_chromatic_contrast(measures)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('green temporal contrast', 'UV temporal contrast')
    """
    if "temporal_contrast" not in measures or measures.sizes.get("channel") != 2:
        raise InvalidValueError(
            "Chromatic contrast is the temporal_contrast of two channels, but the dataset has variables "
            f"{', '.join(map(str, measures.data_vars))} and {measures.sizes.get('channel', 0)} channels."
        )
    contrast = measures["temporal_contrast"].transpose("channel", "neuron").values
    types = neuron_types(measures)
    with drawing(ax, WIDTH * 0.62, WIDTH * 0.45) as ax:
        largest = 1.1 * float(np.nanmax(np.abs(contrast), initial=0.0)) or 1.0
        for corner in ((0, -largest), (-largest, 0)):
            ax.add_patch(Rectangle(corner, largest, largest, color="0.93", linewidth=0, zorder=0))
        ax.text(largest * 0.97, -largest * 0.97, "opponent", ha="right", va="bottom", color="0.35")
        ax.text(-largest * 0.97, largest * 0.97, "opponent", ha="left", va="top", color="0.35")
        ax.axhline(0, color="0.4", linewidth=0.8, zorder=1)
        ax.axvline(0, color="0.4", linewidth=0.8, zorder=1)
        ax.plot([-largest, largest], [-largest, largest], color="0.6", linewidth=0.7, linestyle="--", zorder=1)
        looks = type_looks(types)
        for name, (color, marker) in looks.items():
            of_type = contrast[:, types == name]
            ax.scatter(
                of_type[0],
                of_type[1],
                s=2 * _POINT,
                color=color,
                marker=marker,
                alpha=0.8,
                linewidths=0,
                label=readable(name),
                rasterized=contrast.shape[1] > POINTS_AS_VECTORS,
            )
        ax.set_xlim(-largest, largest)
        ax.set_ylim(-largest, largest)
        ax.set_box_aspect(1)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        first, second = (str(name) for name in measures["channel"].values)
        ax.set_xlabel(f"{first} temporal contrast")
        ax.set_ylabel(f"{second} temporal contrast")
        if len(looks) > 1:
            ax.legend(
                loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, borderaxespad=0, ncols=1 + len(looks) // 20
            )
        tidy(ax)
    return ax


def _has_values(values: xr.DataArray) -> bool:
    if values.dims not in (("neuron",), ("neuron", "channel")):
        return False
    if values.dtype.kind in "fc":
        return bool(np.isfinite(values.values).any())
    if values.dtype.kind in "USO":
        return values.dims == ("neuron",) and bool((values.values.astype(str) != "").any())
    return values.size > 0


def _draw_points(ax: Axes, values: xr.DataArray, types: np.ndarray, names: Sequence[str]) -> None:
    units = displayed_unit(str(values.attrs.get("units", "")))
    by_channel = values.values.reshape(values.sizes["neuron"], -1).astype(np.float64)
    has_channels = "channel" in values.dims
    colors = channel_colors(values["channel"].values.astype(str)) if has_channels else [OTHER_COLORS[0]]
    looks = type_looks(types)
    spread = 0.8 / len(colors)
    random = np.random.default_rng(0)
    for row, name in enumerate(names):
        for channel, color in enumerate(colors):
            of_type = by_channel[types == name, channel]
            of_type = of_type[np.isfinite(of_type)]
            if not len(of_type):
                continue
            shown = color if has_channels else looks[name][0]
            middle = row + (channel - (len(colors) - 1) / 2) * spread
            ax.scatter(
                of_type,
                middle + random.uniform(-0.3, 0.3, len(of_type)) * spread,
                s=_POINT / len(colors) ** 0.5,
                color=shown,
                alpha=0.55,
                linewidths=0,
                rasterized=len(by_channel) > POINTS_AS_VECTORS,
            )
            if units == "degrees":
                continue
            low, median, high = np.quantile(of_type, [0.25, 0.5, 0.75])
            ax.plot([low, high], [middle, middle], color="black", linewidth=1.0)
            ax.plot([median, median], [middle - 0.36 * spread, middle + 0.36 * spread], color="black", linewidth=1.6)
    ax.set_xlabel(units)
    ax.margins(x=0.05)


def _is_of_words(values: xr.DataArray) -> bool:
    """Whether a measure is drawn as shares: words, and whole numbers of which there are few different ones."""
    if values.dims != ("neuron",):
        return False
    if values.dtype.kind in "iu":
        return len(np.unique(values.values)) <= _MOST_LABELS
    return values.dtype.kind in "USOb"


def _words(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """What a measure says of each neuron, in words, and the different ones in the order of drawing."""
    words = values.astype(str) if values.dtype.kind != "b" else np.where(values, "yes", "no")
    words = np.array([readable(word) or "unknown" for word in words])
    # Numbers in their order, and what says the least last.
    kinds = sorted(set(words.tolist()), key=lambda word: (word in _SAYS_LITTLE, len(word) * word.isdigit(), word))
    return words, kinds


def _height_of_legend(values: xr.DataArray) -> float:
    """Inches of a legend under a panel, beyond those that every panel has."""
    if not _is_of_words(values):
        return 0.0
    lines = math.ceil(len(_words(values.values)[1]) / _WORDS_PER_LINE)
    return _LINE * max(lines - 2, 0)


def _draw_shares(ax: Axes, values: np.ndarray, types: np.ndarray, names: Sequence[str]) -> None:
    words, kinds = _words(values)
    looks = kind_looks(kinds) | {kind: ("#D9D9D9", "") for kind in _SAYS_LITTLE if kind in kinds}
    left = np.zeros(len(names))
    for kind in kinds:
        share = np.array([np.mean(words[types == name] == kind) for name in names])
        color, hatch = looks[kind]
        ax.barh(
            range(len(names)),
            share,
            left=left,
            height=0.7,
            facecolor=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            label=kind,
        )
        left += share
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of neurons")
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=ax.transAxes + ScaledTranslation(0, -_BELOW_LABEL / 72, ax.figure.dpi_scale_trans),
        ncols=min(len(kinds), _WORDS_PER_LINE),
        frameon=False,
        borderaxespad=0,
        handlelength=0.8,
        columnspacing=0.8,
    )
