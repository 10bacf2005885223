"""Diverse exciting inputs: several stimuli for each neuron, as different as possible."""

from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from mei_lightning.acceleration.memory import rows_that_fit
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.methods.fitting import Beginning, dataset, fit_rows, from_meis
from mei_lightning.objectives import DiverseObjective
from mei_lightning.optimization.power_method import AdaptivePowerMethod
from mei_lightning.problem import Neurons

# Steps are taken on a prepared copy of the model, whose responses differ by less.
_MARGIN = 1e-3


@in_usual_modes
def find_diverse_stimuli(
    model: nn.Module | str,
    neurons: Neurons,
    number: int = 4,
    least: float = 0.85,
    max_steps: int = 150,
    **options: Any,
) -> xr.Dataset:
    """Find several stimuli for each neuron that are as different as possible, and all excite it well.

    Each starts from the MEI and as much noise, and maximises its distance to the most similar one of the same neuron's
    while the response has to stay high (see ``DiverseObjective``; after Ding et al. 2023, bioRxiv, "Bipartite
    invariance in mouse primary visual cortex"). A stimulus that never reached the response that it has to is the MEI
    itself. Stimuli of the same neuron depend on each other; those of different neurons do not.

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``.
        number: how many stimuli of each neuron.
        least: the share of the MEI's response that each of them reaches.
        max_steps: the steps that each takes.
        options: as for ``find_meis``, whose MEIs they start from: time_steps, norm, rms, ranges, mask, reducer,
            constraint, search, seed, directory, progress_bar.

    Returns:
        A dataset over ``neuron, number, channel, time, y, x`` of ``stimulus``; ``score``, the response to
        each; ``share``, the score as a share of the MEI's; ``similarity`` ``[neuron, number, other]``, the cosine
        between stimuli.

    Raises:
        ValueError: if an argument does not fit, or an MEI's response is not positive.
        IndexError: if a session has no such neuron.
        TypeError: if an option is none of these.

    Example:
        >>> on_off = [("session_1", 4)]
        >>> found = ml.find_diverse_stimuli(
        ...     "simulated", on_off, number=2, least=0.8, max_steps=20, search="quick", progress_bar=False
        ... )
        >>> found.stimulus.sizes["number"], bool((found.share >= 0.8).all())  # of the response to the MEI
        (2, True)
        >>> bool(found.similarity.sel(number=0).values[0, 1] < 0.9)
        True
    """
    if number < 2:
        raise InvalidValueError(f"number={number}: stimuli differ from each other if there are at least 2.")
    if not 0 < least <= 1:
        raise InvalidValueError(f"least={least} has to be a share of the MEI's response, above 0 and at most 1.")
    with from_meis(model, neurons, **options) as begun:
        stimuli = diverse_stimuli(begun, number, least, max_steps)
        of_row = [neuron for neuron in range(len(begun.problem.groups)) for _ in range(number)]
        scores = begun.responses(of_row, stimuli).view(-1, number).numpy()
    directions = F.normalize(stimuli.flatten(1), dim=1).view(len(begun.problem.groups), number, -1)
    variables = {
        "stimulus": begun.labelled("number", stimuli),
        "score": (("neuron", "number"), scores),
        "share": (("neuron", "number"), scores / begun.meis["score"].values[:, None]),
        "similarity": (("neuron", "number", "other"), (directions @ directions.mT).numpy()),
    }
    return dataset(begun, variables, least_share=least)


def diverse_stimuli(begun: Beginning, number: int, least: float, max_steps: int) -> Tensor:
    """Diverse stimuli ``[neurons * number, channels, time, height, width]``, those of a neuron one after the other."""
    of_row = [neuron for neuron in range(len(begun.problem.groups)) for _ in range(number)]
    best = begun.meis["score"].values[of_row]
    meis = begun.stimuli
    objective = DiverseObjective(begun.stepping().for_rows(of_row), of_row, best.tolist(), min(least + _MARGIN, 1.0))

    def initial(row: int) -> Tensor:
        mei, noise = meis[of_row[row]], begun.noise(of_row[row], row % number)
        return mei + noise * (mei.norm() / noise.norm())

    stimuli = fit_rows(
        objective,
        initial,
        len(of_row),
        at_a_time=rows_that_fit(begun.objective, meis[:1], torch.device("cpu")),
        constraint=begun.constraint,
        max_steps=max_steps,
        optimizer=partial(AdaptivePowerMethod, start=0.1, smallest=0.002),
        together=number,
        converge=False,
    )
    failed = torch.from_numpy(begun.responses(of_row, stimuli).numpy() < np.float32(least) * best)
    stimuli[failed] = meis[of_row][failed]
    return stimuli
