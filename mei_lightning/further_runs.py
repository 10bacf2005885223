"""Runs that follow a first one and are compared with it: for each member of an ensemble, or from other starts."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
import xarray as xr

from mei_lightning.analysis.members import compare_members, members_table
from mei_lightning.analysis.repeats import compare_repeats, repeats_table
from mei_lightning.arguments import flag, whole_number
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives import Objective
from mei_lightning.perturbations import RandomMember
from mei_lightning.problem import MEIProblem
from mei_lightning.results.comparison import Comparison
from mei_lightning.results.members import MEMBERS
from mei_lightning.results.repeats import REPEATS
from mei_lightning.sizes import Sizes


class Compare(Protocol):
    """Compares MEIs with those of other stores, a part of the neurons after the other, as ``compare_members``."""

    def __call__(
        self, meis: xr.Dataset, others: Mapping[int, xr.Dataset | None], *, accelerator: str, progress_bar: bool
    ) -> Iterator[xr.Dataset]:
        """Parts along ``neuron`` of how they compare."""
        ...


@dataclass(frozen=True)
class FurtherRuns:
    """What is to be found after a first run, and how it is compared with what that has found.

    Args:
        comparison: which kind they are.
        told: what they are altogether, after the number of neurons.
        first: the problem of the first run.
        problems: of each further one, by its number.
        settings: what is other in each than in the first, e.g. ``{1: {"seed": 1}}``.
        compare: compares them.
        table: what a comparison says of all neurons.
    """

    comparison: Comparison
    told: str
    first: MEIProblem
    problems: Mapping[int, MEIProblem]
    settings: Mapping[int, Mapping[str, Any]]
    compare: Compare
    table: Callable[[xr.Dataset], pd.DataFrame]

    @property
    def parts(self) -> dict[str, MEIProblem]:
        """All problems, the first one's too, by their directories in that of the results."""
        return {".": self.first} | {self.comparison.part(number): one for number, one in self.problems.items()}

    def compare_in(self, place: Path, *, accelerator: str = "auto", progress_bar: bool = True) -> xr.Dataset:
        """Compare what was found, and keep that in ``place``, where the stores are; see ``Comparison.make``.

        Args:
            place: the directory with the first store, and one for each further one.
            accelerator: as for Lightning's ``Trainer``.
            progress_bar: whether to show one.
        """
        compare = partial(self.compare, accelerator=accelerator, progress_bar=progress_bar)
        return self.comparison.make(place, list(self.problems), compare)


def check_further_runs(per_member: object, repeats: object, sizes: Sizes | None) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: if both, or several norms, are asked for, or ``repeats`` is negative.
        TypeError: if one is of a wrong type.
    """
    count = whole_number("repeats", repeats)
    if count < 0:
        raise InvalidValueError(f"repeats={count} has to be 0, for none, or more.")
    asked = ["per_member=True"] if flag("per_member", per_member) else []
    asked += [f"repeats={count}"] if count else []
    if len(asked) > 1:
        raise InvalidValueError(
            f"{' and '.join(asked)}: choose one of the two, or call twice, with a directory for each."
        )
    if asked and sizes is not None:
        raise InvalidValueError(
            f"{sizes.name}={sizes.values} with {asked[0]}: MEIs are compared at one {sizes.name}. Find them at each, "
            "in a directory of its own."
        )


def further_runs(problem: MEIProblem, per_member: bool, repeats: int) -> FurtherRuns | None:
    """Those that are asked for.

    Raises:
        ValueError: if there are no two members, or a setting has no meaning for a single member; or other starts are
            the same.
    """
    if per_member:
        return _of_members(problem)
    return _repeats(problem, repeats) if repeats else None


def _of_members(problem: MEIProblem) -> FurtherRuns:
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
    problems = {member: problem.of_member(member) for member in problem.members or range(count)}
    return FurtherRuns(
        MEMBERS,
        f"of an ensemble and its {count} members",
        problem,
        problems,
        {member: {"members": [member]} for member in problems},
        partial(compare_members, objectives=[one.objective for one in (problem, *problems.values())]),
        members_table,
    )


def _repeats(problem: MEIProblem, count: int) -> FurtherRuns:
    seeds = {number: problem.settings.seed + number for number in range(1, count + 1)}
    problems = {number: problem.reseeded(seed) for number, seed in seeds.items()}
    if torch.equal(problem.starts(0), problems[1].starts(0)):
        raise InvalidValueError(
            f"repeats={count}: initial={problem.initial!r} makes the same stimuli with any seed, so that a repeat "
            "would find the same. Leave one of the two out."
        )
    constraint = problem.space.constraint
    assert constraint is not None
    return FurtherRuns(
        REPEATS,
        f"that are found {count + 1} times",
        problem,
        problems,
        {number: {"seed": seed} for number, seed in seeds.items()},
        partial(compare_repeats, objective=problem.objective, constraint=constraint),
        repeats_table,
    )
