"""MEIs of the members of an ensemble beside those of the ensemble: would another model have the same MEI?"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mei_lightning.analysis.alignment import moved_earlier, possible_shifts, similarity_by_shift
from mei_lightning.analysis.prediction import predict_rows
from mei_lightning.analysis.side_by_side import STIMULUS, Array, SideBySide, labelled
from mei_lightning.objectives import NeuronObjective
from mei_lightning.results.members import ENSEMBLE, label_of_member

_OF_MEMBERS = ("neuron", "member")

OF_NEURONS = {
    "similarity_to_members": "mean similarity of the MEI to those of the members",
    "score_on_members": "mean score of the MEI on the members, as a share of those of their own MEIs",
}
"""What ``members_of_neurons`` says of each neuron."""


def compare_members(
    meis: xr.Dataset,
    of_members: Mapping[int, xr.Dataset | None],
    objectives: Sequence[NeuronObjective],
    *,
    accelerator: str = "auto",
    progress_bar: bool = True,
) -> Iterator[xr.Dataset]:
    """How the MEIs of an ensemble compare with those of its members, for a few neurons after the other.

    Args:
        meis: of the ensemble, as from ``find_meis``.
        of_members: those of each member by its position, of the same neurons, found with the same settings; None where
            they have not been begun. An MEI that is not finished, or has no score, counts as missing: it has NaN.
        objectives: the score of each neuron by the ensemble, then by each member.
        accelerator: as for Lightning's ``Trainer``.
        progress_bar: whether to show one.

    Yields:
        Parts along ``neuron`` of the variables that ``find_meis(per_member=True)`` describes.
    """
    found = SideBySide([meis, *of_members.values()])
    labels = [ENSEMBLE, *map(label_of_member, of_members)]
    scores = _cross_scores(
        found, dict(zip(labels, objectives, strict=True)), accelerator=accelerator, progress_bar=progress_bar
    )
    own_scores, statuses = found.scores(), found.statuses()
    for part in found.parts(progress_bar):
        compared = _compared(found.stimuli(part), scores[part], meis)
        own = {
            "member_score": (_OF_MEMBERS, own_scores[part, 1:], "score of the member's MEI on it", None),
            "member_status": (_OF_MEMBERS, statuses[part, 1:], "how the member's ended", None),
        }
        coordinates = {"member": list(of_members), "model": labels, "mei": labels, "other_mei": labels}
        yield labelled(meis.isel(neuron=part), compared | own, coordinates)


def agreement_of(stimuli: Array) -> Array:
    """How far stimuli agree in the sign of each pixel over time: 1 if all have one sign, 0 if they cancel.

    It is the sum over frames of the magnitude of the stimuli's sum, as a share of the sum over frames and stimuli of
    their magnitudes, so that a frame counts by how strong the stimuli are in it. Of ``n`` stimuli of independent noise
    it is about the root of ``1 / n``.

    Args:
        stimuli: ``[stimuli, channels, time, height, width]``.

    Returns:
        ``[channels, height, width]``; NaN for pixels at which all stimuli are zero.
    """
    together, apart = np.abs(stimuli.sum(axis=0)).sum(axis=1), np.abs(stimuli).sum(axis=(0, 2))
    return np.divide(together, apart, out=np.full(apart.shape, np.nan), where=apart > 0)


def members_table(meis: xr.Dataset) -> pd.DataFrame:
    """What a population says of each member of an ensemble: medians over neurons.

    Args:
        meis: as from ``find_meis(per_member=True)``.

    Returns:
        A row for each member: ``neurons`` that have an MEI on it and on the ensemble, the ``similarity`` of the two;
        then scores as shares of those of the model's own MEI: the ensemble's MEI ``on_it``, and its own MEI
        ``on_ensemble`` and ``on_others``, the other members.
    """
    similarity, shares = meis["member_similarity"], meis["relative_score"]
    labels = [label_of_member(member) for member in meis["member"].values.tolist()]
    rows = {}
    for label in labels:
        to_ensemble = similarity.sel(mei=ENSEMBLE, other_mei=label).values
        others = [other for other in labels if other != label]
        rows[label] = {
            "neurons": int(np.isfinite(to_ensemble).sum()),
            "similarity": _median(to_ensemble),
            "on_it": _median(shares.sel(model=label, mei=ENSEMBLE).values),
            "on_ensemble": _median(shares.sel(model=ENSEMBLE, mei=label).values),
            "on_others": _median(shares.sel(model=others, mei=label).values),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("member")


def members_of_neurons(meis: xr.Dataset) -> dict[str, xr.DataArray]:
    """What the members say of the ensemble's MEI of each neuron, in a number each: see ``OF_NEURONS``.

    Args:
        meis: as from ``find_meis(per_member=True)``. Members without an MEI of a neuron are left out of its means.
    """
    labels = [label_of_member(member) for member in meis["member"].values.tolist()]
    values = {
        "similarity_to_members": meis["member_similarity"].sel(mei=ENSEMBLE, other_mei=labels).mean("other_mei"),
        "score_on_members": meis["relative_score"].sel(mei=ENSEMBLE, model=labels).mean("model"),
    }
    return {
        name: values[name].drop_vars("mei").assign_attrs(units="1", long_name=about)
        for name, about in OF_NEURONS.items()
    }


def _median(values: Array) -> float:
    return float(pd.Series(values.ravel()).median())


def _cross_scores(
    found: SideBySide, objectives: Mapping[str, NeuronObjective], *, accelerator: str, progress_bar: bool
) -> Array:
    """The score of each model, ensemble or member, for the MEI of each: ``[neuron, model, mei]``."""
    scores = np.full((len(found.known), len(objectives), len(found.stores)), np.nan)
    neurons, meis = np.nonzero(found.known)
    for model, (label, objective) in enumerate(objectives.items() if len(neurons) else ()):
        scores[neurons, model, meis] = predict_rows(
            objective.for_rows(neurons.tolist()),
            lambda rows: found.read(neurons[rows].tolist(), meis[rows].tolist()),
            NeuronObjective.forward,
            title=f"Scores on {label}",
            accelerator=accelerator,
            progress_bar=progress_bar,
        ).numpy()
    return scores


def _similarities(stimuli: Array) -> tuple[Array, Array]:
    """The largest cosine of each pair of a neuron's stimuli, and by how many frames each is later than the first."""
    shifts = possible_shifts(stimuli.shape[2])
    count = len(stimuli)
    similarity, later = np.full((count, count), np.nan), np.full(count, np.nan)
    for one, other in combinations(range(count), 2):
        cosines = similarity_by_shift(stimuli[one], stimuli[other])
        if np.isfinite(cosines).all():
            best = cosines.argmax()
            similarity[one, other] = similarity[other, one] = cosines[best]
            later[other] = shifts[best] if one == 0 else later[other]
    sizes = np.linalg.norm(stimuli.reshape(count, -1), axis=1)
    similarity[np.diag_indices(count)] = np.where(np.isfinite(sizes) & (sizes > 0), 1.0, np.nan)
    return similarity, later[1:]


