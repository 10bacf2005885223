"""MEIs of an ensemble beside those of its members."""

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from numpy.typing import NDArray

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import StimulusFormat
from mei_lightning.plots.drawing import draw_tiles
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
from mei_lightning.plots.style import DIVERGING_MAP, SEQUENTIAL_MAP, STYLE, NotebookFigure
from mei_lightning.results.members import ENSEMBLE

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.85, 0.15, 0.45, 0.45
"""Inches around the panels, at the left for the names of neurons."""
_BETWEEN = 0.18
_BEFORE_MATRIX = 0.35
_MATRIX = 1.3
_MOST_WITH_NUMBERS = 8
_MISSING = "0.75"
_AGREEMENT_MAP = f"{SEQUENTIAL_MAP}_r"
"""Darkest where members agree, so that agreement is told from weakness, which is pale."""


def plot_members(meis: xr.Dataset, figure: Figure | None = None, *, max_neurons: int = 6) -> Figure:
    """Draw the MEI of each neuron on an ensemble beside those on its members: a row for each neuron.

    Of each MEI there are the spatial parts of its channels, each scaled to its centre, and below them the temporal
    parts, divided by the norm. Then, for each pixel, how far the members agree in sign, paler where their MEIs are
    weaker; how alike the MEIs are (the largest cosine with a shift in time); and the score of each MEI on each model as
    a share of that of the model's own MEI. In both matrices E is the ensemble, a number the position of a member.

    Args:
        meis: from ``find_meis(per_member=True)`` or ``open_members``.
        figure: an empty figure to draw into; by default a new one, as large as the stimuli need.
        max_neurons: how many neurons to draw, the first ones of the dataset.

    Returns:
        The figure.

    Raises:
        ValueError: if the dataset has no members or no neurons, or ``max_neurons`` is not positive.

    Example:
        >>> pixels = ml.StimulusFormat(("grey",), height=1, width=2)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False)) for _ in range(2)]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, pixels) for network in networks])
        >>> meis = ml.find_meis(ensemble, [0], per_member=True, norm=1.0, progress_bar=False)
        >>> figure = ml.plot_members(meis)
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['ensemble', 'member 0', 'member 1', 'agreement', 'similarity', 'relative score']
    """
    if "member_stimulus" not in meis:
        raise InvalidValueError("The MEIs are of one model: find those of each member with per_member=True.")
    shown = first_neurons(meis, max_neurons)
    neurons, stimuli = shown.sizes["neuron"], 1 + shown.sizes["member"]
    facts = dataset_stimulus_format(meis)
    tile = map_size(facts)[0]
    of_row = max(row_height(facts), _MATRIX + 0.3)
    widths = [tile] * (stimuli + 1) + [_MATRIX + _BEFORE_MATRIX] * 2
    width = _LEFT + sum(widths) + _BETWEEN * (len(widths) - 1) + _RIGHT
    height = _TOP + neurons * of_row + _BOTTOM
    with mpl.rc_context(STYLE):
        if figure is None:
            figure = NotebookFigure(figsize=(width, height))
        grid = figure.add_gridspec(
            neurons,
            len(widths),
            left=_LEFT / width,
            right=1 - _RIGHT / width,
            top=1 - _TOP / height,
            bottom=_BOTTOM / height,
            width_ratios=widths,
            wspace=_BETWEEN / (sum(widths) / len(widths)),
            hspace=0.16 / of_row,
        )
        for number in range(neurons):
            cells = [grid[number, column] for column in range(len(widths))]
            _draw_neuron(figure, cells, shown.isel(neuron=number), facts, first=number == 0, last=number == neurons - 1)
    return figure


def _draw_neuron(
    figure: Figure, cells: list[SubplotSpec], row: xr.Dataset, facts: StimulusFormat, *, first: bool, last: bool
) -> None:
    _, map_height = map_size(facts)
    *of_stimuli, of_agreement = cells[:-2]
    axes = [stimulus_axes(figure, cell, map_height, facts.is_still) for cell in of_stimuli]
    stimuli = draw_beside(axes, row, "member", facts)
    agreement_ax, below = stimulus_axes(figure, of_agreement, map_height, facts.is_still)
    if below is not None:
        below.remove()
    _draw_agreement(agreement_ax, row["agreement"].transpose("channel", "y", "x").values, stimuli[1:], bar=first)
    labels = ["E" if label == ENSEMBLE else label.rpartition(" ")[2] for label in row["mei"].values.tolist()]
    matrices = [row["member_similarity"].transpose("mei", "other_mei"), row["relative_score"].transpose("model", "mei")]
    panels = [_draw_matrix(figure, cell, it.values, labels) for cell, it in zip(cells[-2:], matrices, strict=True)]
    for ax, name in zip(panels, ("MEI of", "on model"), strict=True):
        ax.set_ylabel(name, fontsize=6.5, labelpad=1)
    if first:
        name_columns([ax for ax, _ in axes] + [agreement_ax], [*row["mei"].values.tolist(), "agreement"], facts)
        for ax, title in zip(panels, ("similarity", "relative score"), strict=True):
            ax.set_title(title, fontweight="bold", pad=6)
    if last:
        label_time(axes)
        for ax in panels:
            ax.set_xlabel("MEI of", fontsize=6.5, labelpad=1)


def _draw_agreement(ax: Axes, agreement: NDArray[Any], stimuli: NDArray[Any], *, bar: bool) -> None:
    """Draw the agreement of each channel, as pale as the members' stimuli are weak."""
    there = np.isfinite(stimuli).all(axis=(1, 2, 3, 4))
    strength = np.sqrt(np.square(stimuli[there]).sum(axis=(0, 2)))
    strength /= strength.max(initial=0) or 1.0
    draw_tiles(ax, [[np.zeros_like(channel) for channel in agreement]], 1.0)
    colors = mpl.colormaps[_AGREEMENT_MAP](np.nan_to_num(agreement))[..., :3]
    alpha = np.where(np.isfinite(agreement), np.sqrt(strength), 0)[..., None]
    for image, values in zip(ax.images, 1 - alpha + alpha * colors, strict=True):
        image.set_data(values)
    if bar:
        bar_ax = ax.inset_axes((0.08, -0.16, 0.84, 0.07))
        scale = ax.figure.colorbar(
            ScalarMappable(Normalize(0, 1), _AGREEMENT_MAP), cax=bar_ax, orientation="horizontal", ticks=[0, 0.5, 1]
        )
        scale.outline.set_linewidth(0.5)  # type: ignore[operator]
        bar_ax.tick_params(length=2, labelsize=6, pad=1)


def _draw_matrix(figure: Figure, cell: SubplotSpec, values: NDArray[Any], labels: list[str]) -> Axes:
    space = cell.subgridspec(1, 2, width_ratios=[_BEFORE_MATRIX, _MATRIX], wspace=0)
    ax = figure.add_subplot(space[1])
    ax.imshow(np.ma.masked_invalid(values), cmap=DIVERGING_MAP, vmin=-1, vmax=1, interpolation="nearest")
    ax.set_facecolor(_MISSING)
    ax.set_anchor("N")
    ax.set_xticks(range(len(labels)), labels)
    ax.set_yticks(range(len(labels)), labels)
    ax.tick_params(length=0, labelsize=6, pad=2)
    ax.spines[:].set_linewidth(0.5)
    size = min(6.5, 72 * _MATRIX / len(labels) * 0.38)
    for (row, column), value in np.ndenumerate(values) if len(labels) <= _MOST_WITH_NUMBERS else ():
        text = f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "–"
        color = "white" if abs(value) > 0.65 else "black"
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    return ax
