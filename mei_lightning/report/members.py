"""The section of the page about an ensemble's members: would another model have the same MEIs?"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mei_lightning.analysis.members import members_table
from mei_lightning.plots.members import plot_members
from mei_lightning.report.parts import Picture, Table, in_four_digits, picture
from mei_lightning.results.members import with_members
from mei_lightning.wording import how_many

_NEURONS = 6
_COLUMNS = {
    "neurons": "neurons",
    "similarity": "similarity to the ensemble's MEI",
    "on_it": "ensemble's MEI on it",
    "on_ensemble": "its MEI on the ensemble",
    "on_others": "its MEI on other members",
}
"""Those of ``members_table``, and what the page calls them."""


@dataclass(frozen=True)
class MembersSection:
    """What is in the section; there is no figure if no neuron has all MEIs."""

    text: str
    table: Table
    figure: Picture | None


def members_section(meis: xr.Dataset, compared: xr.Dataset) -> MembersSection:
    """The section, with a table of the members and a figure of some neurons.

    Args:
        meis: of the ensemble, as of the page.
        compared: how they compare with those of the members.
    """
    table = members_table(compared)
    rows = [
        (str(label), str(int(row["neurons"])), *(in_four_digits(row[name]) for name in list(_COLUMNS)[1:]))
        for label, row in table.iterrows()
    ]
    return MembersSection(
        f"The MEIs are of an ensemble of {len(table)} models; those of each member were found with the same settings. "
        "Similarity is the largest cosine with a shift in time. Scores are shares of that of the model's own MEI: 1 is "
        "an MEI as good as its own. Numbers are medians over neurons.",
        Table("Members", ("member", *_COLUMNS.values()), rows),
        _figure(meis, compared),
    )


def _figure(meis: xr.Dataset, compared: xr.Dataset) -> Picture | None:
    """Neurons from that whose members' MEIs are least like the ensemble's to that whose are most."""
    similarity = meis["similarity_to_members"].values
    known = np.flatnonzero(np.isfinite(similarity))
    if not len(known):
        return None
    order = known[np.argsort(similarity[known], kind="stable")]
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), _NEURONS)).round().astype(int))]
    figure = plot_members(with_members(meis.isel(neuron=shown), compared.isel(neuron=shown)), max_neurons=_NEURONS)
    which = ", from the least to the most similar MEIs" if len(shown) > 1 else ""
    return picture(
        figure,
        "MEIs of the ensemble and of its members, and how they compare",
        f"The ensemble's MEI beside those of its members ({how_many(len(shown), meis.sizes['neuron'])}{which}). "
        "Agreement is how far the members have the same sign at a pixel, 1 if all do, and paler where their MEIs are "
        "weaker. E is the ensemble.",
    )
