"""A random member of an ensemble at each step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mei_lightning.exceptions import InvalidTypeError
from mei_lightning.models.base import RetinaModel
from mei_lightning.objectives import NeuronObjective, Objective, ScoredByObjective
from mei_lightning.perturbations.base import Robustness
from mei_lightning.perturbations.draws import integers

ObjectiveOfRows = Callable[[Sequence[int]], Objective]
"""Makes an objective for some rows, by their positions in the batch."""


class RandomMember(Robustness):
    """The gradient of each row and step is that of one member of an ensemble, each being equally likely.

    Scores are the mean response of all members all the same.

    Example:
        >>> image = ml.StimulusFormat(("grey",), height=1, width=2)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 1, bias=False)) for _ in range(2)]
        >>> for pixel, network in enumerate(networks):  # each member sees another pixel
        ...     network[1].weight.data = torch.eye(2)[pixel : pixel + 1]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, image) for network in networks])
        >>> meis = ml.find_meis(ensemble, [0], norm=2.0, robustness=[ml.RandomMember()], progress_bar=False)
        >>> print(f"{meis.score.item():.1f}")  # sqrt(2) for both pixels, where one alone has 1
        1.4
    """

    def check(self, objective: Objective, stimulus_shape: Sequence[int]) -> None:
        """Raise a TypeError unless the objective is of neurons of an ensemble."""
        model = getattr(objective, "model", None)
        # What scores the stimulus itself keeps its own model.
        of_neurons = isinstance(objective, NeuronObjective) and not isinstance(objective, ScoredByObjective)
        if not of_neurons or not isinstance(model, RetinaModel):
            raise InvalidTypeError(
                f"RandomMember() needs the objective of neurons of an Ensemble, a NeuronObjective; this is a "
                f"{type(objective).__name__}. Leave RandomMember out, or give another objective."
            )
        if len(model.members) == 1:
            raise InvalidTypeError(
                f"RandomMember(): model '{model.name}' is not an ensemble of several models. Leave RandomMember "
                "out, or give Ensemble([model_1, model_2])."
            )


def member_of_rows(keys: Tensor, members: int) -> list[int]:
    """The member of each row, from the keys ``[rows]`` of a step, on the host."""
    return integers(keys, [(0, members - 1)])[:, 0].tolist()


def scores_by_members(member_of_row: Sequence[int], objectives: Sequence[ObjectiveOfRows], stimulus: Tensor) -> Tensor:
    """Scores ``[rows]``, each by one member; rows of the same member are computed together.

    Args:
        member_of_row: which.
        objectives: makes each member's objective for some rows.
        stimulus: ``[rows, channels, time, height, width]``.
    """
    places: dict[int, list[int]] = {}
    for place, member in enumerate(member_of_row):
        places.setdefault(member, []).append(place)
    scores = [objectives[member](rows)(stimulus[rows]) for member, rows in places.items()]
    order = torch.tensor([place for rows in places.values() for place in rows]).argsort()
    return torch.cat(scores)[order.to(stimulus.device)]
