"""What the sections of the page are made of: tables, figures and numbers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mei_lightning.plots.style import figure_as_svg

_PIXELS_PER_INCH = 125  # of a figure on the page


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first value of each row is its heading."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A figure as base64 of an SVG, with its width on the page, what it is, and its caption."""

    svg: str
    width: int
    alt: str
    caption: str


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """A figure for the page."""
    width = round(figure.get_size_inches()[0] * _PIXELS_PER_INCH)
    return Picture(base64.b64encode(figure_as_svg(figure)).decode(), width, alt, caption)


def in_four_digits(value: float) -> str:
    """A number for a table; a dash if there is none."""
    return f"{value:.4g}" if np.isfinite(value) else "–"
