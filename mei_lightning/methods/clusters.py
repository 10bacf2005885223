"""Functional clusters of neurons by most discriminative stimuli."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from mei_lightning.acceleration.memory import most_rows
from mei_lightning.acceleration.prepare import prepare
from mei_lightning.acceleration.rounding import full_precision
from mei_lightning.constraints import ChannelRanges, Constraint, Mask
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.methods.fitting import fit_rows
from mei_lightning.models.base import frozen
from mei_lightning.models.loading import load_model
from mei_lightning.neurons import Neuron
from mei_lightning.objectives import ContrastObjective, GroupResponses, Reducer
from mei_lightning.problem import MEIProblem, Neurons
from mei_lightning.settings import MEISettings
from mei_lightning.starting_points.seeded_noise import initial_stimulus

Labels = NDArray[np.int64]

_MOST_REASSIGNMENTS = 10
_MOST_ROUNDS = 30
_SPLITS_TRIED = 3


@in_usual_modes
def cluster_by_stimulus(
    model: nn.Module | str,
    neurons: Neurons,
    clusters: int = 8,
    *,
    temperature: float = 1.6,
    distinct: float = 0.5,
    steps: int = 20,
    time_steps: int | None = None,
    norm: float | None = None,
    rms: float | None = None,
    ranges: ChannelRanges | None = None,
    mask: Mask | None = None,
    reducer: Reducer | None = None,
    constraint: Constraint | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Cluster neurons by the stimuli that tell them apart.

    From random groups, two steps alternate until no neuron moves: each group's most discriminative stimulus is
    optimised (``DiscriminativeObjective``), and each neuron goes to the group whose stimulus drives it most (Burg et
    al. 2024, ICLR, "Most discriminative stimuli for functional cell type clustering"). Then groups that are not
    distinct are merged, and groups that fall into two distinct ones are split, until there are none.

    How distinct two groups are is the mean contrast of each one's stimulus between the two, as a share of log 2, its
    largest value: 0 if both respond alike, 1 if each stimulus drives only its own group.

    Neurons have to look at the same place, or they are clustered by where they look: use a model with centred readouts.

    Args:
        model: as for ``find_meis``.
        neurons: as for ``find_meis``; members of a group stay together.
        clusters: the number of random groups to begin with; splits and merges decide how many there are in the end.
        temperature: the difference between responses that counts as large, in the model's units.
        distinct: how distinct two groups have to be, between 0 and 1.
        steps: the steps of each optimisation, which goes on from the stimulus of the one before.
        time_steps: frames of the stimulus; by default 20 more than the receptive field loses, or 1 for still images.
        norm: L2 norm of each stimulus in the model's units; by default the paper's root mean square.
        rms: root mean square of each stimulus, in place of its norm, as for ``find_meis``.
        ranges: one ``(low, high)`` for each channel in the model's units; None for no limits.
        mask: which pixels may vary, as for ``find_meis``.
        reducer: how the response over time becomes one number; by default its mean over all response frames.
        constraint: a constraint in place of norm, rms, ranges and mask.
        seed: determines the random groups and the noise that stimuli begin with.

    Returns:
        A dataset of ``cluster`` ``[neuron]``; ``stimulus`` ``[cluster_number, channel, time, y, x]``; ``response``
        ``[neuron, cluster_number]``, each neuron's to each stimulus; ``confusion`` ``[cluster_number, driven]``, the
        mean response of each cluster (``driven``) to each cluster's stimulus.

    Raises:
        ValueError: if an argument does not fit the model, or clusters, distinct or temperature is out of range.
        IndexError: if a session has no such neuron.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 4, bias=False), torch.nn.ReLU())
        >>> network[1].weight.data = torch.eye(2)[[0, 1, 0, 1]]  # neurons 0 and 2 see one pixel, 1 and 3 the other
        >>> model = ml.RetinaModel(network, ml.StimulusFormat(("grey",), height=1, width=2))
        >>> found = ml.cluster_by_stimulus(model, [0, 1, 2, 3], clusters=2, norm=10.0)
        >>> (found.cluster.values[:, None] == found.cluster.values).astype(int)  # which neurons are together
        array([[1, 0, 1, 0],
               [0, 1, 0, 1],
               [1, 0, 1, 0],
               [0, 1, 0, 1]])
    """
    if not 0 < distinct < 1:
        raise InvalidValueError(f"distinct={distinct} has to be between 0 and 1.")
    if not temperature > 0:
        raise InvalidValueError(f"temperature={temperature} must be positive.")
    with frozen(model) if isinstance(model, nn.Module) else nullcontext():
        settings = MEISettings(
            time_steps=time_steps,
            norm=norm,
            rms=rms,
            ranges=ranges,
            mask=mask,
            reducer=reducer,
            constraint=constraint,
            seed=seed,
        )
        problem = MEIProblem(load_model(model).to("cpu"), neurons, settings)
        if not 2 <= clusters <= len(problem.groups):
            raise InvalidValueError(f"clusters={clusters} has to be between 2 and the {len(problem.groups)} neurons.")
        search = _Search(problem, temperature, steps, np.random.default_rng(seed))
        members = search.random_groups(np.arange(len(problem.groups)), clusters)
        stimuli = search.noise(clusters)
        for _ in range(_MOST_ROUNDS):
            members, stimuli = search.settle(members, stimuli)
            changed = search.merge(members, stimuli, distinct) or search.split(members, stimuli, distinct)
            if changed is None:
                break
            members, stimuli = changed
        else:
            members, stimuli = search.settle(members, stimuli)
        responses = search.responses(stimuli, GroupResponses(problem.model, [0] * len(problem.groups), problem.groups))
    labels = np.empty(len(problem.groups), dtype=np.int64)
    for number, group in enumerate(members):
        labels[group] = number
    confusion = np.stack([responses[group].mean(axis=0) for group in members], axis=1)
    description = problem.description.drop_vars(["response_time", "restart"])
    return description.assign(
        cluster=("neuron", labels),
        stimulus=(("cluster_number", "channel", "time", "y", "x"), stimuli.numpy()),
        response=(("neuron", "cluster_number"), responses),
        confusion=(("cluster_number", "driven"), confusion),
    )


