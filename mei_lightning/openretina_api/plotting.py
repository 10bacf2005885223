"""openretina's figures, on pyplot as there, so that notebooks show them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from numpy.typing import NDArray

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.paths import local_path
from mei_lightning.plots import style
from mei_lightning.plots.stimuli import plot_stimulus_composition as plot_stimulus_composition

Array = NDArray[Any]


def save_figure(filename: str, folder: str, fig: Figure | None = None) -> None:
    """Write a figure to a folder, today's date before its name, and close it.

    Args:
        filename: with the ending of a format, e.g. ``"mei.pdf"``; text in PDF and SVG stays text.
        folder: made if there is none.
        fig: pyplot's current figure by default.

    Raises:
        ValueError: if the arguments are those of ``mei_lightning.save_figure(figure, path)``.
    """
    if isinstance(filename, Figure):
        raise InvalidValueError(
            "openretina's save_figure takes (filename, folder, fig); mei_lightning.save_figure takes (figure, path)."
        )
    figure = plt.gcf() if fig is None else fig
    place = local_path("folder", folder)
    place.mkdir(parents=True, exist_ok=True)
    style.save_figure(figure, place / f"{datetime.now():%Y-%m-%d}_{filename}")
    plt.close(figure)


def legend_without_duplicate_labels(ax: Axes | None = None) -> None:
    """A legend with one entry for each label, the first of it.

    Args:
        ax: pyplot's current axes by default.
    """
    ax = plt.gca() if ax is None else ax
    entries: dict[str, Any] = {}
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    ax.legend(list(entries.values()), list(entries))


def polar_plot_of_direction_of_motion_responses(
    direction_in_degree: Sequence[float], peak_response_per_directions: Sequence[float]
) -> None:
    """Responses to directions of motion around a circle, 0 degrees at the top, clockwise, in a new figure.

    Args:
        direction_in_degree: the directions.
        peak_response_per_directions: a response for each.

    Raises:
        ValueError: if there is not one response for each direction.
    """
    directions, responses = np.asarray(direction_in_degree), np.asarray(peak_response_per_directions)
    if directions.ndim != 1 or directions.shape != responses.shape or not len(directions):
        raise InvalidValueError(f"{len(directions)} directions need as many responses, not {len(responses)}.")
    order = np.argsort(directions, kind="stable")
    closed = np.append(order, order[0])
    axes = plt.figure(figsize=(6, 6)).add_subplot(projection="polar")
    assert isinstance(axes, PolarAxes)
    axes.plot(np.deg2rad(directions[closed]), responses[closed], marker="o")
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_xticks(np.deg2rad(directions[order]), [f"{direction:g}°" for direction in directions[order]])


class ColorMapper:
    """Numbers as colours of a map.

    Args:
        cmap_name: the name of a map of matplotlib.
        vmin: the number of its first colour.
        vmax: the number of its last.
    """

    def __init__(self, cmap_name: str, vmin: float = 0, vmax: float = 1) -> None:
        self.cmap_name = cmap_name
        self.vmin = vmin
        self.vmax = vmax
        self.cmap = mpl.colormaps[cmap_name]
        self.norm = mpl.colors.Normalize(vmin, vmax)

    def get_color(self, number: float) -> tuple[float, float, float, float]:
        """Red, green, blue and opacity of a number."""
        return self.cmap(self.norm(number))


def plot_vector_field_resp_iso(
    x: Array,
    y: Array,
    gradient_dict: Array,
    resp_dict: Array,
    normalize_response: bool = False,
    rc_dict: Any = None,
    cmap_lines: str = "hot_r",
    cmap_fill: str = "Greys",
    n_lines: int = 10,
) -> Figure:
    """Responses over the contrasts of two channels as levels, and the directions of their gradients as arrows.

    Args:
        x: contrasts of the first channel (green), ``[n]``.
        y: contrasts of the second (UV), ``[m]``.
        gradient_dict: gradients ``[2, n, m]``, as ``get_gradient_grid`` returns them.
        resp_dict: responses ``[n, m]``.
        normalize_response: as percent of the largest.
        rc_dict: matplotlib's settings by name.
        cmap_lines: colours of the lines of equal response.
        cmap_fill: colours of the areas between them.
        n_lines: how many lines.

    Raises:
        ValueError: if the sizes do not go together.
    """
    shape = (len(x), len(y))
    if np.shape(resp_dict) != shape or np.shape(gradient_dict) != (2, *shape):
        raise InvalidValueError(
            f"{len(x)} and {len(y)} contrasts need responses {shape} and gradients {(2, *shape)}, not "
            f"{np.shape(resp_dict)} and {np.shape(gradient_dict)}."
        )
    responses = np.asarray(resp_dict).T
    if normalize_response:
        responses = responses / responses.max() * 100
    levels = np.linspace(responses.min(), responses.max(), n_lines)
    inside = np.asarray(gradient_dict)[:, 1:-1, 1:-1]
    lengths = np.linalg.norm(inside, axis=0)
    directions = inside / np.where(lengths > 0, lengths, 1.0)
    with mpl.rc_context(rc_dict):
        figure = plt.figure()
        axes = figure.add_subplot()
        # A response that is the same everywhere has no levels.
        if levels[-1] > levels[0]:
            axes.contourf(x, y, responses, levels=levels, cmap=cmap_fill)
            lines = axes.contour(x, y, responses, levels=levels, cmap=cmap_lines)
            axes.clabel(lines, inline=True, fmt="%1.0f", colors="r", fontsize=5)
        axes.quiver(
            x[1:-1], y[1:-1], directions[0].T, directions[1].T, color="grey", angles="xy", scale_units="xy", scale=10
        )
        axes.set(aspect="equal", xlabel="Green contrast", ylabel="UV contrast")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        style.tidy(axes)
    return figure
