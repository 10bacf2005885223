"""MEIs of an ensemble and of its members: a store for each, and their comparison beside that of the ensemble."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from mei_lightning.exceptions import NothingThereError
from mei_lightning.paths import local_path
from mei_lightning.results.dataset import open_meis
from mei_lightning.results.freshness import meis_digest
from mei_lightning.results.place import STORE

MEMBERS = "members.zarr"
"""The comparison, in the directory of the ensemble's store."""
ENSEMBLE = "ensemble"
"""The ensemble's label among those of models and MEIs."""
_PREFIX = "member_"
_HOW_TO = "The same call as before, with per_member=True (on the command line --per_member true), makes it."


def directory_of_member(member: int) -> str:
    """What the directory with the store of a member is called, by its position in the ensemble."""
    return f"{_PREFIX}{member}"


def label_of_member(member: int) -> str:
    """What a member is called among the labels of models and MEIs."""
    return f"member {member}"


def open_members(directory: str | Path) -> xr.Dataset:
    """The MEIs of an ensemble with those of its members, from ``find_meis(per_member=True, directory=...)``.

    Args:
        directory: that of the call. In it ``meis.zarr`` is the store of the ensemble, ``member_0/meis.zarr`` that of
            the first member, and ``members.zarr`` has how they compare.

    Returns:
        The dataset that the call returns; values are read as they are used.

    Raises:
        FileNotFoundError: if there is no such comparison, or only one that is older than the MEIs, as while a run goes
            on. The same call of ``find_meis`` makes it.

    Example:
        >>> pixels = ml.StimulusFormat(("grey",), height=1, width=2)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False)) for _ in range(2)]
        >>> for pixel, network in enumerate(networks):  # each member sees another pixel
        ...     network[1].weight.data = torch.eye(2)[pixel : pixel + 1]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, pixels) for network in networks])
        >>> options = {"norm": 1.0, "directory": "results", "progress_bar": False}
        >>> found = ml.find_meis(ensemble, [0], per_member=True, **options)
                 converged  median score  median steps
        ...
        >>> meis = ml.open_members("results")
        >>> meis.member_stimulus.sel(neuron="0").values.squeeze().round(2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    place = local_path("directory", directory)
    if not (place / MEMBERS).exists():
        raise NothingThereError(f"There is no comparison of members in {place}. {_HOW_TO}")
    if (compared := current_comparison(place)) is None:
        raise NothingThereError(f"{place / MEMBERS} is older than the MEIs, or of others. {_HOW_TO}")
    return with_members(open_meis(place / STORE), compared)


def current_comparison(place: Path) -> xr.Dataset | None:
    """The comparison in a directory, without the ensemble's MEIs; None if it is not of the MEIs as they are now."""
    if not (place / MEMBERS).exists() or not (place / STORE).exists():
        return None
    compared = open_meis(place / MEMBERS)
    of_members = [place / directory_of_member(member) / STORE for member in compared["member"].values.tolist()]
    digest = digest_of(open_meis(store) if store.exists() else None for store in (place / STORE, *of_members))
    return compared if compared.attrs.items() >= digest.items() else None


def members_beside(store: Path) -> xr.Dataset | None:
    """How the MEIs of a store compare with those of the members, if that is known of the MEIs as they are now.

    Warns of a comparison that is older than the MEIs, or of others, and leaves it out.
    """
    if store.name != STORE or not (store.parent / MEMBERS).exists():
        return None
    compared = current_comparison(store.parent)
    if compared is None:
        path = store.parent / MEMBERS
        warnings.warn(f"{path} is older than these MEIs, or of others, and is left out. {_HOW_TO}", stacklevel=2)
    return compared


def with_members(meis: xr.Dataset, compared: xr.Dataset) -> xr.Dataset:
    """The MEIs of an ensemble with how they compare with those of its members, of the same neurons, as one dataset."""
    return meis.assign_coords(compared.drop_vars(compared.data_vars).coords).assign(compared.data_vars)


def digest_of(meis: Iterable[xr.Dataset | None]) -> dict[str, str]:
    """The attribute of a comparison that says of which state of the ensemble's and the members' MEIs it is.

    Args:
        meis: of the ensemble, and of each member; None where they have not been begun.
    """
    digests = "".join("none" if one is None else meis_digest(one) for one in meis)
    return {"members_digest": hashlib.sha256(digests.encode()).hexdigest()}
