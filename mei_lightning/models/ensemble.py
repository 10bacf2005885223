"""Several models of the same neurons as one."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import pandas as pd
import torch
from torch import Tensor, nn

from mei_lightning.arguments import in_short, whole_numbers
from mei_lightning.exceptions import InvalidTypeError, InvalidValueError
from mei_lightning.models.base import RetinaModel
from mei_lightning.models.read_out import MeanReadOut
from mei_lightning.neurons import Neuron


class Ensemble(RetinaModel):
    """The mean response of several models of the same neurons, e.g. trained from different seeds.

    Args:
        members: models with the same stimulus format, the same sessions and the same number of neurons in each.
        name: what results and logs call the ensemble.

    Raises:
        ValueError: if there are no members, or two members differ in stimulus format or sessions.
        TypeError: if a member is not a :class:`~mei_lightning.models.base.RetinaModel`.

    Example:
        >>> facts = ml.StimulusFormat(("luminance",), height=1, width=2)
        >>> linear = ml.RetinaModel(torch.nn.Flatten(), facts)  # each pixel is a neuron
        >>> rectified = ml.RetinaModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU()), facts)
        >>> ensemble = ml.Ensemble([linear, rectified])
        >>> ensemble(torch.tensor([-2.0, 4.0]).reshape(1, 1, 1, 1, 2))
        tensor([[[-1.,  4.]]])
    """

    def __init__(self, members: Sequence[RetinaModel], name: str = "Ensemble") -> None:
        if isinstance(members, RetinaModel) or not isinstance(members, Iterable):
            raise InvalidTypeError(
                f"Ensemble({in_short(members)}) is not a list of models: give Ensemble([model_1, model_2])."
            )
        members = list(members)
        if not members:
            raise InvalidValueError("Ensemble([]) has no members; give at least one model.")
        for index, member in enumerate(members):
            if not isinstance(member, RetinaModel):
                raise InvalidTypeError(
                    f"Member {index} of the ensemble is a {type(member).__name__}, not a RetinaModel. Wrap it first: "
                    "load_model(network) for an openretina model, otherwise "
                    "RetinaModel(network, StimulusFormat(...), neurons_per_session)."
                )
            _check_same_neurons(members[0], member, index)
        first = members[0]
        neurons = first.neurons_per_session if first.has_sessions else first.neurons_per_session[""]
        super().__init__(nn.ModuleList(members), first.stimulus_format, neurons, name)

    @property
    def members(self) -> list[RetinaModel]:
        """The models whose responses are averaged."""
        return list(self.network)  # type: ignore[call-overload]

    @property
    def neurons(self) -> pd.DataFrame:
        """A row for each neuron, as the first member has it."""
        return self.members[0].neurons

    def forward(self, stimulus: Tensor, data_key: str | None = None) -> Tensor:
        """Mean responses ``[batch, time', neurons]`` to stimuli ``[batch, channels, time, height, width]``.

        Raises:
            ValueError: if the session is missing or unknown.
        """
        self.check_session(data_key)
        return torch.stack([member(stimulus, data_key=data_key) for member in self.members]).mean(dim=0)

    def _read_out(self, rows: Sequence[int] | None, neurons: Sequence[Neuron]) -> nn.Module:
        return MeanReadOut([member.read_out(rows, neurons) for member in self.members])


def select_members(model: RetinaModel, members: Sequence[int]) -> Ensemble:
    """The mean response of some members of an ensemble.

    Args:
        model: an ``Ensemble``, or openretina's ensemble as ``load_model`` returns it.
        members: their positions, from 0.

    Returns:
        A model of the same sessions and neurons, even if there is one member only.

    Raises:
        TypeError: if the model is not an ensemble, or a position not a whole number.
        ValueError: if no member is named, one twice, or one that the ensemble does not have.

    Example:
        >>> facts = ml.StimulusFormat(("luminance",), height=4, width=3)
        >>> networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)) for _ in range(3)]
        >>> ensemble = ml.Ensemble([ml.RetinaModel(network, facts) for network in networks])
        >>> part = ml.select_members(ensemble, [0, 2])
        >>> part.name, len(part.members)
        ('Ensemble (members 0, 2)', 2)
    """
    members = whole_numbers("members", members)
    existing = model.members
    if len(existing) == 1:
        raise InvalidTypeError(
            f"Model '{model.name}' is not an ensemble of several models, so it has no members to choose from: "
            f"{members}."
        )
    if not members or len(set(members)) != len(members) or not all(0 <= member < len(existing) for member in members):
        raise InvalidValueError(
            f"members={list(members)}: name some of the members 0 to {len(existing) - 1}, each once."
        )
    chosen = ", ".join(str(member) for member in members)
    return Ensemble([existing[member] for member in members], name=f"{model.name} (members {chosen})")


def _check_same_neurons(first: RetinaModel, member: RetinaModel, index: int) -> None:
    who = f"Member {index} ('{member.name}') of the ensemble differs from member 0 ('{first.name}')"
    for field in fields(first.stimulus_format):
        expected, found = getattr(first.stimulus_format, field.name), getattr(member.stimulus_format, field.name)
        if expected != found:
            raise InvalidValueError(f"{who} in its stimulus: {field.name} is {found}, not {expected}.")
    expected_sessions, found_sessions = first.neurons_per_session, member.neurons_per_session
    for session in expected_sessions | found_sessions:
        expected_count, found_count = expected_sessions.get(session), found_sessions.get(session)
        if expected_count != found_count:
            found_text = "is missing" if found_count is None else f"has {found_count} neurons"
            expected_text = "does not have that session" if expected_count is None else f"has {expected_count}"
            raise InvalidValueError(f"{who}: session '{session}' {found_text} there, member 0 {expected_text}.")
