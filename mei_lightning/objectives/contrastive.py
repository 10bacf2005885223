"""Some neurons up and others down: groups told apart, and one neuron against its neighbours."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import RetinaModel, sessions_of
from mei_lightning.models.read_out import session_responses
from mei_lightning.neurons import Neuron, NeuronOrGroup, check_neuron_indices, group_label, group_of, groups_of
from mei_lightning.objectives.base import Objective
from mei_lightning.objectives.reducers import Reducer
from mei_lightning.objectives.responses import GroupResponses, NeuronObjective


def contrast(scores: Tensor, counts: Tensor | int, temperature: float) -> Tensor:
    """How far the first of K scores stands out: ``s_0 / t - log(1/K sum_k exp(s_k / t))``.

    At most ``log K``, where the others are negligible; 0 where all are equal (Burg et al. 2024, ICLR, "Most
    discriminative stimuli for functional cell type clustering").

    Args:
        scores: ``[rows, K]``; minus infinity in place of a score that a row does not have.
        counts: the number K of scores of each row, ``[rows]``, or of all.
        temperature: the difference t between scores that counts as large, in the unit of the responses.

    Returns:
        ``[rows]``.
    """
    scaled = scores / temperature
    return scaled[:, 0] - scaled.logsumexp(dim=1) + torch.as_tensor(counts, device=scores.device).log()


class ContrastiveNeuronObjective(Objective):
    """The most discriminative stimulus of a group of neurons against others, the same groups for every row.

    ``s_on / t - log(1/K sum_k exp(s_k / t))`` over the group's score and those of the other groups, K in all; a
    group's score is the mean of its neurons' reduced responses (Burg et al. 2024, ICLR, "Most discriminative stimuli
    for functional cell type clustering"). It is 0 where all groups respond alike, and at most ``log K``.

    Args:
        model: as for ``IncreaseObjective``.
        on_cluster_idc: the neurons of the group to be driven.
        off_cluster_idc_list: for each group not to be driven, its neurons.
        data_key: the session; None for a model without sessions.
        response_reducer: turns responses ``[time', ...]`` into ``[...]``.
        temperature: the difference t between scores that counts as large, in the unit of the responses.

    Raises:
        ValueError: if a group is empty, there is none to tell the first one from, or the temperature is not positive.
        IndexError: in ``forward``, if the session has no such neuron.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> objective = ml.ContrastiveNeuronObjective(model, [0], [[1], [2]], None, ml.MeanReducer())
        >>> objective(torch.tensor([7.0, 7.0, 7.0]).reshape(1, 1, 1, 1, 3))  # nothing tells neuron 0 from the others
        tensor([0.])
        >>> objective(torch.tensor([70.0, 0.0, 0.0]).reshape(1, 1, 1, 1, 3))  # log 3, the most there is
        tensor([1.0986])
    """

    def __init__(
        self,
        model: nn.Module,
        on_cluster_idc: list[int],
        off_cluster_idc_list: list[list[int]],
        data_key: str | None,
        response_reducer: Reducer,
        temperature: float = 1.6,
    ) -> None:
        super().__init__()
        self.model = model
        self.on_cluster_idc = list(on_cluster_idc)
        self.off_cluster_idc_list = [list(group) for group in off_cluster_idc_list]
        self.groups = [self.on_cluster_idc, *self.off_cluster_idc_list]
        _check_contrast([len(self.groups)], temperature)
        if not all(self.groups):
            raise InvalidValueError(f"A group has no neurons: on {on_cluster_idc}, off {off_cluster_idc_list}.")
        self.data_key = data_key
        self.response_reducer = response_reducer
        self.temperature = temperature

    def forward(self, stimulus: Tensor) -> Tensor:
        """Scores ``[rows]`` of stimuli ``[rows, channels, time, height, width]``."""
        responses = session_responses(self.model, stimulus, self.data_key)
        check_neuron_indices([i for group in self.groups for i in group], responses.shape[-1], self.data_key)
        of_neurons = self.response_reducer.forward(responses.transpose(0, 1))
        scores = torch.stack([of_neurons[:, group].mean(dim=1) for group in self.groups], dim=1)
        return contrast(scores, len(self.groups), self.temperature)


class ContrastObjective(NeuronObjective):
    """Each row's own neuron or group against other groups, which can be different ones for each row.

    ``s_0 / t - log(1/K sum_k exp(s_k / t))`` with ``s_0`` the reduced mean response of the row's own group and ``s_k``
    those of all K groups, its own among them (Burg et al. 2024, ICLR, "Most discriminative stimuli for functional cell
    type clustering"). It is 0 where all groups respond alike, and at most ``log K``.

    Args:
        model: as for ``NeuronObjective``.
        neurons: as for ``NeuronObjective``.
        response_reducer: turns responses ``[time', groups]`` into ``[groups]``.
        others: for each row the groups that are not to be driven, at least one.
        temperature: the difference t between scores that counts as large, in the unit of the responses.

    Raises:
        ValueError: if a row has no other group, there is not one list of others for each row, or the temperature is not
            positive; and as for ``NeuronObjective``.
        IndexError: as for ``NeuronObjective``.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> others = [[1], [0, 2]]  # neuron 0 against neuron 1, neuron 1 against both others
        >>> objective = ml.ContrastObjective(model, [0, 1], ml.MeanReducer(), others)
        >>> stimuli = torch.tensor([[70.0, 0.0, 0.0], [0.0, 70.0, 0.0]]).reshape(2, 1, 1, 1, 3)
        >>> objective(stimuli)  # log 2 and log 3, the most there is
        tensor([0.6931, 1.0986])
    """

    row_of_group: Tensor
    place_of_group: Tensor
    own: Tensor
    counts: Tensor

    def __init__(
        self,
        model: nn.Module,
        neurons: Sequence[NeuronOrGroup],
        response_reducer: Reducer,
        others: Sequence[Sequence[NeuronOrGroup]],
        temperature: float = 1.6,
    ) -> None:
        _check_contrast([1 + len(groups) for groups in others], temperature)
        # Before the module itself is initialised, which reads all groups out.
        self.others = [[group_of(target, sessions_of(model)) for target in groups] for groups in others]
        if len(self.others) != (rows := len(groups_of(neurons, sessions_of(model)))):
            raise InvalidValueError(
                f"others has {len(self.others)} list(s) of groups for {rows} row(s) of neurons: give one for each row."
            )
        self.temperature = temperature
        super().__init__(model, neurons, response_reducer)

    def select_rows(self, rows: Sequence[int]) -> None:
        """Become the objective of only these rows, with the others of each."""
        super().select_rows(rows)
        self.others = [self.others[row] for row in rows]

    def make_read_out(self) -> None:
        """Make what computes the responses of the rows' own groups and of the others."""
        contrasted = [[own, *others] for own, others in zip(self.groups, self.others, strict=True)]
        places = [(row, place) for row, groups in enumerate(contrasted) for place in range(len(groups))]
        row_of_group, place_of_group = zip(*places, strict=True)
        self.responses = GroupResponses(self.model, row_of_group, [group for groups in contrasted for group in groups])
        self.register_buffer("row_of_group", torch.tensor(row_of_group), persistent=False)
        self.register_buffer("place_of_group", torch.tensor(place_of_group), persistent=False)
        own = [number for number, place in enumerate(place_of_group) if place == 0]
        self._most_groups = max(place_of_group) + 1
        self.register_buffer("own", torch.tensor(own), persistent=False)
        self.register_buffer("counts", torch.tensor([float(len(groups)) for groups in contrasted]), persistent=False)

    def traces(self, stimulus: Tensor) -> Tensor:
        """Responses ``[rows, time']`` of the rows' own neurons (a group's mean)."""
        return self.responses(stimulus)[self.own]

    def traces_and_scores(self, stimulus: Tensor) -> tuple[Tensor, Tensor]:
        """Responses ``[rows, time']`` of the rows' own neurons, and scores ``[rows]``."""
        traces = self.responses(stimulus)
        reduced = self.response_reducer.forward(traces.T)
        scores = reduced.new_full((len(self.groups), self._most_groups), -torch.inf)
        scores = scores.index_put((self.row_of_group, self.place_of_group), reduced)
        return traces[self.own], contrast(scores, self.counts.to(scores), self.temperature)


class DiscriminativeObjective(ContrastObjective):
    """The most discriminative stimulus of each cell group against all the other groups.

    For group i of K, ``s_i / t - log(1/K sum_k exp(s_k / t))`` with ``s_k`` the reduced mean response of group k
    (Burg et al. 2024, ICLR, "Most discriminative stimuli for functional cell type clustering"): 0 where all groups
    respond alike, and at most ``log K``. A row depends on which groups it is told apart from, not on the others'
    stimuli.

    Args:
        model: as for ``NeuronObjective``.
        neurons: the groups, one for each row, at least two.
        response_reducer: turns responses ``[time', groups]`` into ``[groups]``.
        temperature: the difference t between scores that counts as large, in the unit of the responses.

    Raises:
        ValueError: if there are fewer than two groups, one is empty, the temperature is not positive, or a
            ``RetinaModel`` has no such session.
        IndexError: as for ``NeuronObjective``.

    Example:
        >>> model = torch.nn.Flatten()  # each pixel is a neuron, which responds with the pixel's value
        >>> objective = ml.DiscriminativeObjective(model, [[0, 1], [2]], ml.MeanReducer())
        >>> stimuli = torch.tensor([[70.0, 70.0, 0.0], [5.0, 5.0, 5.0]]).reshape(2, 1, 1, 1, 3)
        >>> objective(stimuli)  # log 2, the most of two groups; and 0, as both groups respond alike
        tensor([0.6931, 0.0000])
    """

    def __init__(
        self,
        model: nn.Module,
        neurons: Sequence[NeuronOrGroup],
        response_reducer: Reducer,
        temperature: float = 1.6,
    ) -> None:
        others = [[*neurons[:row], *neurons[row + 1 :]] for row in range(len(neurons))]
        super().__init__(model, neurons, response_reducer, others, temperature)


class OneHotObjective(ContrastObjective):
    """Each row's neuron up, its neighbours down: the logarithm of a softmax over the neurons of a session.

    ``s_i / t - log(1/K sum_k exp(s_k / t))``, with k the neuron i itself and its neighbours, K in all: up to
    ``log K`` the softmax of Bashivan, Kar and DiCarlo 2019 (Science 364, "Neural population control via deep image
    synthesis").

    Args:
        model: a ``RetinaModel``, which knows its neurons.
        neurons: as for ``NeuronObjective``; a group's own members are not among its neighbours.
        response_reducer: turns responses ``[time', neurons]`` into ``[neurons]``.
        neighbours: so many neurons of the row's sessions, those nearest by the columns ``y`` and ``x`` of
            ``model.neurons``; all others of these sessions by default.
        temperature: the difference t between scores that counts as large, in the unit of the responses.

    Raises:
        TypeError: if the model is not a ``RetinaModel``.
        ValueError: if a neuron has no neighbours, or not as many as asked for, places are needed and not known, the
            temperature is not positive, or there is no such session.
        IndexError: if there is no such neuron.

    Example:
        >>> facts = ml.StimulusFormat(("luminance",), height=1, width=3)
        >>> model = ml.RetinaModel(torch.nn.Flatten(), facts)  # each pixel is a neuron
        >>> objective = ml.OneHotObjective(model, [0], ml.MeanReducer())
        >>> objective(torch.tensor([70.0, 0.0, 0.0]).reshape(1, 1, 1, 1, 3))  # log 3, the most of three neurons
        tensor([1.0986])
    """

    def __init__(
        self,
        model: nn.Module,
        neurons: Sequence[NeuronOrGroup],
        response_reducer: Reducer,
        neighbours: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not isinstance(model, RetinaModel):
            raise InvalidTypeError(
                f"OneHotObjective needs to know the neurons of the {type(model).__name__}: wrap it in "
                "RetinaModel(network, stimulus_format, neurons_per_session)."
            )
        table = model.neurons
        self.neighbours = neighbours
        others = [_neighbours(model, table, group_of(target, sessions_of(model)), neighbours) for target in neurons]
        super().__init__(model, neurons, response_reducer, others, temperature)


def _neighbours(model: RetinaModel, table: pd.DataFrame, group: Sequence[Neuron], count: int | None) -> list[Neuron]:
    for session in {neuron.session for neuron in group}:
        model.check_session(session)
    table = table[table["session"].isin({neuron.session or "" for neuron in group})]
    own = [(neuron.session or "", neuron.index) for neuron in group]
    is_own = [pair in own for pair in zip(table["session"], table["index"], strict=True)]
    others = table[[not mine for mine in is_own]]
    if count is not None:
        if not {"y", "x"} <= set(table.columns):
            raise InvalidValueError(
                f"neighbours={count}: model '{model.name}' does not know where its neurons are (columns y "
                "and x of model.neurons). Leave neighbours out for all neurons of the session."
            )
        if not 1 <= count <= len(others):
            raise InvalidValueError(f"neighbours={count} of {group_label(group)} is not between 1 and {len(others)}.")
        places = table[["y", "x"]]
        distance = (places.loc[others.index] - places[is_own].mean()).pow(2).sum(axis=1)
        others = others.loc[distance.sort_values(kind="stable").index[:count]]
    return [
        Neuron(session or None, int(index)) for session, index in zip(others["session"], others["index"], strict=True)
    ]


def _check_contrast(counts: Sequence[int], temperature: float) -> None:
    if not temperature > 0:
        raise InvalidValueError(f"temperature={temperature} must be positive.")
    if counts and min(counts) < 2:
        raise InvalidValueError("There is only one group of neurons: a contrast needs others to tell it from.")
