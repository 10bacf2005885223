"""Settings bound to a model and its neurons: what is to be maximised, where, and from which starting points."""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import pandas as pd
import torch
import xarray as xr
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from mei_lightning import __version__
from mei_lightning.arguments import whole_numbers
from mei_lightning.constraints import ChannelRanges, NormAndRange, free_entries
from mei_lightning.devices import in_usual_modes
from mei_lightning.exceptions import InvalidValueError
from mei_lightning.models.base import RetinaModel, sessions_of, weights_digest
from mei_lightning.models.ensemble import select_members
from mei_lightning.models.loading import load_model
from mei_lightning.models.precision import precision_of_stimuli
from mei_lightning.models.trial import try_model
from mei_lightning.neurons import Neuron, NeuronLike, NeuronOrGroup, check_neuron_indices, group_label, groups_of
from mei_lightning.objectives import NeuronObjective, Reducer, neuron_objective
from mei_lightning.optimization.optimizers import RowOptimizer, begins_row_by_row
from mei_lightning.optimization.search import (
    SEARCHES,
    SEARCHES_OF_IMAGES,
    SEARCHES_WITHOUT_SHIFTS,
    MultiStart,
    Search,
)
from mei_lightning.optimization.stimulus_space import StimulusSpace
from mei_lightning.parameterizations import Parameterization
from mei_lightning.results.configuration import Configuration, Setting, as_data
from mei_lightning.results.dataset import describe_results
from mei_lightning.selection import NeuronSelection
from mei_lightning.settings import MEISettings
from mei_lightning.starting_points import InitialStimuli, WhiteNoise
from mei_lightning.starting_points.of_neurons import StartsOfNeurons
from mei_lightning.starting_points.seeded_noise import default_time_steps
from mei_lightning.wording import first_few

Neurons = Literal["all"] | NeuronSelection | NeuronLike | Sequence[NeuronOrGroup]


