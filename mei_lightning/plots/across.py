"""Neurons among each other: responses to each other's MEIs, and a neuron's responses over contrasts."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mei_lightning.analysis.cross_responses import relative_responses
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.plots.style import (
    DIVERGING_MAP,
    SEQUENTIAL_MAP,
    WIDTH,
    drawing,
    neuron_types,
    readable,
    type_looks,
)

_MISSING = "0.75"
_ARROWS = 11
"""Arrows along each axis of a chromatic landscape, at most."""


def plot_cross_responses(responses: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Draw every neuron's response to every MEI, sorted by type.

    The scale is that of ``relative_responses``: 0 is the response to grey, 1 that to the neuron's own MEI; blue is
    suppression. What is missing is grey.

    Args:
        responses: from ``cross_responses``, with ``type (neuron)`` if the types are known.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if neurons and MEIs are not the same.

    Example:
        >>> cells = [("session_1", 2), ("session_1", 0)]
        >>> meis = ml.find_meis("simulated", cells, max_steps=4, progress_bar=False)
        >>> ax = ml.plot_cross_responses(ml.cross_responses("simulated", meis, progress_bar=False))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['off sustained', 'on sustained']
    """
    responses = responses.transpose("neuron", "mei")
    if responses["neuron"].values.tolist() != responses["mei"].values.tolist():
        raise InvalidValueError(
            f"Cross-responses are of the same neurons and MEIs in the same order, but there are "
            f"{responses.sizes['neuron']} neurons and {responses.sizes['mei']} MEIs that are not theirs."
        )
    types = neuron_types(responses)
    order = np.argsort(types, kind="stable")
    relative = relative_responses(responses).values[order][:, order]
    names = list(type_looks(types))
    edges = np.searchsorted(types[order], names)
    with drawing(ax, WIDTH * 0.75, WIDTH * 0.66) as ax:
        image = ax.imshow(
            np.ma.masked_invalid(relative), cmap=DIVERGING_MAP, vmin=-1, vmax=1, interpolation="nearest", aspect="auto"
        )
        ax.set_facecolor(_MISSING)
        below, above = bool(np.nanmin(relative, initial=0) < -1), bool(np.nanmax(relative, initial=0) > 1 + 1e-6)
        extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02, extend=extend[below, above])
        bar.set_label("response above grey (share of that to own MEI)")
        bar.outline.set_linewidth(0.5)
        if len(names) > 1:
            for edge in edges[1:]:
                ax.axhline(edge - 0.5, color="0.6", linewidth=0.5)
                ax.axvline(edge - 0.5, color="0.6", linewidth=0.5)
            middles = (edges + np.append(edges[1:], len(order)) - 1) / 2
            ax.set_yticks(middles, [readable(name) for name in names])
            ax.set_xticks(middles, [readable(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
        ax.tick_params(length=0 if len(names) > 1 else 2)
        ax.set_xlabel("MEI of")
        ax.set_ylabel("neuron")
    return ax


def plot_chromatic_landscape(landscape: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw a neuron's response over the contrasts of its MEI in two channels, with its gradient as arrows.

    Arrows point where the response rises fastest; the longest is the steepest. The cross is the MEI. Contrasts beyond
    the limits of norm and range are grey.

    Args:
        landscape: from ``chromatic_landscape``.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 7)], max_steps=4, progress_bar=False)
        >>> landscape = ml.chromatic_landscape("simulated", meis, "session_1/7")
        >>> ax = ml.plot_chromatic_landscape(landscape)
        >>> ax.get_title(), ax.get_xlabel()
        ('session_1/7', "contrast of the MEI's green")
    """
    first, second = (str(name) for name in landscape["channel"].values)
    axes = (f"{first}_contrast", f"{second}_contrast")
    x, y = (landscape[axis].values for axis in axes)
    response = landscape["response"].transpose(*axes).values
    gradient = landscape["gradient"].transpose("channel", *axes).values
    with drawing(ax, WIDTH * 0.52, WIDTH * 0.46) as ax:
        ax.set_facecolor(_MISSING)
        image = ax.pcolormesh(
            x, y, np.ma.masked_invalid(response.T), cmap=SEQUENTIAL_MAP, shading="nearest", rasterized=True
        )
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.03)
        bar.set_label("response")
        bar.outline.set_linewidth(0.5)
        ax.axhline(0, color="white", linewidth=0.6)
        ax.axvline(0, color="white", linewidth=0.6)
        steps = tuple(slice(None, None, max(1, round(len(contrasts) / _ARROWS))) for contrasts in (x, y))
        at_x, at_y = np.meshgrid(x[steps[0]], y[steps[1]], indexing="ij")
        along_x, along_y = gradient[:, steps[0], steps[1]]
        steepest = np.nanmax(np.hypot(along_x, along_y), initial=0.0)
        spacing = max(np.ptp(x), np.ptp(y)) / _ARROWS
        if steepest > 0 and spacing > 0:
            ax.quiver(
                at_x,
                at_y,
                along_x,
                along_y,
                angles="xy",
                scale_units="xy",
                scale=steepest / spacing,
                color="white",
                edgecolor="black",
                linewidth=0.3,
                width=0.007,
                minlength=0,
                pivot="middle",
            )
        ax.plot(
            *landscape["mei_contrast"].values,
            marker="P",
            markersize=8,
            color="#D55E00",
            markeredgecolor="white",
            zorder=4,
        )
        reach = 1.1 * max(np.abs(x).max(), np.abs(y).max(), np.abs(landscape["mei_contrast"].values).max())
        ax.set_xlim(-reach, reach)
        ax.set_ylim(-reach, reach)
        ax.set_box_aspect(1)
        ax.set_xlabel(f"contrast of the MEI's {first}")
        ax.set_ylabel(f"contrast of the MEI's {second}")
        ax.set_title(str(landscape.attrs.get("neuron", "")))
    return ax