class _Search:
    """The steps of the clustering; groups are arrays of the numbers of neurons."""

    def __init__(self, problem: MEIProblem, temperature: float, steps: int, generator: np.random.Generator) -> None:
        self.units: list[tuple[Neuron, ...]] = list(problem.groups)
        self.problem = problem
        self.temperature = temperature
        self.steps = steps
        self.generator = generator
        self.shape = problem.shape
        self.model = prepare(problem.model, (1, *self.shape))
        self.read_out = GroupResponses(self.model, [0] * len(self.units), self.units)

    def random_groups(self, numbers: Labels, count: int) -> list[Labels]:
        return np.array_split(self.generator.permutation(numbers), count)

    def noise(self, count: int) -> Tensor:
        seeds = self.generator.integers(2**62, size=count).tolist()
        return self.problem.space.project(initial_stimulus(seeds, self.shape).to(self.problem.dtype)).detach()

    @torch.no_grad()
    @full_precision()
    def responses(self, stimuli: Tensor, read_out: GroupResponses | None = None) -> NDArray[np.float32]:
        """The reduced response of each neuron to each stimulus, ``[neurons, stimuli]``, by the prepared model."""
        reduce, read_out = self.problem.reducer.forward, read_out or self.read_out
        return torch.stack([reduce(read_out(stimulus).T) for stimulus in stimuli.split(1)], dim=1).numpy()

    def discriminate(self, members: Sequence[Labels], others: Sequence[Sequence[Labels]], stimuli: Tensor) -> Tensor:
        """The stimuli that tell groups from others, going on from some stimuli."""
        objective = ContrastObjective(
            self.model,
            [self._neurons(group) for group in members],
            self.problem.reducer,
            [[self._neurons(other) for other in groups] for groups in others],
            self.temperature,
        )
        return fit_rows(
            objective,
            lambda row: stimuli[row],
            len(members),
            at_a_time=most_rows(torch.device("cpu"), in_blocks=False),
            constraint=self.problem.space.constraint,
            max_steps=self.steps,
        )

    def settle(self, members: list[Labels], stimuli: Tensor) -> tuple[list[Labels], Tensor]:
        """Optimise stimuli and reassign neurons in turns, until no neuron moves; groups without neurons vanish."""
        for _ in range(_MOST_REASSIGNMENTS):
            if len(members) < 2:
                break
            others = [[*members[:i], *members[i + 1 :]] for i in range(len(members))]
            stimuli = self.discriminate(members, others, stimuli)
            winner = self.responses(stimuli).argmax(axis=1)
            moved = [np.flatnonzero(winner == number) for number in range(len(members))]
            stays = _same(moved, members)
            left = [number for number, group in enumerate(moved) if len(group)]
            members, stimuli = [moved[number] for number in left], stimuli[left]
            if stays:
                break
        return members, stimuli

    def merge(self, members: list[Labels], stimuli: Tensor, distinct: float) -> tuple[list[Labels], Tensor] | None:
        """Join the two groups that are least distinct; None if all are distinct enough."""
        responses = self.responses(stimuli)
        means = np.stack([responses[group].mean(axis=0) for group in members])
        pairs = {
            (one, other): self._distinctness(means[[one, other]][:, [one, other]])
            for one in range(len(members))
            for other in range(one)
        }
        if not pairs or min(pairs.values()) >= distinct:
            return None
        one, other = min(pairs, key=lambda pair: pairs[pair])
        kept = [number for number in range(len(members)) if number != one]
        joined = [np.concatenate([members[one], members[k]]) if k == other else members[k] for k in kept]
        return joined, stimuli[kept]

    def split(self, members: list[Labels], stimuli: Tensor, distinct: float) -> tuple[list[Labels], Tensor] | None:
        """Split each group that falls into two distinct ones; None if there is none."""
        attempts = [number for number, group in enumerate(members) if len(group) > 1 for _ in range(_SPLITS_TRIED)]
        if not attempts:
            return None
        best: dict[int, tuple[float, list[Labels], Tensor]] = {}
        halves, of_halves = self._halves([members[number] for number in attempts])
        responses = self.responses(of_halves.flatten(0, 1)).reshape(len(self.units), -1, 2)
        for attempt, (number, pair) in enumerate(zip(attempts, halves, strict=True)):
            if all(len(half) for half in pair):
                how = self._distinctness(np.stack([responses[half, attempt].mean(axis=0) for half in pair]))
                if how >= distinct and how > best.get(number, (0.0,))[0]:
                    best[number] = how, pair, of_halves[attempt]
        if not best:
            return None
        unsplit = [number for number in range(len(members)) if number not in best]
        groups = [members[number] for number in unsplit] + [half for _, pair, _ in best.values() for half in pair]
        return groups, torch.cat([stimuli[unsplit], *(of_pair for _, _, of_pair in best.values())])

    def _halves(self, groups: list[Labels]) -> tuple[list[list[Labels]], Tensor]:
        """What two groups each group falls into from random halves, and their stimuli, ``[groups, 2, ...]``.

        One of two is empty where a group does not fall into two.
        """
        halves = [self.random_groups(group, 2) for group in groups]
        stimuli = self.noise(2 * len(groups)).unflatten(0, (-1, 2))
        going_on = list(range(len(groups)))
        for _ in range(_MOST_REASSIGNMENTS):
            if not going_on:
                break
            both = [half for number in going_on for half in halves[number]]
            others = [[half] for number in going_on for half in halves[number][::-1]]
            found = self.discriminate(both, others, stimuli[going_on].flatten(0, 1)).unflatten(0, (-1, 2))
            stimuli[going_on] = found
            responses = self.responses(found.flatten(0, 1)).reshape(len(self.units), -1, 2)
            moving = []
            for place, number in enumerate(going_on):
                winner = responses[groups[number], place].argmax(axis=1)
                new = [groups[number][winner == half] for half in range(2)]
                stays = _same(new, halves[number])
                halves[number] = new
                if not stays and all(len(half) for half in new):
                    moving.append(number)
            going_on = moving
        return halves, stimuli

    def _distinctness(self, means: NDArray[np.float32]) -> float:
        """How distinct two groups are, from the mean responses ``[groups, stimuli]`` to their stimuli."""
        own = np.diag(means) / self.temperature
        contrasts = own - np.logaddexp.reduce(means / self.temperature, axis=0) + np.log(2)
        return float(contrasts.mean() / np.log(2))

    def _neurons(self, group: Labels) -> list[Neuron]:
        return [neuron for number in group for neuron in self.units[number]]


def _same(groups: Sequence[Labels], others: Sequence[Labels]) -> bool:
    return all(np.array_equal(np.sort(one), np.sort(other)) for one, other in zip(groups, others, strict=True))
