"""MEIs of other neurons, moved to where a neuron sees, and what they are worth to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mei_lightning.acceleration.prepare import prepare
from mei_lightning.analysis.prediction import predict_pairs
from mei_lightning.optimization.search import EQUAL
from mei_lightning.problem import MEIProblem

FRAMES = (-2, -1, 1, 2)
"""By how many frames the best of a neuron's candidates is moved in time as well."""

_SHARE_THAT_STAYS = 0.5
"""Of the energy of an MEI that is moved, so much has to stay within the stimulus."""

_BLUR = 1.0
"""Standard deviation, in pixels, of the blur of energies before they are compared."""

Array = NDArray[np.floating]
ReadStimulus = Callable[[int], Array]
"""The MEI ``[channels, time, height, width]`` of a neuron, by its number."""


@dataclass(frozen=True)
class Candidate:
    """The MEI of a neuron, moved; what is moved out of the stimulus is lost, and what is moved in is 0.

    Args:
        donor: the number of the neuron.
        frames: by how many frames to later times.
        rows: by how many pixels to larger y.
        columns: by how many pixels to larger x.
    """

    donor: int
    frames: int
    rows: int
    columns: int

    def of(self, stimulus: Array) -> Array:
        """What becomes of the donor's MEI ``[channels, time, height, width]``."""
        moved = np.zeros_like(stimulus)
        to, taken = zip(
            *(_overlap(by, size) for by, size in zip(self._moves, stimulus.shape[1:], strict=True)), strict=True
        )
        moved[(slice(None), *to)] = stimulus[(slice(None), *taken)]
        return moved

    @property
    def _moves(self) -> tuple[int, int, int]:
        return self.frames, self.rows, self.columns


@dataclass(frozen=True)
class Best:
    """The best candidate of a neuron.

    Args:
        candidate: which.
        value: its score minus costs.
    """

    candidate: Candidate
    value: float