def _compared(stimuli: Array, scores: Array, meis: xr.Dataset) -> dict[str, Any]:
    """The variables of some neurons, of which there are the stimuli ``[neuron, mei, ...]`` and scores."""
    doubles = stimuli.astype(np.float64)
    similarity, later = (np.stack(values) for values in zip(*map(_similarities, doubles), strict=True))
    agreement = np.full((len(stimuli), *stimuli.shape[2:3], *stimuli.shape[4:]), np.nan, dtype=np.float32)
    for number, frames in enumerate(later):
        if (there := np.flatnonzero(np.isfinite(frames))).size > 1:
            aligned = [moved_earlier(doubles[number, 1 + one], int(frames[one])) for one in there]
            agreement[number] = agreement_of(np.stack(aligned))
    time = meis["time"]
    frame = float(time[1] - time[0]) if time.size > 1 else 0.0
    own = np.einsum("nii->ni", scores)
    return {
        "member_stimulus": ((*_OF_MEMBERS, *STIMULUS), stimuli[:, 1:], "MEI of the member", None),
        "cross_score": (("neuron", "model", "mei"), scores, "score of each MEI on each model", None),
        "relative_score": (
            ("neuron", "model", "mei"),
            scores / np.where(own > 0, own, np.nan)[:, :, None],
            "score as a share of that of the model's own MEI",
            "1",
        ),
        "member_similarity": (
            ("neuron", "mei", "other_mei"),
            similarity,
            "largest cosine of two MEIs with a shift in time",
            "1",
        ),
        "member_shift": (
            _OF_MEMBERS,
            later * frame,
            "how much later the member's MEI is than the ensemble's",
            time.attrs.get("units", ""),
        ),
        "agreement": (("neuron", "channel", "y", "x"), agreement, "agreement of the members in sign", "1"),
    }