class MEIProblem:
    """What is to be found for which neurons of a model; it says all that determines the results.

    Args:
        model: a model or its name, as for ``find_meis``.
        neurons: as for ``find_meis``.
        settings: of the run.
        members: of an ensemble, those whose mean is maximised; by default all.
        allow_unpickling: consent to loading an openretina checkpoint, which can run code hidden in the file.

    Attributes:
        model: the retina model, or the part of the ensemble; ``whole`` is all of it.
        groups: the neurons of each stimulus; ``labels`` are their names.
        time_steps: frames of a stimulus; ``shape`` is ``(channels, time, height, width)``.
        objective: the score of each of them, by the model itself.
        space: where stimuli may live, and what they are made from.
        search: how the best stimulus of each neuron is searched for.
        starts: makes their initial stimuli.
        description: coordinates and attributes of the results.
        configuration: all settings that determine the results, as JSON can hold them.

    Raises:
        ValueError: if a neuron, session, window, norm or range does not fit the model.
        IndexError: if a session has no such neuron.
        TypeError: if an argument is of a wrong type.

    Example:
        >>> neurons = [("session_1", 0), [("session_1", 1), ("session_2", 1)]]  # one, and two that share a stimulus
        >>> problem = ml.MEIProblem("simulated", neurons, ml.MEISettings(norm=10.0, search="quick"))
        >>> problem.labels, problem.shape
        (['session_1/0', 'session_1/1+session_2/1'], (2, 40, 18, 16))
        >>> starts = problem.starts(0)  # initial stimuli of the first neuron: a row for each start
        >>> starts.shape[0], problem.values([0, 0], starts).shape
        (2, torch.Size([2]))
    """

    @in_usual_modes
    def __init__(
        self,
        model: nn.Module | str,
        neurons: Neurons,
        settings: MEISettings,
        *,
        members: Sequence[int] | None = None,
        allow_unpickling: bool = False,
    ) -> None:
        self.settings = settings
        self.members = None if members is None else whole_numbers("members", members)
        self.whole = load_model(model, allow_unpickling=allow_unpickling)
        self.model = self.whole if self.members is None else select_members(self.whole, self.members)
        self.groups = _groups(self.model, neurons)
        self.labels = [group_label(group) for group in self.groups]
        self.time_steps = _time_steps(self.model, settings.time_steps)
        self.shape = tuple(self.model.stimulus_shape(self.time_steps)[1:])
        self.space = _space(settings, self.model, self.time_steps)
        self.space.check_shape((1, *self.shape))
        self.search = _search(settings, self.model, self.space.parameterization)
        self.objective = neuron_objective(settings.objective, self.model, self.groups, settings.reducer)
        self.reducer = self.objective.response_reducer
        self.weights_digest = weights_digest(self.model)
        self.check_starting_points()
        sessions = dict.fromkeys(neuron.session for group in self.groups for neuron in group)
        # Before the model is asked anything.
        _check_reducer(self.reducer, self.time_steps - self.model.stimulus_format.frames_lost)
        try_model(self.model, self.time_steps, list(sessions))

    @cached_property
    def starts(self) -> StartsOfNeurons:
        """Makes the initial stimuli of a neuron from its number."""
        assert self.space.constraint is not None
        return StartsOfNeurons(
            self.initial,
            self.groups,
            self.objective,
            self.shape,
            self.space.constraint,
            self.dtype,
            self.search.starts,
            self.settings.seed,
        )

    @property
    def initial(self) -> Any:
        """The kind of initial stimuli."""
        return self.settings.initial or WhiteNoise()

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of stimuli, that of the model's weights, if it has any, but at least single precision."""
        return precision_of_stimuli(self.model)

    @property
    def shifts(self) -> list[int]:
        """Frames by which the best stimulus after the trial is moved to later times, to be optimised as well."""
        return [frames for share in self.search.shifts if (frames := round(share * self.time_steps))]

    @property
    def frame_shifts(self) -> list[int]:
        """Frames by which it is moved at last."""
        return list(self.search.frame_shifts) if self.shifts else []

    @property
    def frames_moved(self) -> list[int]:
        """By how many frames, altogether, the stimulus of a result may have been moved since it was a start."""
        return sorted({shift + at_last for shift in (0, *self.shifts) for at_last in (0, *self.frame_shifts)})

    def values(self, numbers: Sequence[int], stimuli: Tensor) -> Tensor:
        """Scores minus costs, ``[rows]``, of a stimulus each for neurons by their numbers, by the model itself."""
        scores: Tensor = self.objective.for_rows(numbers).to(stimuli.device)(stimuli)
        regularizer = self.settings.regularizer
        return scores if regularizer is None else scores - regularizer(stimuli)

    @property
    def norm(self) -> float:
        """The L2 norm of each stimulus, where the settings say norm and ranges and no other constraint."""
        constraint = self.space.constraint
        assert isinstance(constraint, NormAndRange)
        assert constraint.norm is not None
        return constraint.norm

    def resized(self, size: Mapping[str, Any]) -> "MEIProblem":
        """The same with another ``norm``, or ``rms``, by the name of that setting.

        Raises:
            ValueError: if stimuli cannot have it within their ranges.
        """
        other = self._changed(**size)
        other.space = _space(other.settings, self.model, self.time_steps)
        other.space.check_shape((1, *self.shape))
        return other

    def reseeded(self, seed: int) -> "MEIProblem":
        """The same from other starting points, with this ``seed``."""
        return self._changed(seed=seed)

    def of_member(self, member: int) -> "MEIProblem":
        """The same for one member of the ensemble, by its position in ``whole``, as with ``members=[member]``."""
        return MEIProblem(self.whole, [list(group) for group in self.groups], self.settings, members=[member])

    def begun_from(self, numbers: Sequence[int], initial: InitialStimuli, search: Search) -> "MEIProblem":
        """The same for some of its neurons, by their numbers, from other initial stimuli and with another search.

        Raises:
            ValueError: if there are no initial stimuli for these neurons, or nothing can begin from any.
        """
        other = self._changed(initial=initial, search=search, restarts=None, max_steps=None)
        other.groups = [self.groups[number] for number in numbers]
        other.labels = [self.labels[number] for number in numbers]
        other.objective = self.objective.for_rows(numbers)
        other.search = _search(other.settings, self.model, self.space.parameterization)
        other.check_starting_points()
        return other

    def _changed(self, **settings: Any) -> "MEIProblem":
        other = copy(self)
        for name in ("starts", "configuration", "description"):
            other.__dict__.pop(name, None)
        # What the effort is has been told already.
        other.settings = replace(self.settings, **settings, effort=None)
        return other

    def check_starting_points(self) -> None:
        """Raise a ValueError if there are no initial stimuli for the neurons, or nothing can begin from any."""
        self.initial.check(self.labels, self.shape)
        self.initial.check_model(self.model.name, self.weights_digest)
        parameterization = self.space.parameterization
        if parameterization is None or parameterization.finds_parameters or type(self.initial) is WhiteNoise:
            return
        raise InvalidValueError(
            f"initial={self.initial!r}: {parameterization!r} has no parameters for given stimuli. Leave initial out."
        )

    @cached_property
    def configuration(self) -> Configuration:
        """All settings that determine the results, as JSON can hold them."""
        settings, parameterization, fast_path = self.settings, self.space.parameterization, self.settings.fast_path
        gradient_filter = settings.gradient_filter
        beginning = self.initial.configuration(self.labels)
        return Configuration(
            {
                "model": self.model.name,
                "weights_digest": self.weights_digest,
                "members": self.members,
                "neurons": self.labels,
                "time_steps": self.time_steps,
                "constraint": Setting.of(self.space.constraint),
                "reducer": Setting.of(self.reducer),
                **({} if type(self.objective) is NeuronObjective else {"objective": Setting.of(self.objective)}),
                **({} if isinstance(fast_path, bool) else {"fast_path": fast_path}),
                "regularizer": Setting.of(settings.regularizer),
                **({} if parameterization is None else {"parameterization": Setting.of(parameterization)}),
                "optimizer": Setting.of(settings.example_of_optimizer()),
                **({} if gradient_filter is None else {"gradient_filter": Setting.of(gradient_filter)}),
                **(
                    {}
                    if beginning == as_data(WhiteNoise())
                    else {"initial": Setting(beginning, self.initial.describe(self.labels))}
                ),
                **({"robustness": Setting.of(list(settings.robustness))} if settings.robustness else {}),
                **self._configuration_of_search(),
                "seed": settings.seed,
                "mei_lightning": __version__,
            }
        )

    def _configuration_of_search(self) -> dict[str, Any]:
        search = self.search
        facts = {
            "restarts": search.starts,
            "finalists": search.keep,
            "shifts": self.shifts,
            "max_steps": search.max_steps,
        }
        usual = isinstance(search, MultiStart) and search == MultiStart(
            search.starts, search.keep, max_steps=search.max_steps, shifts=search.shifts
        )
        return facts if usual else {**facts, "search": Setting.of(search)}

    @cached_property
    def description(self) -> xr.Dataset:
        """Coordinates and attributes of the results."""
        assert self.space.constraint is not None
        return describe_results(
            self.model,
            self.groups,
            self.time_steps,
            self.search.starts,
            self.objective,
            self.configuration,
            self.space.constraint.channel_ranges(),
        )

    @property
    def summary(self) -> dict[str, Any]:
        """The configuration with the first few neurons only, for people."""
        return {**self.configuration, "neurons": first_few(self.labels)}