class Donors:
    """Tries MEIs of other neurons on each of some neurons.

    Where a neuron sees is told by its own MEI: where the MEI's energy is in space, the sum of squares over channels and
    time. Another neuron's MEI is moved by those whole pixels by which the energies of the two, blurred by a pixel,
    overlap most (the largest cross-correlation).

    Args:
        problem: that the MEIs are of.
        values: of the neurons that have an MEI, by their numbers: its score minus costs.
        read: reads their MEIs.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.
    """

    def __init__(
        self,
        problem: MEIProblem,
        values: Mapping[int, float],
        read: ReadStimulus,
        *,
        accelerator: str = "auto",
        progress_bar: bool = True,
    ) -> None:
        self._problem = problem
        self._own = values
        self._numbers = numbers = list(values)
        self._read = read
        self._options = {"accelerator": accelerator, "progress_bar": progress_bar}
        self._objective = problem.objective.on(prepare(problem.model, (1, *problem.shape)))
        self._energies = {number: np.square(read(number).astype(np.float64)).sum(axis=(0, 1)) for number in numbers}
        self._spectra = {number: _spectrum_of_blurred(energy) for number, energy in self._energies.items()}

    def best(self, most: int) -> dict[int, Best]:
        """The best candidate of each neuron that has any.

        Args:
            most: how many other neurons' MEIs each neuron tries. If there are more, these are half as many that all
                try, spread over all, and as many of those neurons that respond to these most like it does.
        """
        if most >= len(self._numbers) - 1:
            return self._also_moved_in_time(self._values(self._of_all(self._numbers)))
        places = np.linspace(0, len(self._numbers) - 1, (most + 1) // 2).round().astype(int).tolist()
        pivots = [self._numbers[place] for place in places]
        first = self._values(self._of_all(pivots))
        second = self._values(self._of_nearest(first, pivots, most - len(pivots)))
        return self._also_moved_in_time({number: first[number] | second[number] for number in self._numbers})

    def stimulus(self, candidate: Candidate) -> Tensor:
        """The feasible stimulus that a candidate stands for, ``[channels, time, height, width]``."""
        moved = torch.from_numpy(candidate.of(self._read(candidate.donor)))[None]
        feasible: Tensor = self._problem.space.initial_parameters(moved.to(self._problem.dtype))[1]
        return feasible[0]

    def _of_all(self, donors: Sequence[int]) -> dict[int, list[Candidate]]:
        return {number: self._moved(number, donors) for number in self._numbers}

    def _moved(self, number: int, donors: Sequence[int]) -> list[Candidate]:
        found = []
        for donor in donors:
            if donor == number:
                continue
            rows, columns = self._way(donor, number)
            if self._stays(donor, rows, columns):
                found.append(Candidate(donor, 0, rows, columns))
        return found

    def _way(self, donor: int, number: int) -> tuple[int, int]:
        """By how many pixels, to larger y and to larger x, the place of one neuron is from that of another."""
        height, width = (2 * size for size in self._problem.shape[2:])
        overlap = np.fft.irfft2(self._spectra[number] * self._spectra[donor].conj(), s=(height, width))
        # Rounded, so that the same place is found wherever it is computed.
        row, column = np.unravel_index(np.round(overlap / overlap.max(), 6).argmax(), overlap.shape)
        return int(row) - height * (row > height // 2), int(column) - width * (column > width // 2)

    def _stays(self, donor: int, rows: int, columns: int) -> bool:
        energy = self._energies[donor]
        (_, y), (_, x) = (_overlap(by, size) for by, size in zip((rows, columns), energy.shape, strict=True))
        return bool(energy[y, x].sum() >= _SHARE_THAT_STAYS * energy.sum())

    def _of_nearest(
        self, values: dict[int, dict[Candidate, float]], pivots: Sequence[int], most: int
    ) -> dict[int, list[Candidate]]:
        """Candidates of the neurons whose responses to the pivots' MEIs are most like each neuron's."""
        place = {number: column for column, number in enumerate(pivots)}
        patterns = np.zeros((len(self._numbers), len(pivots)))
        for row, number in enumerate(self._numbers):
            if number in place:
                patterns[row, place[number]] = self._own[number]
            for candidate, value in values[number].items():
                patterns[row, place[candidate.donor]] = value
        sizes = np.linalg.norm(patterns, axis=1, keepdims=True)
        patterns /= np.where(sizes > 0, sizes, 1)
        found = {}
        for row, number in enumerate(self._numbers):
            order = np.argsort(-(patterns @ patterns[row]).round(6), kind="stable").tolist()
            nearest = [self._numbers[other] for other in order if other != row and self._numbers[other] not in place]
            found[number] = self._moved(number, nearest[:most])
        return found

    def _also_moved_in_time(self, values: dict[int, dict[Candidate, float]]) -> dict[int, Best]:
        best = {number: _best(known) for number, known in values.items() if known}
        frames = [moved for moved in FRAMES if abs(moved) < self._problem.time_steps]
        later = self._values(
            {
                number: [Candidate(it.candidate.donor, by, it.candidate.rows, it.candidate.columns) for by in frames]
                for number, it in best.items()
            }
        )
        return {number: _best({it.candidate: it.value} | later[number]) for number, it in best.items()}

    def _values(self, candidates: dict[int, list[Candidate]]) -> dict[int, dict[Candidate, float]]:
        """What each neuron's candidates are worth to it; the same candidates of several neurons are computed once."""
        seen_by: dict[Candidate, list[int]] = {}
        for number, tried in candidates.items():
            for candidate in tried:
                seen_by.setdefault(candidate, []).append(number)
        values: dict[int, dict[Candidate, float]] = {number: {} for number in candidates}
        if not seen_by:
            return values
        shown = list(seen_by)
        grey: set[Candidate] = set()

        def stimuli(numbers: list[int]) -> Tensor:
            made = torch.stack([self.stimulus(shown[number]) for number in numbers])
            # A mask has frozen all that there is of these, and no ascent can begin there.
            grey.update(shown[number] for number, one in zip(numbers, made, strict=True) if not one.any())
            return made

        scores = predict_pairs(
            self._objective,
            stimuli,
            list(seen_by.values()),
            title="MEIs of other neurons",
            **self._options,  # type: ignore[arg-type]
        )
        costs = self._costs(shown)
        pairs = [(candidate, number) for candidate in shown for number in seen_by[candidate]]
        for (candidate, number), score in zip(pairs, scores.tolist(), strict=True):
            value = score - costs[candidate]
            if np.isfinite(value) and candidate not in grey:
                values[number][candidate] = value
        return values

    def _costs(self, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
        regularizer = self._problem.settings.regularizer
        if regularizer is None:
            return dict.fromkeys(candidates, 0.0)
        with torch.no_grad():
            return {one: float(regularizer(self.stimulus(one)[None])) for one in candidates}


def _best(values: dict[Candidate, float]) -> Best:
    """The highest value; the first of those that are equal but for rounding."""
    highest = max(values.values())
    return next(Best(one, value) for one, value in values.items() if value >= highest - EQUAL * abs(highest))


def _spectrum_of_blurred(energy: Array) -> NDArray[np.complexfloating]:
    """The spectrum of an image, blurred by a pixel, with as much emptiness around it as it is large."""
    size = tuple(2 * one for one in energy.shape)
    squares = np.add.outer(np.square(np.fft.fftfreq(size[0])), np.square(np.fft.rfftfreq(size[1])))
    spectrum: NDArray[np.complexfloating] = np.fft.rfft2(energy, s=size) * np.exp(
        -2 * np.square(np.pi * _BLUR) * squares
    )
    return spectrum


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Where entries are moved to, and from where, along an axis."""
    later, earlier = min(max(by, 0), size), min(max(-by, 0), size)
    return slice(later, size - earlier), slice(earlier, size - later)
