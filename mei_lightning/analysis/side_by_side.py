"""MEIs of the same neurons from several stores, a few neurons at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from mei_lightning.bars import new_bar
from mei_lightning.results.schema import INTERRUPTED, PENDING

STIMULUS = ("channel", "time", "y", "x")
_BYTES_AT_A_TIME = 2**26

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class SideBySide:
    """The MEIs of several stores.

    Args:
        stores: as from ``find_meis``, of the same neurons; None for one that has not been begun. There is always the
            first.
    """

    stores: Sequence[xr.Dataset | None]

    @property
    def first(self) -> xr.Dataset:
        """The first store."""
        assert self.stores[0] is not None
        return self.stores[0]

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Which MEIs ``[neuron, store]`` there are: finished, with a score."""
        return np.stack([_has_mei(one, self.first.sizes["neuron"]) for one in self.stores], axis=1)

    def stimuli(self, part: slice | NDArray[np.intp]) -> Array:
        """Stimuli ``[neuron, store, channel, time, y, x]`` of some neurons, NaN where there is no MEI."""
        read = [self.first if one is None else one for one in self.stores]
        stimuli = np.stack([one["stimulus"].transpose("neuron", *STIMULUS).isel(neuron=part).values for one in read], 1)
        stimuli[~self.known[part]] = np.nan
        return stimuli

    def read(self, neurons: Sequence[int], stores: Sequence[int]) -> torch.Tensor:
        """Stimuli ``[rows, channel, time, y, x]``: of each row's neuron from its store, where it is known."""
        found = [self.stores[store]["stimulus"][neuron] for neuron, store in zip(neurons, stores, strict=True)]  # type: ignore[index]
        return torch.from_numpy(np.stack([one.transpose(*STIMULUS).values for one in found]))

    def scores(self) -> Array:
        """The scores ``[neuron, store]``; NaN where there is no MEI."""
        count = self.first.sizes["neuron"]
        values = [np.full(count, np.nan) if one is None else one["score"].values for one in self.stores]
        return np.where(self.known, np.stack(values, axis=1), np.nan)

    def statuses(self) -> NDArray[np.str_]:
        """How the neurons of the stores ended, ``[neuron, store]``."""
        count = self.first.sizes["neuron"]
        values = [np.full(count, PENDING) if one is None else one["status"].values for one in self.stores]
        return np.stack(values, axis=1).astype(self.first["status"].dtype)

    def parts(self, progress_bar: bool) -> Iterator[slice]:
        """Some neurons after the other, as many as there is room for, with a progress bar if wanted."""
        count = self.first.sizes["neuron"]
        at_a_time = max(1, _BYTES_AT_A_TIME // (len(self.stores) * self.first["stimulus"].nbytes // count))
        with new_bar("Comparison", count, "neurons", disable=not progress_bar) as bar:
            for start in range(0, count, at_a_time):
                part = slice(start, min(start + at_a_time, count))
                yield part
                bar.update(part.stop - part.start)


def labelled(
    meis: xr.Dataset, variables: dict[str, tuple[tuple[str, ...], Any, str, str | None]], coordinates: dict[str, Any]
) -> xr.Dataset:
    """Variables of the neurons of some MEIs, each with dimensions, values, description, and units if it has any."""
    return xr.Dataset(
        {
            name: (dimensions, values, {"long_name": about} | ({} if unit is None else {"units": unit}))
            for name, (dimensions, values, about, unit) in variables.items()
        },
        {name: meis[name] for name in ("neuron", "session", "index", *STIMULUS)} | coordinates,
    )


def _has_mei(meis: xr.Dataset | None, count: int) -> NDArray[np.bool_]:
    if meis is None:
        return np.zeros(count, dtype=bool)
    return np.isfinite(meis["score"].values) & ~np.isin(meis["status"].values, (PENDING, INTERRUPTED))
