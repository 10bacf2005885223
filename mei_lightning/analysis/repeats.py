"""MEIs that were found several times: would another run find the same, and is there a better one?"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from mei_lightning.analysis.alignment import similarity_by_shift
from mei_lightning.analysis.chance import chance_of_better
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.analysis.side_by_side import STIMULUS, Array, SideBySide, labelled
from mei_lightning.constraints import Constraint
from mei_lightning.objectives import NeuronObjective

AS_GOOD = 0.01
"""As a share of the best score, how much lower that of an optimum may be that counts as equally good."""
_KEPT = 0.98
"""Of the lower of two scores, the share that the stimulus midway keeps if both are one optimum."""
_ALIKE = 0.95
"""Cosine, with a shift in time, from which two stimuli are one optimum in any case."""

OF_NEURONS = {
    "chance_of_better": "estimated chance that there is a stimulus whose score is over 1 % higher",
    "optima": "different optima that are equally good",
    "repeats_alike": "lowest aligned similarity of the MEI to equally good ones of repeats",
}
"""What ``repeats_of_neurons`` says of each neuron."""


def compare_repeats(
    meis: xr.Dataset,
    repeats: Mapping[int, xr.Dataset | None],
    objective: NeuronObjective,
    constraint: Constraint,
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Iterator[xr.Dataset]:
    """How MEIs compare with those that the same search found from other starts, for a few neurons after the other.

    Args:
        meis: as from ``find_meis``.
        repeats: those of each repeat by its number, of the same neurons; None where they have not been begun. An MEI
            that is not finished, or has no score, counts as missing: it has NaN.
        objective: the score of each neuron.
        constraint: that of the run.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Yields:
        Parts along ``neuron`` of the variables that ``find_meis(repeats=...)`` describes.
    """
    found = SideBySide([meis, *repeats.values()])
    scores, statuses = found.scores(), found.statuses()
    midway = _midway_scores(found, objective, constraint, accelerator=accelerator, progress_bar=progress_bar)
    chance = chance_of_better(scores.T)
    for part in found.parts(progress_bar):
        stimuli = found.stimuli(part)
        of_neurons = [
            _compared(one.astype(np.float64), *known)
            for one, *known in zip(stimuli, scores[part], midway[part], strict=True)
        ]
        similarity, aligned, optimum = (np.stack(values) for values in zip(*of_neurons, strict=True))
        best = _best_of_optima(optimum, scores[part])
        variables: dict[str, Any] = {
            "repeat_stimulus": (("neuron", "repeat", *STIMULUS), stimuli[:, 1:], "MEI of the repeat", None),
            "repeat_score": (("neuron", "repeat"), scores[part, 1:], "score of the repeat's MEI", None),
            "repeat_status": (("neuron", "repeat"), statuses[part, 1:], "how the repeat ended", None),
            "repeat_similarity": (("neuron", "repeat"), similarity, "cosine of the MEI and the repeat's", "1"),
            "aligned_similarity": (
                ("neuron", "repeat"),
                aligned,
                "the same, with a shift in time and as far as one is a mixture of others of the same optimum",
                "1",
            ),
            "optimum": (("neuron", "repeat"), optimum[:, 1:], "number of its optimum, 0 for that of the MEI", None),
            "optima": (("neuron",), best, "different optima that are equally good", None),
            "chance_of_better": (("neuron",), chance[part], OF_NEURONS["chance_of_better"], "1"),
        }
        yield labelled(meis.isel(neuron=part), variables, {"repeat": list(repeats)})


def repeats_of_neurons(meis: xr.Dataset) -> dict[str, xr.DataArray]:
    """What repeats say of the MEI of each neuron, in a number each: see ``OF_NEURONS``.

    Args:
        meis: as from ``find_meis(repeats=...)``.
    """
    best = np.fmax(meis["repeat_score"].max("repeat"), meis["score"])
    alike = meis["aligned_similarity"].where(meis["repeat_score"] >= best - AS_GOOD * abs(best)).min("repeat")
    values = {"chance_of_better": meis["chance_of_better"], "optima": meis["optima"], "repeats_alike": alike}
    return {name: values[name].assign_attrs(units="1", long_name=about) for name, about in OF_NEURONS.items()}


def repeats_table(meis: xr.Dataset) -> pd.DataFrame:
    """What a population says of each repeat.

    Args:
        meis: as from ``find_meis(repeats=...)``.

    Returns:
        A row for each repeat: ``neurons`` that have an MEI in it and in the first run; of these, the shares whose score
        is ``as_good``, ``worse`` or ``better``, by more than 1 %, than that of the first run; and, of those that are as
        good, the share that is of the ``same_optimum``, and the medians of ``similarity`` and ``aligned_similarity``.
    """
    own, rows = meis["score"].values[:, None], {}
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (meis["repeat_score"].transpose("neuron", "repeat").values - own) / np.abs(own)
    similarity, aligned, optimum = (
        meis[name].transpose("neuron", "repeat").values
        for name in ("repeat_similarity", "aligned_similarity", "optimum")
    )
    for column, number in enumerate(meis["repeat"].values.tolist()):
        known = np.isfinite(gain[:, column])
        equal = known & (np.abs(gain[:, column]) <= AS_GOOD)
        rows[number] = {
            "neurons": int(known.sum()),
            "as_good": _mean(equal[known]),
            "worse": _mean(gain[known, column] < -AS_GOOD),
            "better": _mean(gain[known, column] > AS_GOOD),
            "same_optimum": _mean(optimum[equal, column] == 0),
            "similarity": float(pd.Series(similarity[equal, column]).median()),
            "aligned_similarity": float(pd.Series(aligned[equal, column]).median()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("repeat")


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else np.nan


def _midway_scores(
    found: SideBySide, objective: NeuronObjective, constraint: Constraint, *, accelerator: str, progress_bar: bool
) -> Array:
    """The score of the stimulus midway between two MEIs of a neuron, ``[neuron, mei, mei]``."""
    neurons, stores = found.known.shape
    midway = np.full((neurons, stores, stores), np.nan)
    pairs = [
        (neuron, one, other)
        for neuron in range(neurons)
        for one, other in combinations(np.flatnonzero(found.known[neuron]).tolist(), 2)
    ]

    def read(rows: list[int]) -> torch.Tensor:
        which, ones, others = np.array([pairs[row] for row in rows]).T
        # Pairs of a neuron are together: each stimulus is read once for all of them.
        neurons_of_rows, place = np.unique(which, return_inverse=True)
        stimuli = torch.from_numpy(found.stimuli(neurons_of_rows))
        return constraint((_of_length_one(stimuli[place, ones]) + _of_length_one(stimuli[place, others])) / 2)

    if pairs:
        values = predict_rows(
            objective.for_rows([neuron for neuron, _, _ in pairs]),
            read,
            NeuronObjective.forward,
            title="Scores midway",
            accelerator=accelerator,
            progress_bar=progress_bar,
        ).numpy()
        which, ones, others = np.array(pairs).T
        midway[which, ones, others] = midway[which, others, ones] = values
    return midway


def _of_length_one(stimuli: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(stimuli.flatten(1)).view_as(stimuli)


def _compared(stimuli: Array, scores: Array, midway: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """Of a neuron's MEIs ``[mei, ...]`` with scores ``[mei]`` and those midway ``[mei, mei]``.

    Returns:
        The cosine of the first with each other one; the same, aligned; and the optimum of each. NaN and -1 where one of
        the two is missing.
    """
    count = len(stimuli)
    known = np.isfinite(scores) & np.isfinite(scores[0])
    flat = stimuli.reshape(count, -1)
    with np.errstate(invalid="ignore"):
        units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    shifted = np.full((count, count), np.nan)
    for one, other in combinations(np.flatnonzero(known), 2):
        shifted[one, other] = shifted[other, one] = similarity_by_shift(stimuli[one], stimuli[other]).max()
    optimum = _optima(known, shifted, np.minimum(scores[:, None], scores), midway)
    aligned = shifted[0, 1:].copy()
    for other in np.flatnonzero(optimum[1:] == 0) + 1:
        same = (optimum == 0) & (np.arange(count) != other)
        aligned[other - 1] = max(aligned[other - 1], _share_in_span(units[other], units[same]))
    similarity = np.where(known[1:], units[1:] @ units[0], np.nan)
    return similarity, aligned, optimum


def _optima(known: NDArray[np.bool_], shifted: Array, lower: Array, midway: Array) -> NDArray[np.intp]:
    """The number of the optimum of each MEI ``[mei]``, in the order of their first ones; -1 where it is not known.

    Args:
        known: which MEIs there are.
        shifted: cosine of each pair, with a shift in time.
        lower: the lower score of each pair.
        midway: the score midway between each pair.
    """
    with np.errstate(invalid="ignore"):
        one_optimum = (shifted >= _ALIKE) | (midway >= lower - (1 - _KEPT) * np.abs(lower))
    labels = np.where(known, connected_components(one_optimum, directed=False)[1], -1)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels[known].tolist()))} | {-1: -1}
    return np.array([numbers[label] for label in labels.tolist()])


def _share_in_span(unit: Array, others: Array) -> float:
    """The length of the part of a stimulus of length 1 that is a mixture of others ``[others, n]``."""
    basis, singular_values, _ = np.linalg.svd(others.T, full_matrices=False)
    directions = basis[:, singular_values > 1e-3 * singular_values[0]]
    return float(np.linalg.norm(directions.T @ unit))


def _best_of_optima(optimum: NDArray[np.intp], scores: Array) -> Array:
    """How many optima ``[neuron]`` have a score as good as the best; NaN without a score."""
    best = np.fmax.reduce(scores, axis=1)
    good = scores >= (best - AS_GOOD * np.abs(best))[:, None]
    counts = [float(len(set(own[which].tolist()))) for own, which in zip(optimum, good, strict=True)]
    return np.where(optimum[:, 0] == 0, counts, np.nan)
