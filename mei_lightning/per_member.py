"""What is to be found for each member of an ensemble, and how what was found is compared."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mei_lightning.analysis.members import compare_members
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives import Objective
from mei_lightning.perturbations import RandomMember
from mei_lightning.problem import MEIProblem
from mei_lightning.results.dataset import open_meis
from mei_lightning.results.members import (
    MEMBERS,
    current_comparison,
    digest_of,
    directory_of_member,
    open_members,
)
from mei_lightning.results.place import STORE
from mei_lightning.results.replacing import put_in_place
from mei_lightning.sizes import Sizes


def check_one_of_several(sizes: Sizes | None) -> None:
    """Raise a ValueError if members are to be compared at several norms."""
    if sizes is not None:
        raise InvalidValueError(
            f"{sizes.name}={sizes.values} with per_member=True: members are compared at one {sizes.name}. Find their "
            "MEIs at each, in a directory of its own."
        )


def problems_of_members(problem: MEIProblem) -> dict[int, MEIProblem]:
    """The same for each member of an ensemble alone, by its position.

    Args:
        problem: of an ensemble, or of some of its members.

    Raises:
        ValueError: if there are no two members, or a setting has no meaning for a single member.
    """
    settings, count = problem.settings, len(problem.model.members)
    if count < 2:
        raise InvalidValueError(
            f"per_member=True: model '{problem.model.name}' has no members to compare. Give an ensemble of at least "
            "two models of the same neurons, such as Ensemble([model_1, model_2])."
        )
    if isinstance(settings.objective, Objective):
        raise InvalidValueError(
            "per_member=True: the objective keeps the model that it was made with, so that it cannot be that of each "
            "member. Give its class (functools.partial fills in further arguments), or a function of responses."
        )
    if any(isinstance(it, RandomMember) for it in settings.robustness):
        raise InvalidValueError("per_member=True: a member alone has no RandomMember(): leave one of the two out.")
    return {member: problem.of_member(member) for member in problem.members or range(count)}


def compare_in(
    place: Path,
    problem: MEIProblem,
    of_members: Mapping[int, MEIProblem],
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> xr.Dataset:
    """Compare the MEIs of an ensemble with those of its members, and keep what is found beside them.

    The first of several processes does that, and the others wait. What has been compared already is only read.

    Args:
        place: the directory with the ensemble's store, and one for each member.
        problem: of the ensemble.
        of_members: of each member, by its position.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Returns:
        The dataset of ``open_members``.
    """
    if getattr(rank_zero_only, "rank", 0) == 0 and current_comparison(place) is None:
        stores = [place / directory_of_member(member) / STORE for member in of_members]
        meis = open_meis(place / STORE)
        found = {
            member: open_meis(store) if store.exists() else None
            for member, store in zip(of_members, stores, strict=True)
        }
        # Before anything is compared: what another run writes from here on makes the comparison an older one.
        digest = digest_of([meis, *found.values()])
        objectives = [one.objective for one in (problem, *of_members.values())]
        hidden = place / f".{MEMBERS}.{uuid.uuid4().hex}.partial"
        try:
            parts = compare_members(meis, found, objectives, accelerator=accelerator, progress_bar=progress_bar)
            for number, part in enumerate(parts):
                _append(part.assign_attrs(digest), hidden, first=number == 0)
            put_in_place(hidden, place / MEMBERS)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return open_members(place)


def _append(part: xr.Dataset, path: Path, *, first: bool) -> None:
    """Write some neurons of a dataset after those that are there, stimuli in one chunk for each neuron."""
    if first:
        stimulus = part["member_stimulus"]
        chunks = {"member_stimulus": {"chunks": (1, *stimulus.shape[1:])}}
        part.to_zarr(path, mode="w-", zarr_format=2, encoding=chunks, consolidated=True)
    else:
        part.to_zarr(path, append_dim="neuron", zarr_format=2, consolidated=True)
