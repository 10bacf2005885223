"""MEIs of several stores and how they compare: a store for each, and the comparison beside the first."""

import hashlib
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mei_lightning.exceptions import NothingThereError
from mei_lightning.paths import local_path
from mei_lightning.results.dataset import open_meis
from mei_lightning.results.freshness import meis_digest
from mei_lightning.results.place import STORE
from mei_lightning.results.replacing import put_in_place

Compared = Callable[[xr.Dataset, Mapping[int, xr.Dataset | None]], Iterable[xr.Dataset]]
"""From MEIs, and those of each other store by its number (None where they have not been begun), to parts along
``neuron`` of how they compare."""


@dataclass(frozen=True)
class Comparison:
    """A kind of comparison of the MEIs of a store with those of others.

    Args:
        dimension: that counts the other stores, "member" or "repeat".
        option: what makes ``find_meis`` find and compare them, e.g. "repeats=3 (on the command line --repeats 3)".
    """

    dimension: str
    option: str

    @property
    def name(self) -> str:
        """The comparison, in the directory of the first store."""
        return f"{self.dimension}s.zarr"

    @property
    def stimulus(self) -> str:
        """The variable with the stimuli of the other stores."""
        return f"{self.dimension}_stimulus"

    def part(self, number: int) -> str:
        """What the directory with another store is called."""
        return f"{self.dimension}_{number}"

    def open(self, directory: str | Path) -> xr.Dataset:
        """The MEIs of the first store with how they compare; values are read as they are used.

        Raises:
            FileNotFoundError: if there is no comparison, or only one that is older than the MEIs.
        """
        place = local_path("directory", directory)
        if not (place / self.name).exists():
            raise NothingThereError(f"There is no comparison of {self.dimension}s in {place}. {self._how_to_make_it}")
        if (compared := self.current(place)) is None:
            raise NothingThereError(f"{place / self.name} is older than the MEIs, or of others. {self._how_to_make_it}")
        return together(open_meis(place / STORE), compared)

    def current(self, place: Path) -> xr.Dataset | None:
        """What a directory has, without the first store's MEIs; None if it is not of the MEIs as they are now."""
        if not (place / self.name).exists() or not (place / STORE).exists():
            return None
        compared = open_meis(place / self.name)
        stores = [place / STORE, *self._stores(place, compared[self.dimension].values.tolist())]
        digest = self._digest(open_meis(store) if store.exists() else None for store in stores)
        return compared if compared.attrs.items() >= digest.items() else None

    def beside(self, store: Path) -> xr.Dataset | None:
        """How the MEIs of a store compare, if that is known of the MEIs as they are now.

        Warns of a comparison that is older than the MEIs, or of others, and leaves it out.
        """
        if store.name != STORE or not (store.parent / self.name).exists():
            return None
        compared = self.current(store.parent)
        if compared is None:
            path = store.parent / self.name
            warnings.warn(
                f"{path} is older than these MEIs, or of others, and is left out. {self._how_to_make_it}", stacklevel=3
            )
        return compared

    def make(self, place: Path, numbers: Sequence[int], compare: Compared) -> xr.Dataset:
        """Compare the MEIs in a directory, and keep what is found beside them.

        The first of several processes does that, and the others wait. What has been compared already is only read.

        Args:
            place: the directory with the first store, and one for each other.
            numbers: of the other stores.
            compare: compares them.

        Returns:
            The dataset of ``open``.
        """
        if getattr(rank_zero_only, "rank", 0) == 0 and not self._has(place, numbers):
            meis = open_meis(place / STORE)
            stores = self._stores(place, numbers)
            others = [open_meis(store) if store.exists() else None for store in stores]
            # Before anything is compared: what another run writes from here on makes the comparison an older one.
            digest = self._digest([meis, *others])
            hidden = place / f".{self.name}.{uuid.uuid4().hex}.partial"
            try:
                for count, part in enumerate(compare(meis, dict(zip(numbers, others, strict=True)))):
                    self._append(part.assign_attrs(digest), hidden, first=count == 0)
                put_in_place(hidden, place / self.name)
            finally:
                shutil.rmtree(hidden, ignore_errors=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        return self.open(place)

    @property
    def _how_to_make_it(self) -> str:
        return f"The same call as before, with {self.option}, makes it."

    def _has(self, place: Path, numbers: Sequence[int]) -> bool:
        compared = self.current(place)
        return compared is not None and compared[self.dimension].values.tolist() == list(numbers)

    def _stores(self, place: Path, numbers: Sequence[int]) -> list[Path]:
        return [place / self.part(number) / STORE for number in numbers]

    def _digest(self, meis: Iterable[xr.Dataset | None]) -> dict[str, str]:
        """The attribute of a comparison that says of which state of which MEIs it is."""
        digests = "".join("none" if one is None else meis_digest(one) for one in meis)
        return {f"{self.dimension}s_digest": hashlib.sha256(digests.encode()).hexdigest()}

    def _append(self, part: xr.Dataset, path: Path, *, first: bool) -> None:
        """Write some neurons of a dataset after those that are there, stimuli in one chunk for each neuron."""
        if first:
            chunks = {self.stimulus: {"chunks": (1, *part[self.stimulus].shape[1:])}}
            part.to_zarr(path, mode="w-", zarr_format=2, encoding=chunks, consolidated=True)
        else:
            part.to_zarr(path, append_dim="neuron", zarr_format=2, consolidated=True)


def together(meis: xr.Dataset, compared: xr.Dataset) -> xr.Dataset:
    """MEIs with how they compare with others, of the same neurons, as one dataset."""
    return meis.assign_coords(compared.drop_vars(compared.data_vars).coords).assign(compared.data_vars)
