"""How the best stimulus of a neuron is searched for: from which starts, which of them go on, and what is tried at last.

A neuron has a slot of rows: its starts first, then as many as there are copies of its best stimulus, moved in time.
Policies decide by tensors ``[slots, rows]``, of all slots of a device at once, where these are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from mei_lightning.arguments import number, several, whole_number, whole_numbers
from mei_lightning.exceptions import InvalidValueError

SearchName = Literal["quick", "normal", "thorough"]

EQUAL = 1e-5
"""Relative difference up to which the values of a neuron's rows count as equal."""

_STARTS_MEET = 0.85
"""Cosine similarity above which a start is on its way to where a better row is."""
_SHIFTED_MEETS = 0.5
"""The same for a shifted stimulus, which has come back from where it was moved to."""

# How far a row may be behind, as a share of the best value. A neuron's rows have hardly more to gain than that.
_LAG_WITH_HOPE = 0.1
"""Of a start that is not among the best in the middle of the trial."""
_LAG_OF_KEPT_STARTS = 0.03
"""Of a start that goes on, half a trial after the trial."""
_LAG_OF_SHIFTED = 0.02
_LAG_OF_AVERAGES = 0.03
_STEPS_OF_AVERAGES = 12
"""That an average takes at least."""

# Of a stimulus moved by a frame, as shares of the best value.
_LAG_OF_FRAME_SHIFTED = 0.005
"""Up to which it is worth a step."""
_GAIN_OF_FRAME_SHIFTED = 0.002
"""Up to which it is not worth more."""

# Cosine similarities of two stimuli between which their average is worth an ascent.
_MOST_ALIKE = 0.95
_LEAST_ALIKE = -0.9
"""Of opposite stimuli, as a neuron has that answers to contrast, nothing would be left."""

Meets = Callable[[Tensor, Tensor], Tensor]
"""Whether rows have come to where a better row of their slot is: of some rows ``[slots, rows]``, by the cosine
similarity ``[rows]`` above which they have, which ones ``[slots, rows]``."""


@dataclass(frozen=True)
class SearchRows:
    """How the rows of all slots stand.

    Args:
        values: the highest value of each row so far, ``[slots, rows]``; minus infinity for rows without a stimulus.
        steps: that they have taken, likewise.
        active: which of them are still being optimised, likewise.
        frame_shifted: slots ``[slots]`` whose moved copies are by ``frame_shifts``.

    Example:
        >>> rows = ml.SearchRows(
        ...     values=torch.tensor([[1.0, 3.0, 2.0]]),  # of one neuron with three starts
        ...     steps=torch.full((1, 3), 8),
        ...     active=torch.ones(1, 3, dtype=torch.bool),
        ...     frame_shifted=torch.zeros(1, dtype=torch.bool),
        ... )
        >>> search = ml.MultiStart(starts=3, keep=1, trial_steps=8, shifts=())
        >>> given_up, met_a_better_one = search.ended(rows, meets=None)  # without shifts nothing is asked to meet
        >>> given_up.tolist()
        [[True, False, True]]
    """

    values: Tensor
    steps: Tensor
    active: Tensor
    frame_shifted: Tensor


