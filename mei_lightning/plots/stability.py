"""How sure MEIs are: what other random starts of the same neuron arrive at."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.plots.style import (
    POINTS_AS_VECTORS,
    WIDTH,
    drawing,
    neuron_types,
    readable,
    tidy,
    type_looks,
)

UNKNOWN_STABILITY = (
    "No neuron has two starts that were optimised to the end: what other starts arrive at is not known. "
    'search="thorough" follows several starts of each neuron to the end.'
)


def stability_is_known(meis: xr.Dataset) -> np.ndarray:
    """Of which neurons ``[neuron]`` at least two starts were optimised to the end, so that they can be compared.

    A start that was given up, even because it had met a better one, is only known as it was then.
    """
    scores = meis["restart_scores"].transpose("neuron", "restart").values
    return (np.isfinite(scores).sum(axis=1) >= 2) & np.isfinite(meis["restart_similarity"].values)


def plot_seed_stability(meis: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw for each neuron how alike the MEIs from its random starts are, and how alike their scores.

    A neuron at the upper right has one MEI, whatever the start; at the upper left several that are equally good; lower
    down, some starts end in a worse optimum. Starts that met a better one have no score of their own and count as alike
    as they were then. Neurons with fewer than two starts optimised to the end are left out.

    Args:
        meis: MEIs as ``find_meis`` returns them, with ``type (neuron)`` if the types are known.
        ax: where to draw; by default on a new figure (``ax.figure``).

    Returns:
        The axes.

    Raises:
        ValueError: if no neuron has two starts that can be compared.

    Example:
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], restarts=2, progress_bar=False)
        >>> ax = ml.plot_seed_stability(meis)
        >>> ax.collections[0].get_offsets().round(2).tolist()  # both starts arrive at the same MEI
        [[1.0, 1.0]]
    """
    scores = meis["restart_scores"].transpose("neuron", "restart").values.astype(np.float64)
    similarity = meis["restart_similarity"].values.astype(np.float64)
    best = meis["score"].values.astype(np.float64)
    shown = stability_is_known(meis) & (best > 0)
    if not shown.any():
        raise InvalidValueError(UNKNOWN_STABILITY)
    worst = np.nanmin(scores, axis=1, where=np.isfinite(scores), initial=np.inf) / np.where(best > 0, best, np.nan)
    types = neuron_types(meis)
    with drawing(ax, WIDTH * 0.62, WIDTH * 0.42) as ax:
        ax.axhline(1, color="0.7", linewidth=0.6, zorder=0)
        ax.axvline(1, color="0.7", linewidth=0.6, zorder=0)
        looks = type_looks(types)
        for name, (color, marker) in looks.items():
            of_type = shown & (types == name)
            ax.scatter(
                similarity[of_type],
                worst[of_type],
                s=18,
                color=color,
                marker=marker,
                alpha=0.8,
                linewidths=0,
                label=readable(name),
                rasterized=len(types) > POINTS_AS_VECTORS,
            )
        ax.set_xlabel("similarity of the starts' MEIs\n(mean cosine to the best)")
        ax.set_ylabel("lowest score of a start\n(share of the best)")
        ax.margins(0.06)
        if len(looks) > 1:
            ax.legend(
                loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, borderaxespad=0, ncols=1 + len(looks) // 20
            )
        tidy(ax)
    return ax
