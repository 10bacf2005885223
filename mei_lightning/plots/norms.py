"""How MEIs, and the responses to them, change with the norm."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, ScalarFormatter

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.plots.rows import (
    StimulusAxes,
    beside,
    draw_row,
    first_neurons,
    label_time,
    map_size,
    name_columns,
    row_height,
    stimulus_axes,
)
from mei_lightning.plots.style import (
    NO_TYPE,
    STYLE,
    WIDTH,
    NotebookFigure,
    drawing,
    neuron_types,
    readable,
    tidy,
    type_looks,
)

_MOST_NAMED = 10
"""So many neurons have a colour and a name each; more have the colours of their types."""
_BESIDE = 0.85
_BETWEEN = 0.5
"""Inches for the names at the left, and for the similarity between two norms."""


def plot_score_by_norm(meis: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw the score of each neuron's MEI over its norm, on a logarithmic axis.

    A few neurons are told apart by colour and marker, more than 10 by their types.

    Args:
        meis: from ``find_meis(norm=[...])`` or ``open_norms``, with ``type (neuron)`` if the types are known.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if the dataset has no dimension ``norm``.

    Example:
        >>> cell = [("session_1", 0)]
        >>> meis = ml.find_meis("simulated", cell, norm=[10, 20], max_steps=4, progress_bar=False)
        >>> ax = ml.plot_score_by_norm(meis)
        >>> norms, scores = ax.lines[0].get_data()
        >>> norms.tolist(), bool(scores[1] > scores[0])
        ([10.0, 20.0], True)
    """
    _check_norms(meis)
    meis = meis.sortby("norm")
    labels, types = meis["neuron"].values.astype(str), neuron_types(meis)
    few = len(labels) <= _MOST_NAMED
    named = labels if few else types
    strength = 1.0 if few else max(0.12, min(0.9, 4 / np.sqrt(len(labels))))
    looks = type_looks(named)
    scores = meis["score"].transpose("norm", "neuron").values
    with drawing(ax, WIDTH * 0.62, WIDTH * 0.42) as ax:
        for number, name in enumerate(named):
            color, marker = looks[name]
            ax.plot(meis["norm"], scores[:, number], color=color, marker=marker, markersize=3.5, alpha=strength)
        ax.set_xscale("log")
        ax.set_xticks(meis["norm"].values)
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("norm of the stimulus")
        ax.set_ylabel("score of the MEI")
        if list(looks) != [NO_TYPE]:
            handles = [
                Line2D([], [], color=color, marker=marker, markersize=3.5, label=name if few else readable(name))
                for name, (color, marker) in looks.items()
            ]
            columns = 1 + len(looks) // 20
            ax.legend(
                handles=handles,
                loc="upper left",
                bbox_to_anchor=(1.02, 1),
                frameon=False,
                borderaxespad=0,
                ncols=columns,
            )
        tidy(ax)
    return ax


def plot_meis_by_norm(meis: xr.Dataset, figure: Figure | None = None, *, max_neurons: int = 12) -> Figure:
    """Draw how the MEI of each neuron changes with the norm: a row for each neuron, its stimuli by rising norm.

    Of each stimulus there are the spatial parts of its channels, each scaled to its centre, and below them the
    temporal parts, divided by the norm, so that a stimulus that only gets stronger looks the same. Between two
    neighbours is their similarity (cosine).

    Args:
        meis: from ``find_meis(norm=[...])`` or ``open_norms``.
        figure: an empty figure to draw into; by default a new one, as large as the stimuli need.
        max_neurons: how many neurons to draw, the first ones of the dataset.

    Returns:
        The figure.

    Raises:
        ValueError: if the dataset has no dimension ``norm`` or no neurons, or ``max_neurons`` is not positive.

    Example:
        >>> cell = [("session_1", 0)]
        >>> meis = ml.find_meis("simulated", cell, norm=[10, 20], max_steps=4, progress_bar=False)
        >>> figure = ml.plot_meis_by_norm(meis)
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['norm 10', 'norm 20']
    """
    _check_norms(meis)
    shown = first_neurons(meis, max_neurons).sortby("norm")
    norms, neurons = shown.sizes["norm"], shown.sizes["neuron"]
    facts = dataset_stimulus_format(meis)
    tile, map_height = map_size(facts)
    width, height = _BESIDE + norms * tile + (norms - 1) * _BETWEEN + 0.15, 0.75 + neurons * row_height(facts)
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(width, height))
        grid = figure.add_gridspec(
            neurons,
            norms,
            left=_BESIDE / width,
            right=1 - 0.15 / width,
            top=1 - 0.4 / height,
            bottom=0.35 / height,
            wspace=_BETWEEN / tile,
            hspace=0.14 / row_height(facts),
        )
        for number in range(neurons):
            axes = [stimulus_axes(figure, grid[number, column], map_height, facts.is_still) for column in range(norms)]
            _draw_neuron(axes, shown.isel(neuron=number), facts)
            if number == 0:
                name_columns([ax for ax, _ in axes], [f"norm {norm:.4g}" for norm in shown["norm"].values], facts)
                if norms > 1:
                    beside(axes[1][0], "cosine", -72 * _BETWEEN / 2, "center", height=1)
            if number == neurons - 1:
                label_time(axes)
    return figure


def _draw_neuron(axes: list[StimulusAxes], row: xr.Dataset, facts: StimulusFormat) -> None:
    """Draw the stimuli of a neuron, one for each norm, and the similarities between neighbours."""
    stimuli = row["stimulus"].transpose("norm", "channel", "time", "y", "x").values.astype(np.float64)
    draw_row(axes, stimuli, row["norm"].values, row, facts)
    for (ax, _), (one, other) in zip(axes[1:], pairwise(stimuli), strict=True):
        beside(ax, f"{similarity(one, other):.2f}".replace("-", "−"), -72 * _BETWEEN / 2, "center")


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """The cosine between two stimuli, NaN if one is not finite or zero."""
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum() / size) if size > 0 else float("nan")


def _check_norms(meis: xr.Dataset) -> None:
    if "norm" not in meis["stimulus"].dims:
        raise InvalidValueError(
            "The MEIs are of one norm: find them with norm=[5, 10, 20], or open a directory of several with open_norms."
        )
