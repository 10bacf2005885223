"""Sections of the page that compare MEIs with others: those of an ensemble's members, or of repeats."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mei_lightning.analysis.members import OF_NEURONS as OF_MEMBERS
from mei_lightning.analysis.members import members_of_neurons, members_table
from mei_lightning.analysis.repeats import OF_NEURONS as OF_REPEATS
from mei_lightning.analysis.repeats import repeats_of_neurons, repeats_table
from mei_lightning.plots.members import plot_members
from mei_lightning.plots.repeats import plot_repeats
from mei_lightning.report.parts import Picture, Table, in_four_digits, picture
from mei_lightning.results.comparison import Comparison
from mei_lightning.results.members import MEMBERS
from mei_lightning.results.repeats import REPEATS
from mei_lightning.wording import how_many

_NEURONS = 6

OF_NEURONS = {**OF_MEMBERS, **OF_REPEATS}
"""What a comparison says of each neuron."""


@dataclass(frozen=True)
class ComparisonSection:
    """What is in a section; there is no figure if no neuron has all MEIs."""

    name: str
    text: str
    table: Table
    figure: Picture | None


@dataclass(frozen=True)
class _Kind:
    """A kind of comparison, and what the page says of it.

    Args:
        comparison: of which it is.
        text: what stands above the table; ``{}`` stands for the number of members or repeats.
        table: a row for each member or repeat.
        columns: of the table, and what the page calls them.
        of_neurons: what the comparison says of each neuron.
        order: by which of these the neurons of the figure are chosen.
        plot: draws some neurons.
        alternative: what the figure is, in short.
        caption: what it shows; ``{}`` stands for which neurons.
    """

    comparison: Comparison
    text: str
    table: Callable[[xr.Dataset], pd.DataFrame]
    columns: dict[str, str]
    of_neurons: Callable[[xr.Dataset], dict[str, xr.DataArray]]
    order: str
    plot: Callable[[xr.Dataset], Figure]
    alternative: str
    caption: str


_KINDS = (
    _Kind(
        MEMBERS,
        "The MEIs are of an ensemble of {} models; those of each member were found with the same settings. "
        "Similarity is the largest cosine with a shift in time. Scores are shares of that of the model's own MEI: 1 "
        "is an MEI as good as its own. Numbers are medians over neurons.",
        members_table,
        {
            "neurons": "neurons",
            "similarity": "similarity to the ensemble's MEI",
            "on_it": "ensemble's MEI on it",
            "on_ensemble": "its MEI on the ensemble",
            "on_others": "its MEI on other members",
        },
        members_of_neurons,
        "similarity_to_members",
        lambda meis: plot_members(meis, max_neurons=_NEURONS),
        "MEIs of the ensemble and of its members, and how they compare",
        "The ensemble's MEI beside those of its members ({}). Agreement is how far the members have the same sign at a "
        "pixel, 1 if all do, and paler where their MEIs are weaker. E is the ensemble.",
    ),
    _Kind(
        REPEATS,
        "Each MEI was found again with the same settings, from other starts (number of repeats: {}). A repeat is as "
        "good if its score is within 1 % of that of the MEI. Two MEIs are of the same optimum if the stimulus "
        "midway between them is as good as they are, or if they are alike once one is moved in time. Aligned "
        "similarity is the cosine with that shift, or how far one MEI is a mixture of others of the same optimum, "
        "as for a neuron to which the phase of a grating does not matter. Similarities are medians over neurons, of "
        "repeats that are as good.",
        repeats_table,
        {
            "neurons": "neurons",
            "as_good": "share as good",
            "worse": "share worse",
            "better": "share better",
            "same_optimum": "share of the same optimum",
            "similarity": "similarity",
            "aligned_similarity": "aligned similarity",
        },
        repeats_of_neurons,
        "repeats_alike",
        lambda meis: plot_repeats(meis, max_neurons=_NEURONS),
        "MEIs and those of repeats",
        "The MEI beside those of repeats ({}): scores as shares of that of the MEI, and aligned similarity.",
    ),
)


def compared_of_neurons(compared: xr.Dataset) -> dict[str, xr.DataArray]:
    """What a comparison says of each neuron, in a number each: see ``OF_NEURONS``."""
    return _kind_of(compared).of_neurons(compared)


def comparison_section(meis: xr.Dataset, compared: xr.Dataset) -> ComparisonSection:
    """The section of a comparison, with a table of members or repeats and a figure of some neurons.

    Args:
        meis: as of the page.
        compared: the same with how they compare.
    """
    kind = _kind_of(compared)
    table = kind.table(compared)
    rows = [
        (str(label), str(int(row["neurons"])), *(in_four_digits(row[name]) for name in list(kind.columns)[1:]))
        for label, row in table.iterrows()
    ]
    name = f"{kind.comparison.dimension.capitalize()}s"
    shown = Table(name, (kind.comparison.dimension, *kind.columns.values()), rows)
    return ComparisonSection(name, kind.text.format(len(table)), shown, _figure(meis, compared, kind))


def _kind_of(compared: xr.Dataset) -> _Kind:
    return next(kind for kind in _KINDS if kind.comparison.stimulus in compared)


def _figure(meis: xr.Dataset, compared: xr.Dataset, kind: _Kind) -> Picture | None:
    """Neurons from that whose MEIs are least alike to that whose are most."""
    shown = _spread(meis[kind.order].values)
    if not len(shown):
        return None
    figure = kind.plot(compared.isel(neuron=shown))
    which = ", from the least to the most similar MEIs" if len(shown) > 1 else ""
    about = how_many(len(shown), meis.sizes["neuron"]) + which
    return picture(figure, kind.alternative, kind.caption.format(about))


def _spread(values: NDArray[np.floating]) -> NDArray[np.intp]:
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    return order[np.unique(np.linspace(0, len(order) - 1, min(len(order), _NEURONS)).round().astype(int))]
