"""What a stimulus is optimised for: scores ``[rows]``."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from inspect import signature

import numpy as np
import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidTypeError
from mei_lightning.models.base import weights_digest


class Objective(nn.Module):
    """A score for each row of a stimulus; subclass it and write ``forward``.

    Objectives add, subtract and scale: ``IncreaseObjective(...) - 0.5 * IncreaseObjective(...)``. Arguments of the
    constructor, kept as attributes of the same names, become part of the results' configuration.

    ``forward`` gets stimuli ``[rows, channels, time, height, width]`` in the model's units, and returns scores
    ``[rows]``, larger for better ones. A row's score must not depend on other rows.

    Example:
        >>> class Brightness(ml.Objective):
        ...     def forward(self, stimulus):
        ...         return stimulus.flatten(1).mean(dim=1)
        >>> stimuli = torch.ones(2, 1, 10, 4, 4)  # two rows
        >>> Brightness()(stimuli)
        tensor([1., 1.])
        >>> (5.0 * Brightness() - 2.0 * Brightness())(stimuli)
        tensor([3., 3.])
    """

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        raise NotImplementedError

    def for_rows(self, rows: Sequence[int]) -> "Objective":
        """The objective of only these rows; itself, unless rows have targets of their own."""
        return self

    def weighted_terms(self) -> list[tuple[float, "Objective"]]:
        """The terms of a sum, with their weights; itself, if it is none."""
        return [(1.0, self)]

    def sum_of_own_kind(self, terms: Sequence["Objective"], weights: Sequence[float]) -> "Objective | None":
        """The weighted sum of terms of which this is one, if a plain ``CombinedObjective`` would know too little."""
        return None

    def describe(self) -> str:
        """The objective in words, for results: its name and settings, and which weights its models have."""
        return f"{type(self).__name__}({', '.join(settings_in_words(self, signature(type(self)).parameters))})"

    def describe_fully(self) -> str:
        """The same, with all that it does not share with the run that it is a part of."""
        return self.describe()

    def __add__(self, other: "Objective") -> "Objective":
        return weighted_sum([self, other], [1.0, 1.0]) if isinstance(other, Objective) else NotImplemented

    def __sub__(self, other: "Objective") -> "Objective":
        return weighted_sum([self, other], [1.0, -1.0]) if isinstance(other, Objective) else NotImplemented

    def __mul__(self, factor: float) -> "Objective":
        return weighted_sum([self], [float(factor)])

    __rmul__ = __mul__

    def __neg__(self) -> "Objective":
        return self * -1.0


class CombinedObjective(Objective):
    """The weighted sum of objectives.

    Args:
        objectives: the terms.
        weights: a factor for each of them.
    """

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float]) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)
        self.weights = tuple(weights)

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        return weighed(self.weights, [term(stimulus) for term in self.objectives])

    def for_rows(self, rows: Sequence[int]) -> Objective:
        """The same sum for only these rows."""
        return CombinedObjective([term.for_rows(rows) for term in terms_of(self.objectives)], self.weights)

    def describe(self) -> str:
        """The weights, and the terms in words."""
        return sum_in_words(self.weights, [term.describe() for term in terms_of(self.objectives)])

    def weighted_terms(self) -> list[tuple[float, Objective]]:
        """The terms, with their weights."""
        return list(zip(self.weights, terms_of(self.objectives), strict=True))


def weighted_sum(objectives: Sequence[Objective], weights: Sequence[float]) -> Objective:
    """A sum of objectives, of neurons if one of them is; sums among them become terms of this one.

    Args:
        objectives: the terms.
        weights: a factor for each of them.

    Raises:
        ValueError: if terms have different numbers of rows.
    """
    weighted = [
        (weight * factor, term)
        for weight, objective in zip(weights, objectives, strict=True)
        for factor, term in objective.weighted_terms()
    ]
    factors, terms = zip(*weighted, strict=True)
    for term in terms:
        if (own := term.sum_of_own_kind(terms, factors)) is not None:
            return own
    return CombinedObjective(terms, factors)


def terms_of(objectives: nn.ModuleList) -> list[Objective]:
    """The terms of a sum."""
    return [term for term in objectives if isinstance(term, Objective)]


def weighed(weights: Sequence[float], scores: Sequence[Tensor]) -> Tensor:
    """The weighted sum ``[rows]`` of the terms' scores, each ``[rows]``."""
    return torch.stack([weight * score for weight, score in zip(weights, scores, strict=True)]).sum(dim=0)


def sum_in_words(weights: Sequence[float], terms: Sequence[str]) -> str:
    """A sum in words, from its terms in words."""
    return " + ".join(f"{weight!r} * {term}" for weight, term in zip(weights, terms, strict=True))


def settings_in_words(objective: Objective, names: Iterable[str]) -> list[str]:
    """``name=value`` for each of these attributes that there is, the same in every process."""
    return [f"{name}={in_words(getattr(objective, name))}" for name in names if hasattr(objective, name)]


def in_words(value: object) -> str:
    """A value in words that tell it from others, the same in every process; a function is its qualified name."""
    if isinstance(value, Objective):
        return value.describe_fully()
    if isinstance(value, nn.Module):
        return f"{type(value).__name__} with weights {weights_digest(value)[:12]}"
    if isinstance(value, Tensor | np.ndarray):
        digest = hashlib.sha256(repr(value.tolist()).encode()).hexdigest()
        return f"values {digest[:12]} of shape {tuple(value.shape)}"
    if isinstance(value, partial):
        settings = [in_words(part) for part in value.args]
        settings += [f"{name}={in_words(part)}" for name, part in value.keywords.items()]
        return f"{in_words(value.func)}({', '.join(settings)})"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return repr(value)


class FunctionObjective(Objective):
    """A plain function as an objective.

    Args:
        function: maps stimuli ``[rows, channels, time, height, width]`` to scores ``[rows]``. An ``nn.Module`` is
            frozen for the time of the fit; the models that any other function uses are for you to freeze.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of the stimuli."""
        return self.function(stimulus)


class RowByRowObjective(FunctionObjective):
    """A function of a single stimulus ``[1, channels, time, height, width]`` with one number as its score."""

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of the stimuli."""
        return torch.stack([self.function(row).reshape(()) for row in stimulus.split(1)])


def as_objective(objective: object) -> Objective:
    """An objective from an ``Objective``, from an object with openretina's ``forward``, or from a plain function.

    An object that is not an ``Objective`` is called with one row at a time, since openretina's objectives take a
    batch for time.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, nn.Module):
        return FunctionObjective(objective)
    if callable(forward := getattr(objective, "forward", None)):
        return RowByRowObjective(forward)
    if callable(objective):
        return FunctionObjective(objective)
    raise InvalidTypeError(
        f"{objective!r} is not an objective: give an Objective, or a function that maps stimuli "
        "[rows, channels, time, height, width] to scores [rows]."
    )
