"""One style for all figures: fonts, colours that readers with any colour vision tell apart, and vector output."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mei_lightning.paths import local_path

# Okabe and Ito 2008; a darker purple for UV.
CHANNEL_COLORS = {
    "green": "#009E73",
    "uv": "#762A83",
    "red": "#D55E00",
    "blue": "#0072B2",
    "grey": "#333333",
    "gray": "#333333",
}
OTHER_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#333333")
TYPE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333", "#B8A800")
TYPE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
TYPE_HATCHES = ("", "/////", ".....", "xxxxx")
RESPONSE_COLOR = "#B8700A"
WINDOW_COLOR = "#000000"
DIVERGING_MAP = "RdBu_r"
SEQUENTIAL_MAP = "cividis"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "figure.dpi": 150,
    "figure.facecolor": "white",
    # A label is shown as it is, whatever characters it has.
    "text.parse_math": False,
}
_EDITABLE_TEXT: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "mei"}
WIDTH = 7.1
"""Width of a full page, 180 mm in inches."""
POINTS_AS_VECTORS = 1000
"""More points than this are drawn as pixels, so that a file stays small."""
NO_TYPE = "all neurons"
_LONGEST_NAME = 36


class NotebookFigure(Figure):
    """A figure that a notebook shows if it is a cell's last value.

    pyplot's figures are shown at the end of a cell, too, but stay open until they are closed. This one is none of them:
    it is shown once, whatever ``%matplotlib`` says, and gone with its last name.
    """

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


class NotebookAxes(Axes):
    """Axes that stand for their figure where they are a cell's last value."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        figure_of(self).savefig(buffer, format="png")
        return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format that the path ends in; text in PDF and SVG stays text that can be edited.

    Args:
        figure: the figure; of axes it is ``ax.figure``.
        path: the file to make, e.g. ``.pdf``, ``.svg``, or ``.png`` with 300 pixels to an inch. What is there already
            is replaced.

    Returns:
        ``path``.

    Raises:
        ValueError: if matplotlib does not know the format.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure(figsize=(2, 1))
        >>> title = figure.suptitle("ON sustained")
        >>> path = ml.save_figure(figure, "figure.svg")
        >>> "ON sustained" in path.read_text(encoding="utf-8")  # text, not curves
        True
    """
    path = local_path("path", path)
    with mpl.rc_context(_EDITABLE_TEXT):
        figure.savefig(path, dpi=300)
    return path


def figure_as_svg(figure: Figure) -> bytes:
    """A figure as the content of an SVG file with text that can be edited, without a date in it."""
    buffer = BytesIO()
    with mpl.rc_context(_EDITABLE_TEXT):
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    return buffer.getvalue()


def channel_colors(names: Iterable[str]) -> list[str]:
    """A colour for each channel, its own where it has one."""
    others = cycle(OTHER_COLORS)
    return [CHANNEL_COLORS.get(name.lower()) or next(others) for name in names]


def tidy(ax: Axes) -> None:
    """Leave out the frame's upper and right line."""
    ax.spines[["top", "right"]].set_visible(False)


@contextmanager
def drawing(ax: Axes | None, width: float = WIDTH / 2, height: float = WIDTH / 2) -> Iterator[Axes]:
    """The axes given, or those of a new figure of so many inches, to be drawn on in the package's style."""
    with mpl.rc_context(STYLE):
        if ax is not None:
            yield ax
            return
        figure = NotebookFigure(figsize=(width, height), layout="constrained")
        yield figure.add_subplot(axes_class=NotebookAxes)
        # The layout of axes of a fixed shape is right from the third drawing on.
        for _ in range(2):
            figure.draw_without_rendering()


def figure_of(ax: Axes) -> Figure:
    """The figure that axes are on."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def neuron_types(data: xr.Dataset | xr.DataArray) -> np.ndarray:
    """The type of each neuron of a dataset, from its ``type``; ``NO_TYPE`` for all if it has none."""
    if "type" not in data.coords and not (isinstance(data, xr.Dataset) and "type" in data):
        return np.full(data.sizes["neuron"], NO_TYPE)
    return np.array([str(name) or "unknown" for name in data["type"].values], dtype=str)


def type_looks(types: np.ndarray) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each type, in the order of their names, no two alike for up to 88 types."""
    names = sorted(set(types.tolist()))
    colors, markers = len(TYPE_COLORS), len(TYPE_MARKERS)
    return {name: (TYPE_COLORS[i % colors], TYPE_MARKERS[(i + i // colors) % markers]) for i, name in enumerate(names)}


def kind_looks(kinds: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a hatch for the area of each kind, no two alike for up to 32 kinds."""
    colors, hatches = len(TYPE_COLORS), len(TYPE_HATCHES)
    return {name: (TYPE_COLORS[i % colors], TYPE_HATCHES[i // colors % hatches]) for i, name in enumerate(kinds)}


def displayed_unit(unit: str) -> str:
    """A unit as it is written at an axis or after a value; empty for a plain number."""
    return {"1": "", "um": "µm"}.get(unit, unit)


def readable(name: str) -> str:
    """The name of a measure, a type or a status as words, shortened if it would leave no space for what it names."""
    words = name.replace("_", " ")
    return words if len(words) <= _LONGEST_NAME else f"{words[: _LONGEST_NAME - 1]}…"
