"""Several stimuli of the same neuron, as different as possible, that all excite it well."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mei_lightning.exceptions import InvalidValueError
from mei_lightning.objectives.base import Objective
from mei_lightning.objectives.responses import NeuronObjective

_STEEPNESS = 3.0
_MORE_THAN_ANY_DIFFERENCE = 10.0


class DiverseObjective(Objective):
    """How different each stimulus is from the most similar one of the same neuron, if it excites the neuron enough.

    ``d - 3 max(0, least - s / best)``, with ``d`` one minus the largest cosine similarity to the neuron's other
    stimuli, and 10 less where ``s / best`` is below ``least``, so that no stimulus with too small a response scores
    higher than one with a sufficient response. After the diverse exciting inputs of Ding et al. 2023 (bioRxiv,
    "Bipartite invariance in mouse primary visual cortex"); the distance to the nearest is from Cadena et al. 2018
    (ECCV, "Diverse feature visualizations reveal invariances in early layers of deep neural networks").

    Rows of the same neuron depend on each other; rows of different neurons do not. A row's gradient is that of its own
    score.

    Args:
        objective: the response, one row for each stimulus.
        neuron_of_row: for each row the number of its neuron.
        best: for each row the highest response of its neuron.
        least: the share of it that every stimulus has to reach.

    Raises:
        ValueError: if a ``best`` response is not positive, ``least`` is not between 0 and 1, or the numbers of rows
            differ.
    """

    def __init__(
        self, objective: NeuronObjective, neuron_of_row: Sequence[int], best: Sequence[float], least: float = 0.85
    ) -> None:
        super().__init__()
        if not len(objective.groups) == len(neuron_of_row) == len(best):
            raise InvalidValueError(
                f"DiverseObjective needs a neuron and a best response for each of {len(objective.groups)} rows."
            )
        if not 0 < least <= 1:
            raise InvalidValueError(f"least={least} has to be a share of the best response, above 0 and at most 1.")
        if not all(response > 0 for response in best):
            raise InvalidValueError(f"A share of the best response needs it to be positive, not {min(best)}.")
        self.objective = objective
        self.neuron_of_row = list(neuron_of_row)
        self.best = list(best)
        self.least = least

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        share = self.objective(stimulus) / stimulus.new_tensor(self.best)
        missing = (self.least - share).relu()
        return self._differences(stimulus) - _STEEPNESS * missing - _MORE_THAN_ANY_DIFFERENCE * (missing > 0)

    def _differences(self, stimulus: Tensor) -> Tensor:
        directions = F.normalize(stimulus.flatten(1), dim=1)
        differences: list[Tensor] = []
        for row, neuron in enumerate(self.neuron_of_row):
            others = [i for i, other in enumerate(self.neuron_of_row) if other == neuron and i != row]
            # One that is left alone is as different as can be.
            similarity = (directions[others].detach() @ directions[row]).amax() if others else -directions[row].norm()
            differences.append(1 - similarity)
        return torch.stack(differences)

    def for_rows(self, rows: Sequence[int]) -> "DiverseObjective":
        """The objective of only these rows; stimuli that have left do not count any more."""
        return DiverseObjective(
            self.objective.for_rows(rows),
            [self.neuron_of_row[row] for row in rows],
            [self.best[row] for row in rows],
            self.least,
        )
