"""openretina's figures of local spike-triggered averages in the plane of two components."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.interpolate import griddata
from scipy.spatial import QhullError
from scipy.stats import binned_statistic_dd

from mei_lightning.exceptions import InvalidValueError

Array = NDArray[Any]

_SHADED_SIDE = 100


def plot_components(first: Array, second: Array, explained: Array, shape: tuple[int, ...]) -> None:
    """Two components ``[height * width]`` as images beside each other, in a new figure."""
    largest = max(np.abs(first).max(), np.abs(second).max())
    _, axes = plt.subplots(1, 2, figsize=(10, 5))
    for number, (ax, component) in enumerate(zip(axes, (first, second), strict=True)):
        ax.imshow(component.reshape(shape), cmap="bwr", vmin=-largest, vmax=largest)
        ax.set_title(f"PC{number + 1} ({explained[number]:.1%} of the variance)")
        ax.set_axis_off()


def plot_points(coordinates: Array) -> None:
    """Points ``[points, 2]`` in a new figure."""
    _, ax = plt.subplots()
    ax.scatter(*coordinates.T)


def plot_pc_insets(
    fig: Figure, PC1: Array, PC2: Array, x_size: int, y_size: int, explained_variance: Array | None = None
) -> None:
    """Two components as small images at the ends of a figure's axes.

    Args:
        fig: the figure.
        PC1: the first component, ``[x_size * y_size]``.
        PC2: the second.
        x_size: height of the images.
        y_size: width of the images.
        explained_variance: the shares of variance that they explain, for their titles.
    """
    largest = max(np.abs(PC1).max(), np.abs(PC2).max())
    places = ((0.825, 0.425, 0.15, 0.15), (0.425, 0.825, 0.15, 0.15))
    for number, (place, component) in enumerate(zip(places, (PC1, PC2), strict=True)):
        ax = fig.add_axes(place, zorder=1)
        ax.imshow(component.reshape(x_size, y_size), cmap="bwr", vmin=-largest, vmax=largest)
        ax.set_axis_off()
        share = "" if explained_variance is None else f" ({explained_variance[number]:.1%})"
        ax.set_title(f"PC{number + 1}{share}", size=20)


def plot_untreated_vectorfield(
    lsta_library: Array, channel: int, PC1: Array, PC2: Array, images_coordinate: Array
) -> Figure:
    """An arrow for each local spike-triggered average, from where its image lies in the plane of two components.

    Args:
        lsta_library: ``[images, channels, height, width]``.
        channel: the channel to look at.
        PC1: the first component, ``[height * width]``.
        PC2: the second.
        images_coordinate: ``[images, 2]``, as ``get_images_coordinate`` returns them.
    """
    averages = lsta_library[:, channel]
    tails, arrows = images_coordinate[: len(averages)], _in_plane(averages, PC1, PC2)
    fig, ax = plt.subplots(figsize=(20, 15))
    ax.quiver(*tails.T, *arrows.T, width=0.002, scale_units="xy", angles="xy", scale=_scale(arrows), alpha=0.5)
    limit = 1.1 * np.abs(images_coordinate).max()
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    ax.set_axis_off()
    plot_pc_insets(fig, PC1, PC2, averages.shape[1], averages.shape[2])
    return fig


def plot_clean_vectorfield(
    lsta_library: Array,
    channel: int,
    PC1: Array,
    PC2: Array,
    images: Array,
    images_coordinate: Array,
    explained_variance: Array,
    x_bins: int = 31,
    y_bins: int = 31,
    responses: Array | None = None,
) -> Figure:
    """The mean arrow of ``plot_untreated_vectorfield`` in each bin of the plane of two components.

    Args:
        lsta_library: ``[images, channels, height, width]``.
        channel: the channel to look at.
        PC1: the first component, ``[height * width]``.
        PC2: the second.
        images: ``[images, height, width]``.
        images_coordinate: ``[images, 2]``.
        explained_variance: the shares of variance that the components explain.
        x_bins: bins along the first component.
        y_bins: bins along the second.
        responses: a response to each image, ``[images]``, shown as the colour of the plane.

    Raises:
        ValueError: if there are not as many images, places (and responses) as averages.
    """
    averages = lsta_library[:, channel]
    counts = {len(part) for part in (averages, images, images_coordinate, *(() if responses is None else (responses,)))}
    if len(counts) > 1 or 0 in counts:
        raise InvalidValueError(
            f"There are {len(averages)} averages, {len(images)} images, {len(images_coordinate)} places"
            f"{'' if responses is None else f' and {len(responses)} responses'}: give one of each for every image."
        )
    values = np.concatenate([_in_plane(np.asarray(images), PC1, PC2), _in_plane(averages, PC1, PC2)], axis=1)
    if responses is not None:
        values = np.concatenate([values, np.asarray(responses)[:, None]], axis=1)
    binned = binned_statistic_dd(images_coordinate, values.T, "mean", bins=[x_bins, y_bins]).statistic
    means = binned.reshape(len(binned), -1).T
    means = means[~np.isnan(means[:, 0])]
    tails, arrows = means[:, :2], means[:, 2:4]
    limit = 1.1 * max(np.abs(tails).max(), np.abs(images_coordinate).max())
    fig, ax = plt.subplots(figsize=(20, 20))
    if responses is not None:
        _shade(ax, tails, means[:, 4], limit)
    ax.quiver(
        *tails.T, *arrows.T, color="black", width=0.002, scale_units="xy", angles="xy", scale=_scale(arrows), zorder=2
    )
    for end in ((limit, 0), (0, limit)):
        start = (-0.75 * end[0], -0.75 * end[1])
        ax.annotate("", xy=(0.75 * end[0], 0.75 * end[1]), xytext=start, arrowprops={"arrowstyle": "->"})
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    plot_pc_insets(fig, PC1, PC2, averages.shape[1], averages.shape[2], explained_variance)
    return fig


def _in_plane(images: Array, first: Array, second: Array) -> Array:
    return images.reshape(len(images), -1) @ np.stack([first, second], axis=1)


def _scale(arrows: Array) -> float:
    """So that the largest coordinate of an arrow is as long as 1."""
    return float(arrows.max()) if arrows.max() > 0 else 1.0


def _shade(ax: Any, places: Array, responses: Array, limit: float) -> None:
    """Colour the plane by responses, between the places where there are some."""
    along = np.linspace(-limit, limit, _SHADED_SIDE)
    try:
        shaded = griddata(places, responses, tuple(np.meshgrid(along, along)), method="linear")
    except QhullError:
        # Too few places, or all on a line: there is nothing between them.
        return
    density = ax.pcolormesh(along, along, shaded, cmap="viridis", alpha=0.4, shading="gouraud", zorder=0)
    ax.figure.colorbar(density, ax=ax).set_label("Response magnitude", size=14)