def _groups(model: RetinaModel, neurons: Neurons) -> list[tuple[Neuron, ...]]:
    if isinstance(neurons, str) and neurons == "all":
        neurons = NeuronSelection()
    groups = groups_of(neurons.of(model) if isinstance(neurons, NeuronSelection) else neurons, sessions_of(model))
    if not groups:
        form, has = "(session, index)", str(model.neurons_per_session)
        if not model.has_sessions:
            form, has = "an index", f"{sum(model.neurons_per_session.values())} neurons"
        raise InvalidValueError(
            f"neurons is empty: name at least one, as {form}, or say 'all'. Model '{model.name}' has {has}."
        )
    for group in groups:
        for neuron in group:
            model.check_session(neuron.session)
            check_neuron_indices([neuron.index], model.neurons_per_session[neuron.session or ""], neuron.session)
    labels = pd.Series([group_label(group) for group in groups])
    if labels.duplicated().any():
        raise InvalidValueError(
            f"Neuron {labels[labels.duplicated()].iloc[0]} is named twice; use restarts for several stimuli."
        )
    return groups


def _space(settings: MEISettings, model: RetinaModel, time_steps: int) -> StimulusSpace:
    shape = model.stimulus_shape(time_steps)
    constraint = settings.constraint or _norm_and_range(settings, shape[1:])
    parameterization = settings.parameterization
    if parameterization is not None:
        parameterization = parameterization.for_stimuli(shape, model.stimulus_format)
    return StimulusSpace(constraint, parameterization)