class Search:
    """A search policy; derive from it for one of your own, and write ``ended``.

    Its attributes are part of the configuration of a run.

    Args:
        starts: initial stimuli of each neuron.
        keep: so many of them, about, are optimised to the end; a device takes as many neurons as that leaves room for.
        max_steps: the most steps that a row takes.

    Raises:
        ValueError: if a number is too small, or more starts are kept than there are.
        TypeError: if a number is no whole number.

    Attributes:
        shifts: the best stimulus after the trial (``tried``) is moved to later times by these shares of its duration,
            and optimised as well; none, unless a policy says so.
        frame_shifts: at last, with ``shifts``, it is moved by these numbers of frames, and optimised from there if it
            is nearly as good.
        averages: so many averages of two of the best stimuli of a neuron are optimised as well.
        generations: so many times: first after the trial, or after the shifts, and then when all rows have ended; at
            last an ascent begins anew from the best.

    Example:
        >>> class BestAfterTwoSteps(ml.Search):
        ...     def ended(self, rows, meets):
        ...         place = rows.values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        ...         return (rows.steps == 2) & (place > 0), torch.zeros_like(rows.active)
        >>> search = BestAfterTwoSteps(starts=5, keep=1, max_steps=4)
        >>> meis = ml.find_meis("simulated", [("session_1", 0)], search=search, progress_bar=False)
        >>> int(meis.restart_scores.notnull().sum())  # of 5 starts, those that were followed to the end
        1
    """

    shifts: tuple[float, ...] = ()
    frame_shifts: tuple[int, ...] = ()
    averages: int = 0
    generations: int = 0

    def __init__(self, starts: int, keep: int, max_steps: int) -> None:
        name = type(self).__name__
        self.starts = whole_number(f"{name}: starts", starts)
        self.keep = whole_number(f"{name}: keep", keep)
        self.max_steps = whole_number(f"{name}: max_steps", max_steps)
        check_numbers_of_search(name, self.starts, self.keep, self.max_steps)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"

    def ended(self, rows: SearchRows, meets: Meets) -> tuple[Tensor, Tensor]:
        """Rows that end before they have converged; asked when rows have taken an even number of steps.

        Values that are equal but for rounding are best told apart by ``ranks``.

        Args:
            rows: how all rows stand.
            meets: tells which rows have come to where a better one is.

        Returns:
            Those that are given up, and those that have come to where a better row is, each ``[slots, rows]``. What is
            said of rows that are not active counts for nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which rows end: write its method ended.")

    def tried(self, steps: Tensor) -> Tensor:
        """Slots ``[slots]`` whose best stimuli are known well enough to go on from, by steps ``[slots, rows]``."""
        return torch.zeros_like(steps[:, 0], dtype=torch.bool)


@dataclass(frozen=True)
class MultiStart(Search):
    """Several starts, of which the best after a trial go on, and what is made of the best stimuli then.

    Where an ascent of a movie ends in a worse optimum, the better one is often the same stimulus at another time. With
    shifts, what comes to where a better stimulus of the same neuron is ends there, and so does what is far behind.

    Where ascents end in different optima, each has some of the features of the best one. The average of two keeps what
    they share, and an ascent from there often ends higher than both.

    Args:
        starts: initial stimuli of each neuron.
        keep: how many of them are optimised to the end: those with the highest values after the trial.
        trial_steps: the length of the trial, an even number.
        max_steps: the most steps that a row takes.
        shifts: shares of the stimulus' duration by which the best stimulus after the trial is moved to later times, to
            be optimised as well.
        frame_shifts: frames by which, with shifts, the best stimulus is moved at last, and optimised from there if it
            is nearly as good.
        averages: so many averages of two of the neuron's best stimuli (best and second, best and third, second and
            third, and so on) are optimised as well, unless the two are alike.
        generations: how many times: first after the trial, or after the shifts, and then when all rows have ended. At
            last an ascent begins anew from the best.

    Raises:
        ValueError: if a number is too small, ``trial_steps`` is odd, more starts are kept than there are, or more
            averages are asked for than the starts have pairs.
        TypeError: if a number of starts, steps or frames is no whole number, or a share is no number.

    Example:
        >>> search = ml.MultiStart(starts=4, keep=2, trial_steps=4, max_steps=8, shifts=())
        >>> meis = ml.find_meis("simulated", [("session_1", 4)], search=search, progress_bar=False)
        >>> int(meis.restart_scores.notnull().sum())  # of 4 starts, those that were followed to the end
        2
    """

    starts: int = 3
    keep: int = 1
    trial_steps: int = 8
    max_steps: int = 100
    shifts: tuple[float, ...] = (1 / 16, 1 / 4)
    frame_shifts: tuple[int, ...] = (-1, 1)
    averages: int = 0
    generations: int = 1

    def __post_init__(self) -> None:
        for name in ("starts", "keep", "trial_steps", "max_steps", "averages", "generations"):
            object.__setattr__(self, name, whole_number(f"MultiStart: {name}", getattr(self, name)))
        check_numbers_of_search("MultiStart", self.starts, self.keep, self.max_steps)
        if self.trial_steps < 2 or self.trial_steps % 2:
            raise InvalidValueError(f"{self!r}: trial_steps={self.trial_steps} has to be even, and at least 2.")
        pairs = self.starts * (self.starts - 1) // 2
        if not 0 <= self.averages <= pairs:
            raise InvalidValueError(f"{self!r}: {self.starts} starts have {pairs} pairs to average, from 0 on.")
        if self.generations < 1:
            raise InvalidValueError(f"{self!r}: generations={self.generations} has to be at least 1.")
        object.__setattr__(self, "shifts", tuple(number("MultiStart: shifts", one) for one in several(self.shifts)))
        object.__setattr__(self, "frame_shifts", tuple(whole_numbers("MultiStart: frame_shifts", self.frame_shifts)))

    def ended(self, rows: SearchRows, meets: Meets) -> tuple[Tensor, Tensor]:
        """Starts whose trial ends and which are not among the best; with shifts also what is of no use any more."""
        pruned = torch.zeros_like(rows.active)
        pruned[:, : self.starts] = self._loses_trial(rows)
        if not self.shifts:
            # Rows after the starts are averages then.
            pruned[:, self.starts :] = self._lagging_averages(rows)
            return pruned, torch.zeros_like(pruned)
        # By steps of their own, which do not depend on when they began.
        due = rows.active & ~pruned & (rows.steps % 2 == 0)
        frame_shifted = rows.frame_shifted[:, None]
        duplicate = meets(due & ~frame_shifted, self._similarity_to_meet(rows))
        behind = torch.where(frame_shifted, self.hardly_better(rows.values), self._far_behind(rows))
        return pruned | (due & behind & ~duplicate), duplicate

    def tried(self, steps: Tensor) -> Tensor:
        """Slots ``[slots]`` whose trial is over."""
        return steps[:, : self.starts].amax(dim=1) >= self.trial_steps

    def hardly_better(self, values: Tensor) -> Tensor:
        """Which stimuli moved by frames are not worth following, ``[slots, rows]``, by values, likewise."""
        best = values[:, : self.starts].amax(dim=1, keepdim=True)
        return values <= best + _GAIN_OF_FRAME_SHIFTED * best.abs()

    def _loses_trial(self, rows: SearchRows) -> Tensor:
        starts = slice(self.starts)
        return (rows.steps[:, starts] == self.trial_steps) & (ranks(rows.values[:, starts]) >= self.keep)

    def _lagging_averages(self, rows: SearchRows) -> Tensor:
        lags = _lags(rows.values, _LAG_OF_AVERAGES) & (rows.steps >= _STEPS_OF_AVERAGES)
        return lags[:, self.starts :]

    def _far_behind(self, rows: SearchRows) -> Tensor:
        """Rows ``[slots, rows]`` that are so far behind the best one of their neuron that they end."""
        values, steps, starts = rows.values, rows.steps, slice(self.starts)
        behind = (steps >= self.trial_steps) & _lags(values, _LAG_OF_SHIFTED)
        patience = self.trial_steps * 3 // 2
        behind[:, starts] = ((steps >= patience) & _lags(values, _LAG_OF_KEPT_STARTS))[:, starts]
        hopeless = (steps == self.trial_steps // 2) & _lags(values, _LAG_WITH_HOPE)
        behind[:, starts] |= hopeless[:, starts] & (ranks(values[:, starts]) >= self.keep)
        return behind

    def _similarity_to_meet(self, rows: SearchRows) -> Tensor:
        number = torch.arange(rows.values.shape[1], device=rows.values.device)
        return torch.where(number < self.starts, _STARTS_MEET, _SHIFTED_MEETS)


def check_numbers_of_search(name: str, starts: int, keep: int, max_steps: int) -> None:
    """Raise a ValueError if a search would have nothing to do, or more starts to keep than there are."""
    if not 1 <= keep <= starts:
        raise InvalidValueError(
            f"{name}(starts={starts}, keep={keep}): keep at least 1 start, and at most all of them."
        )
    if max_steps < 1:
        raise InvalidValueError(f"{name}(max_steps={max_steps}) leaves nothing to do; give at least 1.")


def check_masks(search: Search, masks: Sequence[Tensor], active: Tensor) -> None:
    """Raise a ValueError unless what ``ended`` returned are masks of all rows, as ``active`` is."""
    for mask in masks:
        if mask.dtype is not torch.bool or mask.shape != active.shape:
            raise InvalidValueError(
                f"{search!r}: ended returned {mask.dtype} of shape {tuple(mask.shape)}; it must return two masks "
                f"(torch.bool) of shape {tuple(active.shape)}: [slots, rows]."
            )


SEARCHES: dict[SearchName, MultiStart] = {
    "quick": MultiStart(starts=2, keep=1, max_steps=50, shifts=()),
    "normal": MultiStart(),
    "thorough": MultiStart(starts=16, keep=8, max_steps=300, shifts=(1 / 16, 1 / 4, 1 / 8, -1 / 8)),
}
"""For movies."""

SEARCHES_WITHOUT_SHIFTS: dict[SearchName, MultiStart] = {
    "quick": SEARCHES["quick"],
    "normal": MultiStart(starts=4, keep=2, shifts=()),
    "thorough": MultiStart(starts=16, keep=8, max_steps=300, shifts=()),
}
"""Where nothing can be begun from a stimulus, or optimizers follow other rules."""

SEARCHES_OF_IMAGES: dict[SearchName, MultiStart] = {
    "quick": MultiStart(starts=2, keep=1, trial_steps=12, max_steps=50, shifts=()),
    "normal": MultiStart(starts=6, keep=2, trial_steps=12, shifts=(), averages=2, generations=2),
    "thorough": MultiStart(starts=16, keep=8, trial_steps=12, max_steps=300, shifts=(), averages=7, generations=4),
}
"""For still images, which cannot be moved in time."""


def tie_broken(values: Tensor) -> Tensor:
    """Values ``[slots, rows]`` by which to compare rows: where they are equal but for rounding, the first is best."""
    # Starts often end at the same optimum, and rounding must not choose among them.
    handicap = EQUAL * values.abs() * torch.arange(values.shape[1], device=values.device)
    return torch.where(values.isfinite(), values - handicap, values)


def ranks(values: Tensor) -> Tensor:
    """The ranks of each slot's rows, ``[slots, rows]``, 0 for the best; the first of those that are equal."""
    return tie_broken(values).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def pairs_of_ranks(starts: int, count: int) -> list[tuple[int, int]]:
    """The first pairs of ranks of starts, those of the best ranks first."""
    return sorted(combinations(range(starts), 2), key=lambda pair: pair[::-1])[:count]


def nearly_as_good(values: Tensor, best: Tensor) -> Tensor:
    """Which stimuli moved by frames are worth a step, by their values and their neurons' best ones, ``[rows]``."""
    return values >= best - _LAG_OF_FRAME_SHIFTED * best.abs()


def worth_averaging(similarity: Tensor) -> Tensor:
    """Which pairs of stimuli are neither alike nor opposite, by their cosine similarities; none if that is unknown."""
    return (similarity > _LEAST_ALIKE) & (similarity < _MOST_ALIKE)


def _lags(values: Tensor, share: float) -> Tensor:
    best = values.amax(dim=1, keepdim=True)
    return values < best - share * best.abs()


def better_rows(values: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Each of some rows with every better row of the same slot.

    Args:
        values: of all rows, ``[slots, rows]``.
        which: of them, likewise.

    Returns:
        The numbers of the rows, and of the better ones, among the rows of all slots.
    """
    values = tie_broken(values)
    worse = which[:, :, None] & (values[:, None, :] > values[:, :, None])
    # The one place where the host waits for a device: few rows, as a rule, have their stimuli compared.
    slot, own, better = worse.nonzero().T
    return slot * values.shape[1] + own, slot * values.shape[1] + better
