"""What becomes of scores under the perturbations of a step."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from mei_lightning.objectives import Objective
from mei_lightning.perturbations.base import Perturbation, Robustness
from mei_lightning.perturbations.draws import keys_of
from mei_lightning.perturbations.members import ObjectiveOfRows, RandomMember, member_of_rows, scores_by_members


def perturbed_scores(
    perturbations: Sequence[Robustness],
    stimulus: Tensor,
    objective: Objective,
    members: Callable[[], Sequence[ObjectiveOfRows]],
    seeds: Tensor,
    steps: Tensor,
) -> Tensor:
    """Scores ``[rows]`` of what becomes of stimuli at this step.

    Args:
        perturbations: one after the other.
        stimulus: ``[rows, channels, time, height, width]``.
        objective: of these rows.
        members: makes, for each member of the model, what makes its objective for some rows.
        seeds: of the rows' perturbations, ``[rows]``, on the host, which has to know the members.
        steps: that the rows have taken, likewise.
    """
    score: Callable[[Tensor], Tensor] = objective
    for number, part in enumerate(perturbations):
        keys = keys_of(seeds, steps, number)
        if isinstance(part, Perturbation):
            # What the host sends to a device does not make it wait.
            stimulus = part(stimulus, keys.to(stimulus.device, non_blocking=True))
        elif isinstance(part, RandomMember):
            objectives = members()
            score = partial(scores_by_members, member_of_rows(keys, len(objectives)), objectives)
    return score(stimulus)