def _norm_and_range(settings: MEISettings, shape: Sequence[int]) -> NormAndRange:
    """The constraint of norm, ranges and mask, for stimuli ``[channels, time, height, width]``."""
    mask = settings.mask
    assert mask is None or isinstance(mask, Tensor)
    free = math.prod(shape) if mask is None else free_entries(mask, shape)
    norm, ranges = settings.norm_of(free), _ranges(settings.ranges, channels=shape[0])
    constraint = NormAndRange(norm, ranges, mask=mask)
    if settings.norm is None and settings.rms is None:
        _warn_of_ranges_without_middle(ranges or [], norm)
    return constraint


def _warn_of_ranges_without_middle(ranges: ChannelRanges, norm: float) -> None:
    for pair in ranges:
        low, high = pair or (None, None)
        if (low is not None and low >= 0) or (high is not None and high <= 0):
            rank_zero_warn(
                f"ranges: {pair} has no values on both sides of 0, from which norms are measured: 0 is taken for the "
                f"model's grey, and the norm is {norm:.3g} by default. If the network sees images in other units, let "
                "it convert them, as 127.5 + 127.5 * stimulus does with ranges=(-1, 1); if not, give the norm."
            )
            return


def _ranges(ranges: Any, channels: int) -> ChannelRanges | None:
    """One pair for each channel, also from a single one, whose two limits are numbers or None."""
    return [ranges] * channels if isinstance(ranges, tuple) else ranges


def _time_steps(model: RetinaModel, time_steps: int | None) -> int:
    facts = model.stimulus_format
    if time_steps is None:
        return default_time_steps(facts)
    if facts.is_still and time_steps != 1:
        raise InvalidValueError(f"time_steps={time_steps}: model '{model.name}' sees still images, of 1 frame.")
    if time_steps <= facts.frames_lost:
        raise InvalidValueError(
            f"time_steps={time_steps} leaves no response: model '{model.name}' needs more than "
            f"{facts.frames_lost} frames."
        )
    return time_steps


def _search(settings: MEISettings, model: RetinaModel, parameterization: Parameterization | None) -> Search:
    """How the best stimulus is searched for, with what the settings say of it."""
    search = settings.search
    optimizer = settings.example_of_optimizer()
    can_begin = begins_row_by_row(optimizer)
    can_begin &= parameterization is None or parameterization.finds_parameters
    can_shift = can_begin and not model.stimulus_format.is_still
    if isinstance(search, Search):
        if search.shifts and not can_shift:
            raise InvalidValueError(
                f"search={search!r}: there is nothing to shift in a still image, and shifts need an optimizer whose "
                "rows can begin one by one, and a parameterization that finds the parameters of a stimulus. "
                "Give shifts=()."
            )
        if search.averages and not can_begin:
            raise InvalidValueError(
                f"search={search!r}: averages need an optimizer whose rows can begin one by one, and a "
                "parameterization that finds the parameters of a stimulus. Give averages=0."
            )
        return search if settings.max_steps is None else _with_max_steps(search, settings.max_steps)
    named = SEARCHES_WITHOUT_SHIFTS[search]
    # Who says how many starts there shall be gets these and no others.
    if isinstance(optimizer, RowOptimizer) and settings.restarts is None and can_begin:
        named = (SEARCHES_OF_IMAGES if model.stimulus_format.is_still else SEARCHES)[search]
    starts = named.starts if settings.restarts is None else settings.restarts
    max_steps = named.max_steps if settings.max_steps is None else settings.max_steps
    return replace(named, starts=starts, keep=min(starts, named.keep), max_steps=max_steps)


def _with_max_steps(search: Search, max_steps: int) -> Search:
    changed = copy(search)
    # Some are frozen.
    object.__setattr__(changed, "max_steps", max_steps)
    return changed


def _check_reducer(reducer: Reducer, frames: int) -> None:
    reduced = reducer.forward(torch.zeros(frames, 2))
    if reduced.shape != (2,):
        raise InvalidValueError(
            f"{reducer!r} turned responses of shape (time', 2) into {tuple(reduced.shape)}, not (2,): a reducer "
            "reduces the time axis, which is axis 0."
        )
