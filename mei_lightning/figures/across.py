"""Neurons among each other: responses to each other's MEIs, and a neuron's responses over contrasts."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mei_lightning.figures.style import SEQUENTIAL_MAP, WIDTH, drawing, neuron_types, readable, type_looks


def plot_cross_responses(responses: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Draw every neuron's response to every MEI, as a share of its response to its own MEI, sorted by type.

    Args:
        responses: ``[neuron, mei]`` with labels, as ``cross_responses`` returns them, with ``type (neuron)`` if the
            types are known. Every neuron's own MEI is among them.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if neurons and MEIs are not the same.
    """
    responses = responses.transpose("neuron", "mei")
    neurons, stimuli = responses["neuron"].values.astype(str), responses["mei"].values.astype(str)
    if sorted(neurons) != sorted(stimuli):
        raise ValueError(
            f"Sorting by type needs the MEIs of the same neurons, but there are {len(neurons)} neurons and "
            f"{len(stimuli)} MEIs that are not all of them."
        )
    types = neuron_types(responses)
    order = np.argsort(types, kind="stable")
    columns = {label: number for number, label in enumerate(stimuli)}
    matrix = responses.values[order][:, [columns[neurons[number]] for number in order]].astype(np.float64)
    own = np.diag(matrix).copy()
    own[~(own > 0)] = np.nan
    share = matrix / own[:, None]
    names = list(type_looks(types))
    edges = np.searchsorted(types[order], names)
    with drawing(ax, WIDTH * 0.75, WIDTH * 0.66) as ax:
        image = ax.imshow(
            np.ma.masked_invalid(share), cmap=SEQUENTIAL_MAP, vmin=0, vmax=1, interpolation="nearest", aspect="auto"
        )
        ax.set_facecolor("0.85")
        above = bool(np.nanmax(share, initial=0) > 1 + 1e-6)
        bar = ax.figure.colorbar(image, ax=ax, fraction=0.045, pad=0.02, extend="max" if above else "neither")
        bar.set_label("response (share of that to own MEI)")
        bar.outline.set_linewidth(0.5)
        if len(names) > 1:
            for edge in edges[1:]:
                ax.axhline(edge - 0.5, color="white", linewidth=0.6)
                ax.axvline(edge - 0.5, color="white", linewidth=0.6)
            middles = (edges + np.append(edges[1:], len(order)) - 1) / 2
            ax.set_yticks(middles, [readable(name) for name in names])
            ax.set_xticks(middles, [readable(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
        ax.tick_params(length=0 if len(names) > 1 else 2)
        ax.set_xlabel("MEI of")
        ax.set_ylabel("neuron")
    return ax
