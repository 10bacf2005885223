"""MEIs beside those of repeats, which began from other starts."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.frames import dataset_stimulus_format
from mei_lightning.plots.rows import (
    draw_beside,
    first_neurons,
    label_time,
    map_size,
    name_columns,
    row_height,
    stimulus_axes,
)
from mei_lightning.plots.style import STYLE, NotebookFigure

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.85, 0.15, 0.45, 0.45
"""Inches around the panels, at the left for the names of neurons."""
_BETWEEN = 0.25
_ROWS_APART = 0.15
"""Inches between rows."""


def plot_repeats(meis: xr.Dataset, figure: Figure | None = None, *, max_neurons: int = 6) -> Figure:
    """Draw the MEI of each neuron beside those of its repeats: a row for each neuron.

    Of each there are the spatial parts of its channels, each scaled to its centre, and below them the temporal parts,
    divided by the norm. Below a repeat stand its score as a share of that of the MEI, and how alike the two are: the
    aligned similarity, or "another optimum" if it is one.

    Args:
        meis: from ``find_meis(repeats=...)`` or ``open_repeats``.
        figure: an empty figure to draw into; by default a new one, as large as the stimuli need.
        max_neurons: how many neurons to draw, the first ones of the dataset.

    Returns:
        The figure.

    Raises:
        ValueError: if the dataset has no repeats or no neurons, or ``max_neurons`` is not positive.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 4)], repeats=2, search="quick", progress_bar=False)
        >>> figure = ml.plot_repeats(meis)
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['MEI', 'repeat 1', 'repeat 2']
    """
    if "repeat_stimulus" not in meis:
        raise InvalidValueError("There is nothing to compare these MEIs with: find them with repeats=3.")
    shown = first_neurons(meis, max_neurons)
    neurons, stimuli = shown.sizes["neuron"], 1 + shown.sizes["repeat"]
    facts = dataset_stimulus_format(meis)
    tile = map_size(facts)[0]
    width = _LEFT + stimuli * tile + _BETWEEN * (stimuli - 1) + _RIGHT
    height = _TOP + neurons * (row_height(facts) + _ROWS_APART) + _BOTTOM
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(width, height))
        grid = figure.add_gridspec(
            neurons,
            stimuli,
            left=_LEFT / width,
            right=1 - _RIGHT / width,
            top=1 - _TOP / height,
            bottom=_BOTTOM / height,
            wspace=_BETWEEN / tile,
            hspace=_ROWS_APART / row_height(facts),
        )
        for number in range(neurons):
            cells = [grid[number, column] for column in range(stimuli)]
            _draw_neuron(figure, cells, shown.isel(neuron=number), facts, first=number == 0, last=number == neurons - 1)
    return figure


def _draw_neuron(
    figure: Figure, cells: list[SubplotSpec], row: xr.Dataset, facts: StimulusFormat, *, first: bool, last: bool
) -> None:
    axes = [stimulus_axes(figure, cell, map_size(facts)[1], facts.is_still) for cell in cells]
    draw_beside(axes, row, "repeat", facts)
    for column, (ax, _) in enumerate(axes[1:]):
        _write_numbers(ax, row.isel(repeat=column))
    if first:
        titles = ["MEI", *(f"repeat {repeat}" for repeat in row["repeat"].values.tolist())]
        name_columns([ax for ax, _ in axes], titles, facts)
    if last:
        label_time(axes)


def _write_numbers(ax: Axes, repeat: xr.Dataset) -> None:
    own, score, aligned = (repeat[name].item() for name in ("score", "repeat_score", "aligned_similarity"))
    if not np.isfinite(score) or not own > 0:
        return
    alike = f"alike {aligned:.2f}" if repeat["optimum"].item() == 0 else "another optimum"
    ax.annotate(
        f"{score / own:.3f}, {alike}",
        (0.5, 0),
        (0, -2),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=6,
        annotation_clip=False,
    )
